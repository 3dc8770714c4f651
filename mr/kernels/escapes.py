"""Bytes and text: what is text, and bytes as text that says exactly which they are, for formats that hold only text."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def escaped(column: pa.LargeBinaryArray) -> pa.LargeStringArray:
    r"""Each value as text: UTF-8 as it is, any other byte as ``\xff``, a backslash doubled, so that no two are alike.

    >>> escaped(pa.array([b"caf\xc3\xa9", b"\xff\\", None], pa.large_binary())).to_pylist()
    ['café', '\\xff\\\\', None]
    """
    try:
        texts = column.cast(pa.large_string())
        if not pc.any(pc.match_substring(texts, "\\")).as_py():
            return texts
    except pa.ArrowInvalid:  # not UTF-8
        pass
    shown = [None if raw is None else _escaped(raw) for raw in column.to_pylist()]
    return pa.array(shown, pa.large_string())


def _escaped(raw: bytes) -> str:
    return raw.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def escaped_columns(batch: pa.RecordBatch) -> pa.RecordBatch:
    """`batch` with its columns of bytes as text.

    >>> escaped_columns(pa.record_batch({"b": pa.array([b"x"], pa.large_binary())})).schema.types
    [DataType(large_string)]
    """
    for i, field in enumerate(batch.schema):
        if pa.types.is_large_binary(field.type):
            batch = batch.set_column(i, field.name, escaped(batch.column(i)))
    return batch


def check_text(array: pa.Array) -> None:
    """Raise `pa.ArrowInvalid` where text in `array` is not UTF-8, which Arrow takes on trust when it reads files.

    >>> check_text(pa.array(["é"], pa.large_string()))
    """
    if pa.types.is_nested(array.type) or pa.types.is_string_view(array.type):
        array.validate(full=True)
    elif pa.types.is_large_string(array.type) or pa.types.is_string(array.type):
        data = array.buffers()[2]
        if data is not None and data.size and np.frombuffer(data, np.int8).min() < 0:  # some byte is not ASCII
            array.validate(full=True)
