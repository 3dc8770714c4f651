"""A piece of bytes in memory, for the tests of readers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pytest

from mr.batch import Batch, Origins
from mr.errors import RecordError
from mr.formats.base import Reader
from mr.kernels.rows import to_python

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@dataclass
class MemoryPiece:
    data: bytes
    path: str = "logs/a.txt"
    offset: int = 0
    row_groups: tuple[int, ...] | None = None
    returns_bytes: int = 1 << 30  # blocks are at most this long, whatever the reader asked for

    def buffer(self) -> pa.Buffer:
        return pa.py_buffer(self.data)

    def blocks(self, block_bytes: int) -> Iterator[bytes]:
        size = min(block_bytes, self.returns_bytes)
        for start in range(0, len(self.data), size):
            yield self.data[start : start + size]

    def file(self) -> BinaryIO:
        return io.BytesIO(self.data)


@dataclass
class Collected:
    """A `Rejects` that keeps what it is given; raises at the first if `fails`."""

    fails: bool = False
    origins: list[list[int]] = field(default_factory=list)
    raws: list[bytes] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __call__(self, origins: Origins, raws: list[bytes], errors: list[str]) -> None:
        assert len(origins) == len(raws) == len(errors) > 0
        if self.fails:
            raise RecordError(errors[0])
        self.origins += origins.tolist()
        self.raws += raws
        self.errors += errors


def read_all(reader: Reader, data: bytes, rejects: Collected | None = None, **options: Any) -> list[Any]:
    """The Python records that `reader` makes of `data`."""
    return [record for batch in batches(reader, data, rejects, **options) for record in to_python(batch.data)]


def batches(
    reader: Reader,
    data: bytes,
    rejects: Collected | None = None,
    columns: tuple[str, ...] | None = None,
    track: bool = True,
    **piece: Any,
) -> list[Batch]:
    """The batches that `reader` makes of `data`; checks that origins are there if and only if asked for."""
    found = list(reader.read(MemoryPiece(data, **piece), rejects or Collected(fails=True), columns, track))
    for batch in found:
        assert (batch.origins is not None) is track
        assert batch.origins is None or batch.origins.shape == (batch.rows, 2)
    return found


def origins(found: list[Batch]) -> list[list[int]]:
    return np.concatenate([batch.origins for batch in found if batch.origins is not None]).tolist()


def shared(name: str) -> bytes:
    """A file of the shared data folder, decompressed; skips the test where the folder is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs {name} of the shared data folder")
    codec = {".zst": "zstd"}.get(path.suffix)
    return pa.input_stream(str(path), compression=codec).read()
