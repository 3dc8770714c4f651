"""Whole files as bytes, one record a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from mr.batch import Batch, with_kind
from mr.formats.base import Cut, Reader
from mr.formats.blocks import needed

if TYPE_CHECKING:
    from mr.formats.base import Piece, Rejects


class BinaryFileReader(Reader, frozen=True):
    """Whole files, as they are stored, as rows (path, bytes).

    >>> BinaryFileReader().schema().names
    ['path', 'bytes']
    """

    cut: ClassVar[Cut] = "file"
    decompress: ClassVar[bool] = False

    @property
    def uses_place(self) -> bool:
        return True

    def schema(self) -> pa.Schema:
        return with_kind(pa.schema([("path", pa.large_string()), ("bytes", pa.large_binary())]), "rows")

    def read(self, piece: Piece, rejects: Rejects, columns: tuple[str, ...] | None, track: bool) -> Iterator[Batch]:
        arrays = [pa.array([piece.path], pa.large_string())]
        wanted = needed(self.schema(), columns)
        content = piece.buffer() if "bytes" in wanted else pa.py_buffer(b"")
        bounds = pa.py_buffer(np.array([0, content.size], np.int64))
        arrays.append(pa.Array.from_buffers(pa.large_binary(), 1, [None, bounds, content]))
        batch = pa.RecordBatch.from_arrays(arrays, schema=self.schema()).select(wanted)
        yield Batch(batch, np.zeros((1, 2), np.int64) if track else None)
