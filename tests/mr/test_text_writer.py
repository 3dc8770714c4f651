"""The writer of lines against plain Python: any strings, however they come in batches and lie in their buffers."""

from __future__ import annotations

import io

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mr.errors import RecordError
from mr.formats import text
from mr.formats.text import TextWriter

LINES = st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=("Cs",)), max_size=6), max_size=40)


def written(batches: list[pa.RecordBatch]) -> bytes:
    out = io.BytesIO()
    TextWriter().write(iter(batches), pa.schema([("value", pa.large_string())]), out)
    return out.getvalue()


def column(values: list[str | None]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(values, pa.large_string())], names=["value"])


@given(lines=LINES, start=st.integers(0, 5), cut=st.integers(0, 40), block_bytes=st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_lines_are_joined_as_python_joins_them(lines: list[str], start: int, cut: int, block_bytes: int) -> None:
    whole = column(lines).slice(start)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_WRITE_BLOCK_BYTES", block_bytes)
        found = written([whole.slice(0, cut), whole.slice(cut)])
    assert found == "".join(line + "\n" for line in lines[start:]).encode()


@pytest.mark.parametrize("bad", ["a\nb", "\n", None])
@pytest.mark.parametrize("place", [0, 7, 9])
def test_the_row_that_cannot_be_a_line_is_named(bad: str | None, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_WRITE_BLOCK_BYTES", 8)
    values: list[str | None] = ["", "x", "long line", "", "y", "", "zz", "", "a", "b"]
    values[place] = bad
    with pytest.raises(RecordError) as caught:
        written([column(values[:5]), column(values[5:])])
    assert caught.value.row == place
