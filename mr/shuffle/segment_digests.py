"""Digests of the segments of a run: of their rows alone, wherever these lie. What is hashed: docs/formats/run-file.md.

One pass over the columns of the whole run says where the bytes of each segment are; a segment then costs a few slices.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from msgspec import Struct

from mr.kernels.gather import bytes_of
from mr.kernels.keys import Ints
from mr.kernels.types import list_bounds


class _Part(Struct, frozen=True, eq=False):
    """Bytes that are hashed: those of segment i are data[starts[i]:stops[i]]."""

    data: Any
    starts: Ints
    stops: Ints

    @classmethod
    def fixed(cls, data: npt.NDArray[Any], bounds: Ints) -> _Part:
        """Of the rows bounds[i] to bounds[i + 1] of a contiguous array."""
        width = data.nbytes // len(data) if len(data) else 0
        return cls(data.reshape(-1).view(np.uint8).data, bounds[:-1] * width, bounds[1:] * width)


def segment_digests(data: pa.RecordBatch, bounds: Ints) -> tuple[list[bytes], Ints]:
    """XXH3-128 of the segments of `data`, segment i being the rows bounds[i] to bounds[i + 1], at least one; and how
    many bytes of each were hashed, which is about what it takes in memory.

    >>> batch = pa.RecordBatch.from_pydict({"k": pa.array(["a", "a", "b", "a"], pa.large_string())})
    >>> digests, sizes = segment_digests(batch, np.array([0, 1, 3, 4]))
    >>> digests[0] == digests[2], digests[0] == digests[1], sizes.tolist()
    (True, False, [18, 27, 18])
    """
    counts = np.diff(bounds)
    has_nulls = np.zeros((len(counts), data.num_columns), np.uint8)
    parts: list[_Part] = []
    for number, column in enumerate(data.columns):
        if column.null_count and not pa.types.is_null(column.type):
            valid = column.is_valid().cast(pa.uint8()).to_numpy()
            has_nulls[:, number] = np.add.reduceat(1 - valid, bounds[:-1], dtype=np.int64) > 0
            stops = np.where(has_nulls[:, number], bounds[1:], bounds[:-1])
            parts.append(_Part(valid.data, bounds[:-1], stops))
        parts += _parts(column, bounds)
    head = np.hstack([counts.astype("<u8").view(np.uint8).reshape(-1, 8), has_nulls])
    parts.insert(0, _Part.fixed(head, np.arange(len(counts) + 1)))
    sizes = np.sum([part.stops - part.starts for part in parts], axis=0)
    start = xxhash.xxh3_128(data.schema.serialize())
    found = []
    places = zip(*(zip(part.starts.tolist(), part.stops.tolist(), strict=True) for part in parts), strict=True)
    views = [part.data for part in parts]
    for ends in places:
        digest = start.copy()
        for view, (low, high) in zip(views, ends, strict=True):
            digest.update(view[low:high])
        found.append(digest.digest())
    return found, sizes


def _parts(column: Any, bounds: Ints) -> list[_Part]:
    """What is hashed of a column beside its own validity (a message of a slice may hold bits of other rows)."""
    if isinstance(column, pa.ExtensionArray):
        return _parts(column.storage, bounds)
    kind = column.type
    if pa.types.is_null(kind):
        return []
    if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        offsets, text = bytes_of(column)
        ends = offsets[bounds]
        return [_Part.fixed(np.diff(offsets), bounds), _Part(text.data, ends[:-1], ends[1:])]
    if pa.types.is_boolean(kind):
        return [_Part.fixed(column.cast(pa.uint8()).fill_null(0).to_numpy(), bounds)]
    buffers = column.buffers()
    if len(buffers) == 2 and not pa.types.is_nested(kind) and kind.bit_width % 8 == 0 and kind.bit_width:
        width = kind.bit_width // 8
        values = np.frombuffer(buffers[1], np.uint8, len(column) * width, column.offset * width)
        return [_Part.fixed(values.reshape(-1, width), bounds)]
    if pa.types.is_struct(kind):
        return [part for child in range(kind.num_fields) for part in _child_parts(column.field(child), bounds)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        offsets, start, stop = list_bounds(column)
        ends = offsets.to_numpy()
        children = (column.keys, column.items) if pa.types.is_map(kind) else (column.values,)
        held = (child.slice(start, stop - start) for child in children)
        lengths = _Part.fixed(np.diff(ends).astype(np.int64), bounds)
        return [lengths, *(part for child in held for part in _child_parts(child, ends[bounds]))]
    rows = (pa.array(np.arange(low, high)) for low, high in pairwise(bounds.tolist()))
    messages = [pa.RecordBatch.from_arrays([column.take(some)], [""]).serialize() for some in rows]
    ends = np.cumsum([0, *(message.size for message in messages)])
    return [_Part(memoryview(b"".join(messages)), ends[:-1], ends[1:])]


def _child_parts(column: Any, bounds: Ints) -> list[_Part]:
    return [_Part.fixed(column.is_valid().cast(pa.uint8()).to_numpy(), bounds), *_parts(column, bounds)]
