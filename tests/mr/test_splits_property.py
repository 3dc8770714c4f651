"""Each record exactly once, with its place, for any size of splits, blocks and reads, in every format made of lines."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pieces import Collected

import mr.formats.blocks
import mr.inputs
from mr.formats.access_log import AccessLogReader
from mr.formats.base import Reader
from mr.formats.csv import CsvReader
from mr.formats.jsonl import JsonReader
from mr.formats.text import TextReader
from mr.inputs import Range, splits_of
from mr.kernels.rows import to_python
from mr.pieces import OpenedPiece
from mr.plan import Read

TRICKY = "a,b\r\nCRLF,é€𝄞\n\n\r\n\rlone,\r\r\n \t blanks \n\u2028,\x85\x0b\x0c\x1c\nlast without an end".encode()
ROWS = pa.schema([("s", pa.large_string()), ("n", pa.int64())])


class Memo:
    def ranges_of(self, path: str, stamp: str) -> tuple[Range, ...] | None:
        return None

    def remember(self, path: str, stamp: str, ranges: tuple[Range, ...]) -> None:
        return None


@contextlib.contextmanager
def cut_at(split_bytes: int, block_bytes: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mr.inputs, "LOCAL_SPLIT_BYTES", split_bytes)
        patch.setattr(mr.inputs, "LOOKED_BYTES", block_bytes)
        patch.setattr(mr.inputs, "PACKED_FILE_BYTES_MAX", -1)
        patch.setattr(mr.formats.blocks, "READ_BLOCK_BYTES", max(3, block_bytes))  # a byte order mark, at least
        yield


@dataclass
class Found:
    """The records of a file with the byte offset and the line (from 0) of each, and the same for rejects."""

    records: list[Any] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    rejects: list[tuple[bytes, int, int]] = field(default_factory=list)
    pieces: int = 0


def read(reader: Reader, path: Path) -> Found:
    """All splits of a file, as its tasks would read them."""
    found, lines = Found(), 0
    for split in splits_of(Read(None, (str(path),), reader), Memo()):
        for ref in split.pieces:
            piece, rejects = OpenedPiece(ref, counts_lines=True), Collected()
            for batch in reader.read(piece, rejects, None, True):
                assert batch.origins is not None
                found.records += to_python(batch.data)
                found.places += [(piece.offset + at, lines + line) for at, line in batch.origins.tolist()]
            for raw, (at, line) in zip(rejects.raws, rejects.origins, strict=True):
                found.rejects.append((raw, piece.offset + at, lines + line))
            lines += piece.lines
            found.pieces += 1
    return found


def plain_lines(data: bytes) -> list[tuple[bytes, int, int]]:
    """Lines as Python finds them: (bytes, offset, number). A CR at the very end is of no CRLF."""
    body = data.removeprefix(b"\xef\xbb\xbf")
    start, found = len(data) - len(body), []
    *ended, last = body.split(b"\n")
    for number, line in enumerate(ended):
        found.append((line.removesuffix(b"\r"), start, number))
        start += len(line) + 1
    return [*found, (last, start, len(ended))] if last else found


text_bytes = st.one_of(
    st.text("ab,é€𝄞\r\n\u2028 ", max_size=60).map(str.encode),
    st.binary(max_size=60),
    st.lists(st.sampled_from([b"\r\n", b"\n", b"\r", b"a", "é".encode(), b"\xff", b"\xef\xbb\xbf"]), max_size=40).map(
        b"".join
    ),
)


@settings(max_examples=150, deadline=None)
@given(data=text_bytes, split=st.integers(1, 70), block=st.integers(3, 70))
@example(data=TRICKY, split=1, block=3)
@example(data=b"\xef\xbb\xbf" + TRICKY, split=2, block=3)
@example(data=b"\xef\xbb\xbf", split=1, block=3)
def test_lines_are_those_that_python_finds(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, split: int, block: int
) -> None:  # F45
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_bytes(data)
    expected = plain_lines(data)
    with cut_at(split, block):
        found = read(TextReader(), path)
        strict = read(TextReader(encoding_errors="strict"), path)
    assert found.records == [raw.decode(errors="replace") for raw, _, _ in expected]
    assert found.places == [(at, number) for _, at, number in expected]
    good = [line for line in expected if line[0].decode(errors="ignore").encode() == line[0]]
    assert [(record.encode(), *place) for record, place in zip(strict.records, strict.places, strict=True)] == good
    assert strict.rejects == [line for line in expected if line not in good]


LOG = '1.2.3.4 - é [10/Oct/2025:13:55:36 +0000] "GET /{} HTTP/1.1" 200 12 "-" "cürl"'
FORMATS: dict[str, tuple[Reader, bytes]] = {
    "text": (TextReader(), TRICKY * 3),
    "text, delimiter": (TextReader(delimiter="||"), "a|b||é||||c|\n||d|".encode() * 3),
    "text, record_start": (TextReader(record_start=r"\d"), "x\n1 é\r\n  more\n\n2\n3 last".encode() * 3),
    "csv": (CsvReader(ROWS), 's,n\r\né,1\n"q, ""r""",2\r\n\n,3\nbad\nx,y\n€,4'.encode()),
    "csv, quoted newlines": (CsvReader(ROWS, quoted_newlines=True), 's,n\n"é\r\n",1\n"\n\n",2\nx,y\n€,4'.encode()),
    "json": (
        JsonReader(ROWS),
        b"\n".join(json.dumps({"s": s, "n": n}, ensure_ascii=False).encode() for n, s in enumerate("é€𝄞ab\n\r"))
        + b"\r\nbad\n\n  \r\n"
        + b'{"n": 7}',
    ),
    "access log": (AccessLogReader(), "\r\n".join(LOG.format(n) if n % 3 else "bad é" for n in range(7)).encode()),
}


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "BOM"])
@pytest.mark.parametrize("name", FORMATS)
def test_no_size_of_splits_or_blocks_changes_a_record(tmp_path: Path, name: str, mark: bytes) -> None:  # F45
    reader, data = FORMATS[name]
    path = tmp_path / "x"
    path.write_bytes(mark + data)
    with cut_at(1 << 20, 1 << 20):
        whole = read(reader, path)
    assert whole.records
    pieces = set()
    for size in (*range(1, 16), 17, 23, 31, 50, 64, len(data) - 1, len(data), len(data) + 5):
        for block in (size, 1 + size * 7 % 13):
            with cut_at(size, block):
                found = read(reader, path)
            pieces.add(found.pieces)
            assert (found.records, found.places, found.rejects) == (whole.records, whole.places, whole.rejects)
    if reader.cut == "lines":
        assert max(pieces) > 3
    else:
        assert pieces == {1}


@pytest.mark.parametrize(
    ("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("zst", None)]
)
def test_no_size_of_blocks_or_members_changes_a_record_of_a_compressed_file(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes] | None
) -> None:  # F45
    packed = pack or (lambda data: pa.compress(data, codec="zstd", asbytes=True))
    for name, (reader, data) in FORMATS.items():
        path = tmp_path / "x"
        path.write_bytes(data)
        with cut_at(1 << 20, 1 << 20):
            whole = read(reader, path)
        for size in (1, 2, 3, 5, 8, 13, 40, len(data)):
            path = tmp_path / f"x.{ending}"
            path.write_bytes(b"".join(packed(data[i : i + size * 9]) for i in range(0, len(data), size * 9)))
            with cut_at(size, size):
                found = read(reader, path)
            assert found.pieces == 1, name
            assert (found.records, found.places, found.rejects) == (whole.records, whole.places, whole.rejects), name
