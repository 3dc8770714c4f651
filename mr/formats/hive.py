"""Outputs in folders `day=2026-01-01`: what their files say of the columns left out, and reading these back."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, Final

import pyarrow as pa
from msgspec.structs import replace

from mr.batch import Batch, kind_of, with_kind
from mr.errors import InputError
from mr.formats.base import Cut, Reader
from mr.formats.blocks import needed
from mr.kernels.hive import value_of, values_of
from mr.kernels.types import display

if TYPE_CHECKING:
    from mr.formats.base import Piece, Rejects
    from mr.formats.bounds import Bound

ROWS_KEY: Final = b"mr.rows"
"""In the metadata of a file in such a folder: the schema of whole rows (an Arrow IPC message, base64)."""


def file_schema(schema: pa.Schema, partition_by: Sequence[str]) -> pa.Schema:
    """The schema of the files: without the columns that folders name, which the metadata keeps for `recorded_schema`.

    >>> rows = pa.schema([("n", pa.int64()), ("day", pa.date32())])
    >>> file_schema(rows, ["day"]).names, recorded_schema(file_schema(rows, ["day"])).names
    (['n'], ['n', 'day'])
    """
    if not partition_by or not len(schema):
        return schema
    inside = with_kind(pa.schema([field for field in schema if field.name not in partition_by]), kind_of(schema))
    raw = base64.b64encode(schema.remove_metadata().serialize().to_pybytes())
    return inside.with_metadata({**inside.metadata, ROWS_KEY: raw})


def recorded_schema(schema: pa.Schema) -> pa.Schema | None:
    """The schema of whole rows that a file's schema tells; None where it tells nothing."""
    raw = (schema.metadata or {}).get(ROWS_KEY)
    return None if raw is None else pa.ipc.read_schema(pa.py_buffer(base64.b64decode(raw)))


class PartitionedReader(Reader, frozen=True):
    """What `inner` reads, with the columns of `pinned` that it lacks, told by the folders of a file's path."""

    inner: Reader
    pinned: pa.Schema

    @property
    def cut(self) -> Cut:
        return self.inner.cut

    @property
    def record_end(self) -> bytes:
        return self.inner.record_end

    @property
    def decompress(self) -> bool:  # type: ignore[override]  # a constant of other readers
        return self.inner.decompress

    def group_bytes(self, file: BinaryIO, path: str) -> list[int]:
        return self.inner.group_bytes(file, path)

    def place_of(self, path: str, offset: int) -> object:
        told = values_of(path)
        return self.inner.place_of(path, offset), [told.get(name, "") for name in self._told()]

    def schema(self) -> pa.Schema:
        return with_kind(self.pinned, "rows")

    def skipping(self, bounds: tuple[Bound, ...]) -> Reader:
        inside = tuple(bound for bound in bounds if bound.column not in self._told())
        inner = self.inner.skipping(inside) if inside else self.inner
        return self if inner is self.inner else replace(self, inner=inner)

    def read(self, piece: Piece, rejects: Rejects, columns: tuple[str, ...] | None, track: bool) -> Iterator[Batch]:
        constants: Mapping[str, pa.Scalar] | None = None  # a file without rows may lie in no folder
        wanted = needed(self.pinned, columns)
        inside = tuple(name for name in wanted if name not in self._told())
        schema = with_kind(pa.schema([self.pinned.field(name) for name in wanted]), "rows")
        for batch in self.inner.read(piece, rejects, inside, track):
            data, rows = batch.data, batch.rows
            constants = self._constants(piece.path) if constants is None else constants
            told = {name: pa.repeat(value, rows) for name, value in constants.items()}
            arrays = [told[name] if name in told else data.column(name) for name in wanted]
            yield Batch(pa.RecordBatch.from_arrays(arrays, schema=schema), batch.origins)

    def _told(self) -> list[str]:
        """The columns that folders tell."""
        inner = self.inner.schema()
        assert inner is not None
        return [name for name in self.pinned.names if name not in inner.names]

    def _constants(self, path: str) -> Mapping[str, pa.Scalar]:
        told, found = values_of(path), {}
        for name in self._told():
            type_ = self.pinned.field(name).type
            if name not in told:
                raise InputError(f"{path}: it lies in no folder {name}=..., as other files do. Read them separately")
            try:
                found[name] = value_of(told[name], type_)
            except (ValueError, KeyError, ArithmeticError, pa.ArrowException):
                cure = f"declare schema={{{name!r}: str}}"
                raise InputError(f"{path}: {name}={told[name]!r} is not {display(type_)}; {cure}") from None
        return found
