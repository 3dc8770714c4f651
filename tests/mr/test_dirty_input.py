"""Damaged, hostile and vanishing input: the right records, or an error that names the file; never fewer in silence."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import socket
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

import mr
import mr.decoding
import mr.formats.blocks
import mr.pieces
from mr.decoding import decoded
from mr.errors import CorruptInput, InputError
from mr.formats.arrow import ArrowReader
from mr.formats.parquet import ParquetReader
from mr.formats.text import TextReader
from mr.kernels.rows import to_python
from mr.pieces import OpenedPiece
from mr.storage import list_files, stamp_of
from mr.tasks import PieceRef
from tests.mr.pieces import Collected

LINES = [f"line {n} {n * 7919 % 10_007}" for n in range(40)]
TEXT = "".join(f"{line}\n" for line in LINES).encode()


def zstd(data: bytes) -> bytes:
    """One frame with a checksum, as the command line writes; pyarrow's has none, and a flipped literal passes."""
    frame = bytearray(pa.compress(data, codec="zstd", asbytes=True))
    frame[4] |= 4  # Content_Checksum_flag, RFC 8878 3.1.1.1.1
    return bytes(frame) + (xxhash.xxh64_intdigest(data) & 0xFFFFFFFF).to_bytes(4, "little")


CODECS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: mr.Session) -> Path:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"


def mutations(data: bytes, every: int) -> Iterator[bytes]:
    """Every `every`-th byte flipped, and every `every`-th cut."""
    for i in range(0, len(data), every):
        yield data[:i] + bytes([data[i] ^ (1 << (i // every % 8))]) + data[i + 1 :]
        yield data[:i]


# --- compression ------------------------------------------------------------------------------------------------------


def content(codec: str, data: bytes) -> bytes:
    return b"".join(decoded(codec, io.BytesIO(data), f"in/x.{codec}", len(data), 97))


@pytest.mark.parametrize("codec", CODECS)
def test_a_damaged_compressed_file_is_an_error_or_gives_all_it_holds(codec: str) -> None:  # F44
    first, second = CODECS[codec](TEXT[:200]), CODECS[codec](TEXT[200:])
    for whole, wanted in ((first, TEXT[:200]), (first + second, TEXT)):
        assert content(codec, whole) == wanted
        errors = []
        for damaged in mutations(whole, 3):
            if damaged == first:
                continue  # cut between two members: nothing says that there was another
            try:
                assert content(codec, damaged) == wanted
            except CorruptInput as error:
                errors.append(error)
        assert len(errors) > len(whole) / 3
        for error in errors:
            assert str(error).startswith(f"in/x.{codec}, byte {error.offset}: the {codec} data is corrupt")


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_behind_the_last_member_is_an_error_unless_it_is_padding(codec: str) -> None:  # F44
    whole = CODECS[codec](TEXT)
    for garbage in (b"x", b"garbage behind the end", b"\0\0x", whole[:9], b"\xff" + whole[1:]):
        with pytest.raises(CorruptInput):
            content(codec, whole + garbage)
    with pytest.raises(CorruptInput, match="corrupt or cut short"):
        content(codec, b"")
    if codec != "zstd":
        assert content(codec, whole + b"\0" * 512) == TEXT


def test_a_compressed_file_gives_at_most_what_the_limits_allow(monkeypatch: pytest.MonkeyPatch) -> None:  # F55
    bombs = {codec: pack(b"\0" * 3_000_000) for codec, pack in CODECS.items()}
    monkeypatch.setattr(mr.decoding, "DECOMPRESSED_FREE_BYTES", 1_000_000)
    monkeypatch.setattr(mr.decoding, "DECOMPRESSED_RATIO_MAX", 50)
    for codec, bomb in bombs.items():
        given: list[bytes] = []
        with pytest.raises(CorruptInput, match=f"x.{codec}.*more than 1,000,000 bytes.*bomb"):
            given.extend(decoded(codec, io.BytesIO(bomb), f"x.{codec}", len(bomb), 1 << 16))
        assert 900_000 < len(b"".join(given)) <= 1_000_000
    monkeypatch.setattr(mr.decoding, "DECOMPRESSED_RATIO_MAX", 10**9)
    monkeypatch.setattr(mr.decoding, "DECOMPRESSED_BYTES_MAX", 2_000_000)
    with pytest.raises(CorruptInput, match="more than 2,000,000 bytes"):
        content("gzip", bombs["gzip"])
    monkeypatch.setattr(mr.decoding, "XZ_MEMORY_BYTES_MAX", 1 << 20)
    with pytest.raises(CorruptInput, match=r"[Mm]emory"):
        content("xz", lzma.compress(TEXT, preset=9))


def test_an_error_of_the_disk_is_no_damage_of_the_file() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    for codec in CODECS:
        with pytest.raises(OSError, match="Input/output"):
            list(decoded(codec, Broken(), "x", 10, 10))


# --- Parquet ----------------------------------------------------------------------------------------------------------


def parquet_bytes() -> tuple[bytes, list[Any]]:
    table = pa.table({"n": list(range(50)), "s": [LINES[i % 7] if i % 5 else None for i in range(50)]})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=20, write_page_checksum=True, compression="zstd")
    return sink.getvalue(), list(zip(*table.to_pydict().values(), strict=True))


def test_a_damaged_parquet_file_is_an_error_or_gives_all_it_holds(tmp_path: Path) -> None:  # F44
    data, wanted = parquet_bytes()
    pinned = pa.schema([("n", pa.int64()), ("s", pa.large_string())])
    path, errors, count = tmp_path / "x.parquet", [], 0
    headers = (data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :] for i in range(60, 110))  # of pages, which have no CRC
    for damaged in (*mutations(data, 19), *headers):
        path.write_bytes(damaged)
        count += 1
        piece = OpenedPiece(PieceRef(str(path), 0, len(damaged)))
        try:
            batches = list(ParquetReader(pinned).read(piece, lambda *_: None, None, False))
            found = [tuple(row) for batch in batches for row in to_python(batch.data)]
            assert found == wanted
        except InputError as error:
            errors.append(str(error))
    assert len(errors) > count / 3
    assert all(str(path) in error for error in errors)


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_a_damaged_arrow_file_is_an_error_or_has_as_many_rows(tmp_path: Path, kind: str) -> None:  # F44
    """The format has no checksums: a flipped bit in a value is another value. Offsets and text are looked at."""
    table = pa.table({"n": list(range(50)), "s": pa.array([LINES[i % 7] for i in range(50)], pa.large_string())})
    sink = io.BytesIO()
    with (pa.ipc.new_file if kind == "file" else pa.ipc.new_stream)(sink, table.schema) as writer:
        writer.write_table(table, 20)
    data, path, pinned = sink.getvalue(), tmp_path / "x.arrow", table.schema
    sizes = ArrowReader(pinned).group_bytes(io.BytesIO(data), "x")
    errors = []
    for damaged in mutations(data, 29):
        path.write_bytes(damaged)
        piece = OpenedPiece(PieceRef(str(path), 0, len(damaged), row_groups=tuple(range(len(sizes)))))
        try:
            rows = sum(batch.rows for batch in ArrowReader(pinned).read(piece, lambda *_: None, None, False))
            assert rows == 50 or (kind == "stream" and len(damaged) < len(data)), "a stream may end anywhere"
        except InputError as error:
            errors.append(str(error))
    assert len(errors) > 20
    assert all(str(path) in error for error in errors)


# --- what is left out -------------------------------------------------------------------------------------------------


def test_the_rest_of_a_damaged_file_is_one_reject_with_its_offset(folder: Path) -> None:  # F44
    """A crawl with some broken files: what came before the damage stays, the others are read."""
    for name in ("a", "b", "c"):
        (folder / f"{name}.txt.gz").write_bytes(gzip.compress(TEXT))
    (folder / "b.txt.gz").write_bytes(gzip.compress(TEXT[:100]) + b"broken")
    with pytest.raises(mr.JobFailed, match=r"in/b\.txt\.gz, byte 100: the gzip data is corrupt"):
        mr.read_text("in").count()
    lines = mr.read_text("in", on_error="quarantine")
    (bad,) = lines.rejected().take_all()
    assert (bad.path, bad.offset, bad.line, bad.operator, bad.raw) == ("in/b.txt.gz", 100, None, "read_text", b"")
    assert bad.error.startswith("the gzip data is corrupt or cut short")
    assert "b.txt" not in bad.error, "equal content has equal rejects, wherever it lies"
    kept = mr.read_text("in", on_error="skip").take_all()
    whole = TEXT[:100].decode().splitlines()[:-1]
    assert kept == [*LINES, *whole, *LINES], "what came before the damage, but no half line"
    for most, fails in ((1, False), (0, True), (0.5, False), (0.001, True)):
        limited = mr.read_text("in", on_error="skip", max_bad_records=most)
        if fails:
            with pytest.raises(mr.JobFailed, match="read_text rejected 1 of"):
                limited.count()
        else:
            assert limited.count() == 80 + len(whole)
    result = mr.read_text("in", on_error="skip").write_json("out")
    assert dict(result.counters) == {"damaged files": 1, "rejected records": 1}


def test_damaged_parquet_files_are_left_out_also_where_they_cannot_be_planned(folder: Path) -> None:
    data, rows = parquet_bytes()
    (folder / "a.parquet").write_bytes(data)
    (folder / "b.parquet").write_bytes(data[:-9])  # no footer: its row groups are not known
    broken = bytearray(data)
    chunk = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(1).column(0)
    broken[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    (folder / "c.parquet").write_bytes(broken)
    with pytest.raises((InputError, mr.JobFailed), match=r"in/b\.parquet"):
        mr.read_parquet("in").count()
    found = mr.read_parquet("in", on_error="quarantine")
    assert [(r.path, r.operator) for r in found.rejected().take_all()] == [
        ("in/b.parquet", "read_parquet"),
        ("in/c.parquet", "read_parquet"),
    ]
    assert mr.read_parquet("in", on_error="skip").take_all() == rows + rows[:20]


def broken_files() -> dict[str, tuple[Callable[..., mr.Dataset], dict[str, bytes], list[Any], int]]:
    """Reader, files of which the first is broken, what is left, and how many rejects there are."""
    csv, lines = b"n,s\n1,a\n2,b\n", b'{"n": 1, "s": "a"}\n{"n": 2, "s": "b"}\n'
    rows = [(1, "a"), (2, "b")]
    sink = io.BytesIO()
    pq.write_table(pa.table({"n": [1, 2], "s": ["a", "b"]}), sink)
    parquet, sink = sink.getvalue(), io.BytesIO()
    with pa.ipc.new_file(sink, pa.schema([("n", pa.int64()), ("s", pa.string())])) as writer:
        writer.write_table(pa.table({"n": [1, 2], "s": ["a", "b"]}))
    zipped = gzip.compress(csv)
    return {
        "csv.gz without its header": (mr.read_csv, {"a.csv.gz": b"garbage", "b.csv": csv}, rows, 1),
        "csv.gz cut short": (mr.read_csv, {"a.csv.gz": zipped[:-8], "b.csv": csv}, [*rows, *rows], 1),
        "csv of bytes": (mr.read_csv, {"a.csv": b"\x89PNG\xff\0,n", "b.csv": csv}, rows, 1),
        "two": (mr.read_csv, {"a.csv.gz": b"garbage", "b.csv": b"\xff\n", "c.csv": csv}, rows, 2),
        "alone": (mr.read_csv, {"a.csv.gz": gzip.compress(b"n,s\n1,1\n2,2\n3,-5\n", 0)[:-10]}, [(1, 1), (2, 2)], 1),
        "json": (mr.read_json, {"a.json": b"\n[1]\nx\n", "b.json": lines}, rows, 2),
        "json.gz": (mr.read_json, {"a.json.gz": b"garbage", "b.json": lines}, rows, 1),
        "parquet": (mr.read_parquet, {"a.parquet": parquet[:-9], "b.parquet": parquet}, rows, 1),
        "arrow": (mr.read_arrow, {"a.arrow": b"ARROW1\0\0garbage", "b.arrow": sink.getvalue()}, rows, 1),
    }


@pytest.mark.parametrize("case", broken_files())
def test_where_the_first_file_is_broken_the_next_one_gives_the_schema(case: str, folder: Path) -> None:  # F44
    read, files, rows, rejects = broken_files()[case]
    for name, data in files.items():
        (folder / name).write_bytes(data)
    first = min(files)
    with pytest.raises(InputError, match=rf"in/{first}"):
        read("in")
    found = read("in", on_error="quarantine")
    assert read("in", on_error="skip").take_all() == rows
    assert found.schema().names == ["n", "s"]
    told = found.rejected().take_all()
    assert len(told) == rejects
    assert told[0].path == f"in/{first}"
    with pytest.raises(mr.JobFailed, match=f"rejected {rejects} of"):
        read("in", on_error="skip", max_bad_records=rejects - 1).count()


def test_where_all_files_are_broken_the_first_is_named(folder: Path) -> None:
    for name in ("b", "a"):
        (folder / f"{name}.json.gz").write_bytes(b"garbage")
        (folder / f"{name}.json").write_bytes(b"garbage")
    for pattern, named in (
        ("in/*.gz", r"in/a\.json\.gz, byte 0: the gzip"),
        ("in/*.json", r"in/a\.json, byte 0: no l"),
    ):
        for policy in ("fail", "skip"):
            with pytest.raises(InputError, match=named):
                mr.read_json(pattern, on_error=policy)  # type: ignore[arg-type]
    declared = mr.read_json("in/*.json", schema={"n": int}, on_error="skip")
    assert declared.count() == 0


def test_another_header_is_an_error_whatever_becomes_of_bad_lines(folder: Path) -> None:
    """Its other splits would be read under the wrong names."""
    (folder / "a.csv").write_text("n,s\n1,2\n")
    (folder / "b.csv").write_text("s,n\n1,2\n")
    with pytest.raises(mr.JobFailed, match=r"in/b\.csv, line 1: the header is 's,n', but the columns are n,s"):
        mr.read_csv("in", on_error="skip").take_all()


def test_a_record_that_is_too_long_is_an_error_in_bounded_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # F45
    monkeypatch.setattr(mr.formats.blocks, "RECORD_BYTES_MAX", 1 << 20)
    with (folder / "a.txt").open("wb") as file:
        file.write(b"short\n")
        file.truncate(200 << 20)  # one line of 200 MB, which takes no room on the disk
    size = (folder / "a.txt").stat().st_size
    for compression in (None, "gzip"):
        path = folder / "a.txt"
        if compression:
            path = folder / "a.txt.gz"
            path.write_bytes(gzip.compress(b"short\n" + bytes(20 << 20), 1))
        piece = OpenedPiece(PieceRef(str(path), 0, path.stat().st_size if compression else size, compression))
        tracemalloc.start()
        rejects = Collected()
        for _ in TextReader().read(piece, rejects, None, False):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 40 << 20
        assert (rejects.origins, rejects.raws) == ([[6, 1]], [bytes(1000)])
        assert rejects.errors == ["a record is longer than 1048576 bytes; is this the right format?"]
        (folder / "a.txt.gz").unlink(missing_ok=True)
    with pytest.raises(mr.JobFailed, match=r"in/a\.txt, line 2, byte 6: a record is longer than 1048576 bytes"):
        mr.read_text("in").count()


@pytest.mark.parametrize("ending", ["\n", "", "\r\n"])
@pytest.mark.parametrize("block_bytes", [3, 16])
@pytest.mark.parametrize("split_bytes", [11, 1 << 20])
def test_only_the_record_that_is_too_long_is_lost(
    ending: str, block_bytes: int, split_bytes: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # F45
    """Of what ends with newlines, wherever blocks and splits end; one of just the limit is kept."""
    monkeypatch.setattr(mr.formats.blocks, "RECORD_BYTES_MAX", 30)
    monkeypatch.setattr(mr.formats.blocks, "REJECT_RAW_BYTES_MAX", 8)
    monkeypatch.setattr(mr.formats.blocks, "READ_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr("mr.inputs.LOCAL_SPLIT_BYTES", split_bytes)
    for name, head, line, read in (
        ("a.txt", "", "{}", mr.read_text),
        ("a.txt", "", "{}", lambda path, **policy: mr.read_text(path, include_path=True, **policy).map(lambda r: r[0])),
        ("a.csv", "s\n", "{}", lambda path, **policy: mr.read_csv(path, **policy).map(lambda r: r[0])),
        ("a.json", "", '{{"s":"{}"}}', lambda path, **policy: mr.read_json(path, **policy).map(lambda r: r[0])),
    ):
        room = 30 - len(line.format(""))
        texts = ["a", "b" * (room - 1), "c" * (room + 1), "d", "e" * 99, "f" * 31, "", "g" * room, "h" * 50]
        if name != "a.txt":
            texts.remove("")
        lines = [line.format(text) for text in texts]
        data = (head + (ending or "\n").join(lines) + ending).encode()
        (folder / name).write_bytes(data)
        kept = [text for text, whole in zip(texts, lines, strict=True) if len(whole + ending.strip("\n")) <= 30]
        assert read(f"in/{name}", on_error="skip").take_all() == kept
        with pytest.raises(mr.JobFailed, match=r"a record is longer than 30 bytes"):
            read(f"in/{name}").count()
        if read is mr.read_text:
            rejects = mr.read_text("in/a.txt", on_error="quarantine").rejected().take_all()
            long = [(n, whole) for n, whole in enumerate(lines, 1) if len(whole + ending.strip("\n")) > 30]
            assert [(row.line, row.raw.decode()) for row in rejects] == [(n, whole[:8]) for n, whole in long]
            assert [row.offset for row in rejects] == [data.index(whole.encode()) for _, whole in long]
        (folder / name).unlink()


def test_lines_behind_a_record_that_is_too_long_keep_their_numbers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mr.formats.blocks, "RECORD_BYTES_MAX", 30)
    monkeypatch.setattr(mr.formats.blocks, "READ_BLOCK_BYTES", 10)
    monkeypatch.setattr("mr.inputs.LOCAL_SPLIT_BYTES", 10)
    (folder / "a.txt").write_bytes(b"1\n" + b"x" * 60 + b"\nbad\n3\n4\n5\nbad\n")
    numbers = mr.read_text("in", on_error="skip").map(int, on_error="quarantine")
    assert [(r.line, r.raw) for r in numbers.rejected().take_all()] == [(3, b"bad"), (7, b"bad")]


def test_a_file_that_is_one_record_has_a_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mr.pieces, "FILE_RECORD_BYTES_MAX", 100)
    (folder / "a.bin").write_bytes(b"x" * 100)
    (folder / "b.bin").write_bytes(b"x" * 101)
    with pytest.raises(mr.JobFailed, match=r"in/b\.bin.*at most 100 bytes"):
        mr.read_binary_files("in").take_all()
    assert [row.path for row in mr.read_text_files("in", on_error="skip").take_all()] == ["in/a.bin"]


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.TGZ", "x.lz4", "x.7z"])
def test_archives_are_refused_by_readers_of_text_and_read_as_bytes(folder: Path, name: str) -> None:  # F55
    (folder / name).write_bytes(b"PK")
    for read in (mr.read_text, mr.read_csv, mr.read_json, mr.read_warc):
        with pytest.raises(InputError, match=rf"in/{name}: \.[a-z0-9.]+ files are not looked into; unpack"):
            read("in").take_all()
    assert [row.bytes for row in mr.read_binary_files("in").take_all()] == [b"PK"]


# --- text -------------------------------------------------------------------------------------------------------------


def test_text_that_was_mended_is_counted(folder: Path) -> None:
    (folder / "a.txt").write_bytes("é\nplain\n".encode() + b"caf\xe9\n\xff\xff\n")
    (folder / "b.txt").write_bytes(b"plain\n")
    assert mr.read_text("in").take_all() == ["é", "plain", "caf�", "��", "plain"]
    assert dict(mr.read_text("in").write_json("a").counters) == {"undecodable records": 2}
    assert dict(mr.read_text("in", encoding_errors="ignore").write_json("b").counters) == {"undecodable records": 2}
    assert dict(mr.read_text("in/b.txt").write_json("c").counters) == {}
    strict = mr.read_text("in", encoding_errors="strict", on_error="quarantine")
    assert [(r.line, r.raw) for r in strict.rejected().take_all()] == [(3, b"caf\xe9"), (4, b"\xff\xff")]
    assert mr.read_text("in", encoding_errors="strict", on_error="skip").take_all() == ["é", "plain", "plain"]


def test_lines_of_a_log_that_were_mended_are_counted(folder: Path) -> None:
    line = '{} - - [17/May/2015:12:05:03 +0200] "GET / HTTP/1.1" 200 12'.format
    (folder / "a.log").write_bytes(
        b"\n".join([line("a").encode(), line("é").encode(), line("\xe4").encode("latin-1"), b"\xff"])
    )
    hits = mr.read_access_log("in", format="common", on_error="skip")
    assert [row.host for row in hits.take_all()] == ["a", "é", "\ufffd"]
    assert dict(hits.write_json("a").counters)["undecodable records"] == 2


def test_rejected_bytes_can_be_written_as_text(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"ok\n\xff\\n\n")
    bad = mr.read_text("in", encoding_errors="strict", on_error="quarantine").rejected().select("raw")
    bad.write_json("bad.json")
    bad.write_csv("bad.csv")
    bad.write_parquet("bad.parquet")
    assert mr.read_json("bad.json").take_all() == mr.read_csv("bad.csv").take_all() == [("\\xff\\\\n",)]
    assert mr.read_parquet("bad.parquet").take_all() == [(b"\xff\\n",)]


@pytest.mark.parametrize("most", [-1, 1.5, True, float("nan")])
def test_what_cannot_be_a_budget(most: Any) -> None:
    with pytest.raises(mr.PlanError, match="max_bad_records"):
        mr.from_items(["1"]).map(int, on_error="skip", max_bad_records=most)


# --- what lies in a folder --------------------------------------------------------------------------------------------


def test_pipes_sockets_and_devices_never_hang_a_job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # F54
    (folder / "a.txt").write_text("a\n")
    os.mkfifo(folder / "pipe")
    with pytest.raises(InputError, match="in/pipe is neither a file nor a folder"):
        mr.read_text("in").take_all()
    (folder / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind("in/socket")
        with pytest.raises(InputError, match="in/socket is neither"):
            mr.read_text("in").take_all()
    (folder / "socket").unlink()
    (folder / "zero").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="in/zero is neither"):
        mr.read_text("in").take_all()
    (folder / "zero").unlink()
    piece = OpenedPiece(PieceRef("in/a.txt", 0, 2))  # planned; now a pipe stands there
    (folder / "a.txt").unlink()
    os.mkfifo(folder / "a.txt")
    with pytest.raises(InputError, match=r"in/a\.txt: is no longer a file"):
        piece.buffer()


def test_links_to_files_are_followed_and_links_to_folders_are_not(folder: Path, tmp_path: Path) -> None:  # F54
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.txt").write_text("x\n")
    (folder / "link.txt").symlink_to(tmp_path / "elsewhere" / "x.txt")
    assert mr.read_text("in").take_all() == ["x"]
    (tmp_path / "named").symlink_to(folder)
    assert mr.read_text("named").take_all() == ["x"], "what is named may be a link"
    (folder / "loop").symlink_to(folder)
    with pytest.raises(InputError, match="in/loop is a link to a folder"):
        mr.read_text("in").take_all()
    (folder / "loop").unlink()
    (folder / ".hidden").symlink_to(folder)
    assert [f.path for f in list_files("in")] == ["in/link.txt"]
    (folder / "self").symlink_to("self")
    with pytest.raises(InputError, match="in/self"):
        mr.read_text("in").take_all()


# --- what changes while a job runs ------------------------------------------------------------------------------------


def planned(path: Path) -> OpenedPiece:
    from blake3 import blake3

    data, info = path.read_bytes(), path.stat()
    return OpenedPiece(PieceRef(str(path), 0, len(data), stamp=stamp_of(info), digest=blake3(data).hexdigest()))


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("delete", "has changed since the job began|cannot be opened"),
        ("cut", "has become shorter since the job began"),
        ("replace", "has changed since the job began"),
        ("overwrite", "has changed since the job began"),
        ("append", ""),
        ("touch", ""),
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_a_local_input_that_changes_during_the_job(folder: Path, how: str, error: str, before: bool) -> None:  # F38
    """Before it is opened, or while it is read."""
    path = folder / "a.txt"
    path.write_bytes(TEXT * 100)
    piece = planned(path)

    def change() -> None:
        match how:
            case "delete":
                path.unlink()
            case "cut":
                os.truncate(path, 500)
            case "replace":
                (folder / "new").write_bytes(b"x" * len(TEXT) * 100)
                os.replace(folder / "new", path)
            case "overwrite":
                path.write_bytes(b"x" * len(TEXT) * 100)
            case "append":
                with path.open("ab") as file:
                    file.write(b"more\n")
            case "touch":
                os.utime(path, ns=(1, 1))

    def read() -> bytes:
        blocks = piece.blocks(1000)
        found = [next(blocks)] if not before else []
        change()
        found += blocks
        piece.check_unchanged()
        return b"".join(found)

    if error:
        with pytest.raises(InputError, match=error):
            read()
    else:
        assert read() == TEXT * 100


def test_a_file_behind_a_url_that_changes_during_the_job(monkeypatch: pytest.MonkeyPatch) -> None:  # F38
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/dirty/a.txt", b"a\n")
    (file,) = list_files("memory://dirty/a.txt")
    piece = OpenedPiece(PieceRef(file.path, 0, 2, stamp=file.stamp))
    assert piece.buffer().to_pybytes() == b"a\n"
    piece.check_unchanged()
    memory.pipe("/dirty/a.txt", b"changed\n")
    with pytest.raises(InputError, match=r"a\.txt: the file has changed since the job began"):
        piece.check_unchanged()
    memory.rm("/dirty", recursive=True)


def test_misfits_name_file_line_column_and_the_schema_entry_to_add(folder: Path) -> None:
    (folder / "a.csv").write_text("n,s\n1,a\n2,b\n")
    (folder / "b.csv").write_text("n,s\n1,a\n2.5,b\n")
    with pytest.raises(
        mr.JobFailed, match=r"in/b\.csv, line 3, byte 8: column 'n': '2.5' .* declare schema=\{'n': float\}"
    ):
        mr.read_csv("in").take_all()
    for path in folder.iterdir():
        path.unlink()
    (folder / "a.json").write_text('{"n": 1}\n')
    (folder / "b.json").write_text('{"n": 1}\n{"n": "x"}\n')
    with pytest.raises(mr.JobFailed, match=r"in/b\.json, line 2, byte 9: column 'n': \"x\" .* schema=\{'n': str\}"):
        mr.read_json("in").take_all()


def test_a_poison_record_is_left_out_of_every_operator_that_calls_python(folder: Path) -> None:
    (folder / "a.txt").write_text("1\nx\n3\n")

    def some(line: str) -> Iterator[int]:
        yield 0
        yield int(line)

    lines = mr.read_text("in")
    calls: list[tuple[Callable[[Any], mr.Dataset], list[Any]]] = [
        (lambda policy: lines.map(int, on_error=policy), [1, 3]),
        (lambda policy: lines.flat_map(some, on_error=policy), [0, 1, 0, 3]),
        (lambda policy: lines.filter(lambda line: int(line) > 1, on_error=policy), ["3"]),
    ]
    for made, kept in calls:
        (bad,) = made("quarantine").rejected().take_all()
        assert (bad.path, bad.offset, bad.line, bad.raw) == ("in/a.txt", 2, 2, b"x")
        assert bad.error == "ValueError: invalid literal for int() with base 10: 'x'"
        assert made("skip").take_all() == kept


# --- who is told ------------------------------------------------------------------------------------------------------


def test_an_action_tells_what_was_quarantined_for_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mr.inputs.LOCAL_SPLIT_BYTES", 8)
    (folder / "a.txt").write_text("1\n2\n3\n4\nx\n5\ny\n7\nz\n")
    numbers = mr.read_text("in").map(int, on_error="quarantine")
    for action in (numbers.take_all, numbers.count, numbers.materialize, numbers.show, numbers.filter(bool).take_all):
        with pytest.warns(mr.RecordsLeftOut) as told:
            action()
        (warning,) = told
        assert str(warning.message) == (
            "map int left 3 records out, the first at in/a.txt, line 5, byte 8: ValueError: invalid literal for int() "
            "with base 10: 'x'; call rejected() on its dataset to see them, or say on_error=\"skip\""
        )
        assert warning.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(numbers.rejected().take_all()) == 3
        assert numbers.take(1) == [1], "the task with the first bad record did not run"
        assert mr.read_text("in").map(int, on_error="skip").take_all() == [1, 2, 3, 4, 5, 7]
        assert mr.read_text("in/a.txt").map(len, on_error="quarantine").count() == 9


def test_an_action_tells_of_damaged_files_and_of_groups(folder: Path) -> None:
    (folder / "a.txt.gz").write_bytes(gzip.compress(TEXT))
    (folder / "b.txt.gz").write_bytes(gzip.compress(TEXT[:100]) + b"broken")
    lines = mr.read_text("in", on_error="quarantine")
    with pytest.warns(mr.RecordsLeftOut, match=r"read_text left 1 record out, the first at in/b\.txt\.gz, byte 100: "):
        lines.count()
    groups = mr.from_items([("a", 1), ("b", 0), ("b", 2)]).group_by("key")
    inverse = groups.map_groups(lambda key, rows: [1 // row.value for row in rows], on_error="quarantine")
    with pytest.warns(mr.RecordsLeftOut, match="left 2 records out, the first of them: ZeroDivisionError"):
        assert inverse.take_all() == [[1]]


def test_the_budget_holds_in_actions(folder: Path) -> None:
    (folder / "a.txt").write_text("1\nx\n3\ny\n")
    for policy in ("skip", "quarantine"):
        for most, fails in ((1, True), (0.4, True), (2, False), (0.5, False)):
            numbers = mr.read_text("in").map(int, on_error=policy, max_bad_records=most)  # type: ignore[arg-type]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for action in (numbers.take_all, numbers.count, numbers.materialize, numbers.show):
                    if fails:
                        with pytest.raises(mr.JobFailed, match=r"map int rejected 2 of 4 records"):
                            action()
                    else:
                        action()
