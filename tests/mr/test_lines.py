"""Lines against `bytes.split`, for any bytes and any delimiter."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mr.kernels.lines import split_lines

dirty = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\r\n", b"\0", b"\xff", "é".encode()])).map(b"".join)


def oracle(data: bytes, delimiter: bytes) -> list[tuple[bytes, int]]:
    found, start = [], 0
    parts = data.split(delimiter)
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if last and not part:
            break
        line = part[:-1] if delimiter == b"\n" and not last and part.endswith(b"\r") else part
        found.append((line, start))
        start += len(part) + len(delimiter)
    return found


@given(dirty, st.sampled_from([b"\n", b"a", b"\0", b"\r\n", b"aa"]))
def test_split_lines_is_bytes_split(data: bytes, delimiter: bytes) -> None:
    lines, offsets = split_lines(data, delimiter)
    lines.validate(full=True)
    assert list(zip(lines.to_pylist(), offsets.tolist(), strict=True)) == oracle(data, delimiter)


@pytest.mark.parametrize("data", [b"", b"\n", b"\r\n", b"\n\n", b"a", b"a\n", b"a\r", b"a\r\r\n"])
def test_edges(data: bytes) -> None:
    lines, offsets = split_lines(pa.py_buffer(data))
    assert list(zip(lines.to_pylist(), offsets.tolist(), strict=True)) == oracle(data, b"\n")
