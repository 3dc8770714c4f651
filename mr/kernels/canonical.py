"""Arrays whose buffers are a function of their values: what lies under nulls and beyond the end is zero."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mr.kernels.types import is_list, list_bounds


def canonical(data: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows in buffers of their own: equal batches serialise to equal bytes, however they were made.

    >>> mess = pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\\xfd"), pa.py_buffer(b"\\x07" * 16)])
    >>> canonical(pa.record_batch({"n": mess})).column(0).buffers()[1].to_pybytes()[8:]
    b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00'
    """
    return pa.RecordBatch.from_arrays([_array(column) for column in data.columns], schema=data.schema)


def _array(array: pa.Array) -> pa.Array:
    type_ = array.type
    if pa.types.is_null(type_) or not len(array):
        return pa.nulls(len(array), type_)
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    bits = None if valid.all() else _bits(valid)
    if pa.types.is_large_string(type_) or pa.types.is_large_binary(type_):
        return _spanned(array, valid, bits)
    if pa.types.is_struct(type_):
        children = [_array(child) for child in array.flatten()]  # which are null where the struct is
        return pa.Array.from_buffers(type_, len(array), [bits], children=children)
    if is_list(type_) or pa.types.is_map(type_):
        return _nested(array, valid, bits)
    if pa.types.is_boolean(type_):
        values = array.fill_null(False).to_numpy(zero_copy_only=False)
        return pa.Array.from_buffers(type_, len(array), [bits, _bits(values)])
    width = type_.bit_width // 8
    raw = np.frombuffer(array.buffers()[1], np.uint8)[array.offset * width : (array.offset + len(array)) * width]
    values = raw.reshape(len(array), width)
    if bits is not None:
        values = np.where(valid[:, None], values, np.uint8(0))
    return pa.Array.from_buffers(type_, len(array), [bits, pa.py_buffer(np.ascontiguousarray(values))])


def _bits(values: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little").tobytes())


def _spanned(array: pa.Array, valid: np.ndarray[tuple[int], np.dtype[np.bool_]], bits: pa.Buffer | None) -> pa.Array:
    """Strings or bytes: those under nulls are taken out, offsets count from 0."""
    present = array if bits is None else array.drop_null()
    offsets = np.frombuffer(present.buffers()[1], np.int64)[present.offset : present.offset + len(present) + 1]
    start, stop = (int(offsets[0]), int(offsets[-1])) if len(present) else (0, 0)
    values = present.buffers()[2]
    lengths = np.zeros(len(array), np.int64)
    lengths[valid] = np.diff(offsets) if len(present) else 0
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    data = pa.py_buffer(b"") if values is None else values.slice(start, stop - start)
    return pa.Array.from_buffers(array.type, len(array), [bits, pa.py_buffer(starts), data])


def _nested(array: pa.Array, valid: np.ndarray[tuple[int], np.dtype[np.bool_]], bits: pa.Buffer | None) -> pa.Array:
    """Lists or maps: items under nulls are taken out, offsets count from 0."""
    present = array if bits is None else array.drop_null()
    offsets, start, stop = list_bounds(present)
    if pa.types.is_map(array.type):
        fields = [array.type.key_field, array.type.item_field]
        items: pa.Array = pa.StructArray.from_arrays([present.keys, present.items], fields=fields)
    else:
        items = present.values
    lengths = np.zeros(len(array), offsets.to_numpy().dtype)
    lengths[valid] = np.diff(offsets.to_numpy())
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(lengths.dtype)
    inner = _array(items[start:stop])
    return pa.Array.from_buffers(array.type, len(array), [bits, pa.py_buffer(starts)], children=[inner])
