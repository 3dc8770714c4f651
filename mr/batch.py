"""What operators exchange: a batch of records as Arrow columns, with where each record came from.

A dataset is of *values* (one column, records are plain Python values) or of *rows* (records are `Row`s). The kind
travels in the metadata of the Arrow schema under `KIND_KEY`, so it crosses tasks and files without a side channel.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Kind = Literal["values", "rows"]
KIND_KEY = b"mr.kind"

Origins = npt.NDArray[np.int64]
"""Shape (rows, 2): byte offset of the source record in its piece, and its record number in it (both from 0)."""


class Batch:
    """Records as one `pa.RecordBatch` (plain, large_string/large_binary columns) and, if tracked, their origins.

    `origins` is None where positions mean nothing (after a shuffle) or nobody downstream asks for them.
    """

    data: pa.RecordBatch
    origins: Origins | None = None

    def __init__(self, data: pa.RecordBatch, origins: Origins | None = None) -> None:
        self.data = data
        self.origins = origins

    @property
    def rows(self) -> int:
        return int(self.data.num_rows)

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        """The rows at `indices` (int64), with their origins."""
        origins = None if self.origins is None else self.origins[indices]
        return Batch(self.data.take(pa.array(indices)), origins)

    def renumbered(self, by: int) -> Batch:
        """The same records, their record numbers raised by `by`."""
        if self.origins is None or not by:
            return self
        return Batch(self.data, self.origins + np.array([0, by], dtype=np.int64))


class CodedBatch(Batch):
    """Records some of whose columns are dictionaries in `coded`; they are decoded when somebody looks at `data`.

    Dictionaries have distinct values, none of them null.
    """

    def __init__(self, coded: pa.RecordBatch) -> None:
        self.coded = coded

    @property
    def rows(self) -> int:
        return int(self.coded.num_rows)

    @cached_property
    def data(self) -> pa.RecordBatch:
        """The records with plain columns."""
        return decoded(self.coded)


def decoded(data: pa.RecordBatch, but: Collection[str] = ()) -> pa.RecordBatch:
    """`data` with its dictionaries as plain columns, those of the columns `but` excepted.

    >>> decoded(pa.record_batch({"x": pa.array(["a", "a"]).dictionary_encode()})).schema.field("x").type
    DataType(string)
    """
    for i, field in enumerate(data.schema):
        if pa.types.is_dictionary(field.type) and field.name not in but:
            data = data.set_column(i, field.with_type(field.type.value_type), data.column(i).dictionary_decode())
    return data


def kind_of(schema: pa.Schema) -> Kind:
    """The kind recorded in a schema; a schema without a mark is of rows.

    >>> kind_of(with_kind(pa.schema([("value", pa.int64())]), "values"))
    'values'
    """
    metadata = schema.metadata or {}
    return "values" if metadata.get(KIND_KEY) == b"values" else "rows"


def with_kind(schema: pa.Schema, kind: Kind) -> pa.Schema:
    """`schema` marked as of `kind`; other metadata is dropped, so that equal data has equal bytes."""
    return schema.with_metadata({KIND_KEY: kind.encode()})
