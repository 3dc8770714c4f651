"""Arrow batches to Polars frames and back, with the few types that Polars widens put right again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import StringIO

import polars as pl
import pyarrow as pa

from mr.batch import Kind, with_kind
from mr.errors import TypeConflict
from mr.kernels import types


def to_polars(data: pa.RecordBatch | pa.Table) -> pl.DataFrame:
    """The columns as a Polars frame; zero-copy but for strings."""
    frame = pl.from_arrow(data, rechunk=False)
    assert isinstance(frame, pl.DataFrame)
    return frame


def from_polars(frame: pl.DataFrame, kind: Kind = "rows") -> pa.RecordBatch:
    """A frame as one batch of the types that cross between tasks (large_string, time64[us], no dictionaries).

    >>> from_polars(pl.DataFrame({"x": ["a"]})).schema.field("x").type
    DataType(large_string)
    """
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    columns = [plain(column) for column in table.columns]
    schema = with_kind(pa.schema([(name, c.type) for name, c in zip(table.column_names, columns, strict=True)]), kind)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One contiguous array of a type that travels (`types.plain`).

    Raises TypeConflict for a type that does not, or a value that the type here does not hold, such as a time of single
    nanoseconds.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lost = types.homeless(array.type)
    if lost is not None:
        raise TypeConflict(f"values of type {lost} have no place here; cast them to a str or a number first")
    target = types.plain(array.type)
    try:
        return types.converted(array, target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TypeConflict(f"values of type {array.type} become {types.display(target)} here: {error}") from None


def concat(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    """All rows of batches of one `schema` as one contiguous batch.

    >>> one = pa.record_batch({"x": [1]})
    >>> concat([one, one], one.schema).num_rows
    2
    """
    if len(batches) == 1:
        return batches[0]
    if not batches:
        return pa.RecordBatch.from_pylist([], schema=schema)
    columns = [pa.concat_arrays([batch.column(i) for batch in batches]) for i in range(len(schema))]
    if not columns:
        return batches[0]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def to_ipc(data: pa.RecordBatch) -> bytes:
    """A batch as the bytes of an IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, data.schema) as writer:
        writer.write_batch(data)
    return bytes(sink.getvalue().to_pybytes())


def bare(expr: pl.Expr) -> str | None:
    """The column that an expression is as it is, whatever it will be called; None for any other expression.

    >>> bare(pl.col("x").alias("y")), bare(column("^x$")), bare(pl.col("x") + 1)
    ('x', '^x$', None)
    """
    undone = expr.meta.undo_aliases()
    patterned = undone.meta.is_column_selection() and not undone.meta.has_multiple_outputs()
    return undone.meta.output_name() if patterned or undone.meta.is_column() else None


def column(name: str) -> pl.Expr:
    """The column of just this name: `pl.col` takes "*" and "^...$" for patterns.

    >>> pl.DataFrame({"^a$": [1], "a": [2]}).select(column("^a$")).columns
    ['^a$']
    """
    if name == "*" or (name.startswith("^") and name.endswith("$")):
        return pl.Expr.deserialize(StringIO(json.dumps({"Column": name})), format="json")
    return pl.col(name)
