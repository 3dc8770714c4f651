"""How large rows are, as a function of their values alone: never of how their arrays came to be cut or allocated."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from mr.kernels.types import is_list, list_bounds


def logical_bytes(data: pa.RecordBatch) -> int:
    """Bytes of the rows as Arrow holds them, without validity: the sizes of two slices add up to that of both.

    >>> batch = pa.record_batch({"n": [1, 2], "s": pa.array(["abc", None], pa.large_string())})
    >>> logical_bytes(batch), logical_bytes(batch.slice(0, 1)), logical_bytes(batch.slice(1))
    (35, 19, 16)
    """
    return sum(map(_bytes, data.columns))


def _bytes(array: pa.Array) -> int:
    type_ = array.type
    t = pa.types
    if t.is_large_string(type_) or t.is_large_binary(type_) or t.is_string(type_) or t.is_binary(type_):
        return 8 * len(array) + (pc.sum(pc.binary_length(array)).as_py() or 0)
    if pa.types.is_struct(type_):
        return sum(map(_bytes, array.flatten()))
    if pa.types.is_map(type_):
        filled = array.drop_null()
        _, start, stop = list_bounds(filled)
        return 8 * len(array) + _bytes(filled.keys[start:stop]) + _bytes(filled.items[start:stop])
    if is_list(type_):
        return 8 * len(array) + _bytes(array.flatten())
    return 0 if pa.types.is_null(type_) else len(array) * max(1, type_.bit_width // 8)
