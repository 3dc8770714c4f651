"""Text readers and the writer: every record once for any block size, dirty bytes, and refusals."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import Collected, batches, origins, read_all

import mr.formats.blocks
from mr.batch import with_kind
from mr.errors import PlanError, RecordError
from mr.formats.binary import BinaryFileReader
from mr.formats.text import TextFileReader, TextReader, TextWriter

VALUES = with_kind(pa.schema([("value", pa.large_string())]), "values")
dirty = st.lists(st.sampled_from(["a", "bcd", "\n", "\r\n", "é", "\u2028", "\x85", "\ufeff"])).map("".join)


@given(dirty, st.integers(1, 9), st.integers(1, 9))
def test_each_line_once_for_any_block_size(text: str, block: int, returns: int) -> None:
    data = ("x" + text).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mr.formats.blocks, "READ_BLOCK_BYTES", block)
        found = batches(TextReader(include_offset=True), data, returns_bytes=returns)
        uneven = batches(TextReader(include_offset=True), data)
    lines = [line.removesuffix("\r") if i else line for i, line in enumerate(reversed(("x" + text).split("\n")))][::-1]
    assert [t for b in found for t in b.data["text"].to_pylist()] == lines[: None if lines[-1] else -1]
    assert [o for b in found for o in b.data["offset"].to_pylist()] == [o for o, _ in origins(found)]
    assert [n for _, n in origins(found)] == list(range(len(origins(found))))
    for offset, _ in origins(found):
        assert offset == 0 or data[offset - 1 : offset] == b"\n"
    again = pa.Table.from_batches([b.data for b in uneven])
    assert pa.Table.from_batches([b.data for b in found]).to_pylist() == again.to_pylist()


def test_batches_do_not_depend_on_how_the_file_system_returned_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mr.formats.blocks, "READ_BLOCK_BYTES", 10)
    data = b"ab\ncdefg\n\nhi\njklmnopqrstuvwxyz\n1\n2"
    cuts = [[b.rows for b in batches(TextReader(), data, returns_bytes=n)] for n in (1, 3, 7, 100)]
    assert cuts == [cuts[0]] * 4
    assert len(cuts[0]) > 2


def test_byte_order_mark_belongs_to_no_line_and_only_begins_a_file() -> None:
    data = b"\xef\xbb\xbfone\ntwo\n"
    found = batches(TextReader(), data)
    assert found[0].data.column(0).to_pylist() == ["one", "two"]
    assert origins(found) == [[3, 0], [7, 1]]
    assert read_all(TextReader(), data, offset=100) == ["\ufeffone", "two"]


def test_extra_columns() -> None:
    reader = TextReader(include_path=True, include_offset=True)
    rows = read_all(reader, b"a\nbc\n", path="x.log", offset=100)
    assert rows == [("a", "x.log", 100), ("bc", "x.log", 102)]
    assert read_all(reader, b"a\n", columns=("offset",)) == [(0,)]
    assert batches(reader, b"a\nb\n", columns=())[0].rows == 2
    assert batches(reader, b"a\n")[0].data.schema.equals(reader.schema(), check_metadata=True)


@pytest.mark.parametrize(("errors", "expected"), [("replace", ["a", "b\ufffdc", "d"]), ("ignore", ["a", "bc", "d"])])
def test_bytes_that_are_not_utf8(errors: str, expected: list[str]) -> None:
    assert read_all(TextReader(encoding_errors=errors), b"a\nb\xffc\nd") == expected


def test_strict_rejects_the_line_alone() -> None:
    rejects = Collected()
    found = batches(TextReader(encoding_errors="strict"), b"a\nb\xffc\nd", rejects)
    assert [b.data.column(0).to_pylist() for b in found] == [["a", "d"]]
    assert origins(found) == [[0, 0], [6, 2]]
    assert (rejects.origins, rejects.raws) == ([[2, 1]], [b"b\xffc"])
    assert "byte 1" in rejects.errors[0]


def test_other_encodings_and_delimiters() -> None:
    assert read_all(TextReader(encoding="latin-1"), "é\nü".encode("latin-1")) == ["é", "ü"]
    assert read_all(TextReader(encoding="euc-kr"), "한\n국".encode("euc-kr")) == ["한", "국"]
    reader = TextReader(delimiter="--")
    assert reader.cut == "file"
    assert TextReader().cut == "lines"
    assert read_all(reader, b"a---b--\n--") == ["a", "-b", "\n"]


def test_long_record_is_an_error_that_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mr.formats.blocks, "READ_BLOCK_BYTES", 4)
    monkeypatch.setattr(mr.formats.blocks, "RECORD_BYTES_MAX", 8)
    for reader, data in (
        (TextReader(delimiter="-"), b"ab-cdefghijklmnop-"),
        (TextReader(), b"ab\ncdefghijklmnop\n"),
        (TextReader(record_start="[ac]"), b"ab\ncdefghij\nklmnop\n"),
    ):
        with pytest.raises(RecordError, match=r"a record is longer than 8 bytes"):
            read_all(reader, data, offset=100)
        rejects = Collected()
        assert read_all(reader, data, rejects, offset=100) == ["ab"]
        assert rejects.origins == [[3, 1]]


FRAMES = [{"delimiter": "\n"}, {"delimiter": "-"}, {"delimiter": "--"}, {"delimiter": "-a-"}, {"record_start": "a|-b"}]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "-", "\n", "--", "\n-", "bbbbb\n"])), st.integers(1, 4), st.sampled_from(FRAMES)
)
def test_records_that_are_too_long_are_lost_alone(parts: list[str], block: int, options: dict[str, str]) -> None:
    data, number = "".join(parts).encode(), 0
    if "delimiter" in options:
        end = options["delimiter"].encode()
        records = [raw + end for raw in data.split(end)]
        records[-1:] = [records[-1].removesuffix(end)] if records[-1] != end else []
    else:
        starts = [match.start() for match in re.finditer(b"^(?:a|-b)", data, re.MULTILINE)]
        bounds = [*dict.fromkeys([0, *starts, len(data)])]
        end, records = b"", [data[low:high] for low, high in pairwise(bounds)]
    kept, lost, at = [], [], 0
    for raw in records:
        text = raw.removesuffix(end)
        if len(text) > 7:
            lost.append(([at, number], text[:7]))
        else:
            kept.append(([at, number], (text if end else text.rstrip(b"\n")).decode()))
        at, number = at + len(raw), number + (1 if end else raw.count(b"\n"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mr.formats.blocks, "READ_BLOCK_BYTES", block)
        patch.setattr(mr.formats.blocks, "RECORD_BYTES_MAX", 7)
        patch.setattr(mr.formats.blocks, "REJECT_RAW_BYTES_MAX", 7)
        rejects = Collected()
        found = batches(TextReader(**options), data, rejects)
    assert [*zip(rejects.origins, rejects.raws, strict=True)] == lost
    texts = [text for batch in found for text in batch.data.column(0).to_pylist()]
    assert [*zip(origins(found) if found else [], texts, strict=True)] == kept


@pytest.mark.parametrize("before", range(6))
@pytest.mark.parametrize("options", [{"delimiter": "-"}, {"record_start": "[a-z]"}])
def test_how_long_a_record_may_be_does_not_depend_on_where_it_lies(
    before: int, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that ended in the block in which it became too long was let through."""
    monkeypatch.setattr(mr.formats.blocks, "READ_BLOCK_BYTES", 4)
    monkeypatch.setattr(mr.formats.blocks, "RECORD_BYTES_MAX", 8)
    reader, end = TextReader(**options), b"-" if "delimiter" in options else b"\n"
    data = b"a" * before + end + b"b" * 7 + end + b"c" + end
    assert read_all(reader, data)[-2:] == ["b" * 7, "c"]
    rejects = Collected()
    found = read_all(reader, b"a" * before + end + b"b" * 9 + end + b"c" + end, rejects, offset=100)
    assert found == ["a" * before, "c"]
    assert rejects.origins[0][0] == before + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "utf-16"}, "convert the files to UTF-8"),
        ({"encoding": "klingon"}, "unknown"),
        ({"encoding_errors": "maybe"}, "replace, strict, ignore"),
        ({"delimiter": ""}, "read_text_files"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        TextReader(**options)


def test_whole_files() -> None:
    assert read_all(TextFileReader(), b"\xef\xbb\xbfa\r\nb", path="p") == [("p", "a\r\nb")]
    assert read_all(BinaryFileReader(), b"\xef\xbb\xbf\0", path="p") == [("p", b"\xef\xbb\xbf\0")]
    assert read_all(BinaryFileReader(), b"abc", path="p", columns=("path",)) == [("p",)]
    rejects = Collected()
    assert read_all(TextFileReader(encoding_errors="strict"), b"\xff", rejects) == []
    assert rejects.raws == [b"\xff"]


def written(values: list[Any], cuts: int) -> bytes:
    out = io.BytesIO()
    parts = [values[i : i + cuts] for i in range(0, len(values), cuts)]
    made = (pa.record_batch([pa.array(part, pa.large_string())], schema=VALUES) for part in parts)
    assert TextWriter().write(made, VALUES, out) == len(values)
    return out.getvalue()


@pytest.mark.parametrize("cuts", [1, 2, 5])
def test_written_lines(cuts: int) -> None:
    assert written(["a", "", "é", "x y"], cuts) == "a\n\né\nx y\n".encode()
    assert read_all(TextReader(), written(["a", "", "é"], cuts)) == ["a", "", "é"]


def test_lines_that_cannot_be_written() -> None:
    with pytest.raises(RecordError, match="newline") as caught:
        written(["a", "b\nc"], 1)
    assert caught.value.row == 1
    with pytest.raises(RecordError, match="null"):
        written(["a", None], 2)
    with pytest.raises(PlanError, match="2 columns"):
        TextWriter().check(pa.schema([("a", pa.large_string()), ("b", pa.large_string())]))
    with pytest.raises(PlanError, match="'n' is int"):
        TextWriter().check(pa.schema([("n", pa.int64())]))


def test_a_record_goes_from_one_start_to_the_next_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = ["junk", *(f"{2000 + i} entry {i}" + "\n  at x" * (i % 4) for i in range(50))]
    text = "\n".join(entries).encode()
    for size in (7, 64, 1 << 20):
        monkeypatch.setattr(mr.formats.blocks, "READ_BLOCK_BYTES", size)
        found = batches(TextReader(record_start=r"\d{4} "), text)
        assert [value for batch in found for value in batch.data.column(0).to_pylist()] == entries
        assert all(line == text[:offset].count(b"\n") for offset, line in origins(found))


def test_what_becomes_data_is_part_of_the_identity() -> None:
    assert not TextReader().uses_place
    assert TextReader(include_path=True).uses_place
    assert TextReader(include_offset=True).uses_place
    assert TextFileReader().uses_place
    assert BinaryFileReader().uses_place
