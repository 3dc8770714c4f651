"""What users pass to dataset methods - columns, orders, names - checked and brought into one form. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import polars as pl
import pyarrow as pa

from mr.errors import PlanError
from mr.kernels.rows import Shape
from mr.kernels.types import display
from mr.operators.base import require_columns

Names = str | Sequence[str] | Mapping[str, Any]
Column = str | pl.Expr

ELSEWHERE = {
    "groupBy": "group_by",
    "collect": "take_all",
    "compute": "take_all",
    "withColumn": "with_columns",
    "with_column": "with_columns",
    "withColumns": "with_columns",
    "selectExpr": "select",
    "cache": "materialize",
    "checkpoint": "materialize",
    "localCheckpoint": "materialize",
    "coalesce": "repartition",
    "partitionBy": "repartition(n, by=)",
    "repartitionByRange": "sort",
    "mapPartitions": "map_partitions",
    "map_blocks": "map_batches",
    "mapValues": "with_columns, or map",
    "unionAll": "union",
    "concat": "union",
    "vstack": "union",
    "sortBy": "sort",
    "sort_by": "sort",
    "sort_values": "sort",
    "rdd": "map and flat_map are here",
    "iter_rows": "take_all",
    "toLocalIterator": "take_all",
    "to_list": "take_all",
    "tolist": "take_all",
    "saveAsTextFile": "write_text",
    "to_parquet": "write_parquet",
    "to_csv": "write_csv",
    "to_json": "write_json",
    "subtract": 'join(how="anti")',
    "intersection": 'join(how="semi")',
    "dropna": 'filter(pl.col("x").is_not_null())',
    "drop_nulls": 'filter(pl.col("x").is_not_null())',
    "fillna": 'with_columns(x=pl.col("x").fill_null(0))',
    "fill_null": 'with_columns(x=pl.col("x").fill_null(0))',
    "n_unique": 'agg(n=mr.count_distinct("x"))',
    "nunique": 'agg(n=mr.count_distinct("x"))',
    "describe": 'agg(mean=mr.mean("x"), ...)',
    "with_row_index": "read_text(include_offset=True), or map_partitions",
    "zipWithIndex": "read_text(include_offset=True), or map_partitions",
    "nlargest": "top_k",
    "takeOrdered": "top_k",
    "tail": "sort(..., descending=True).limit(n)",
    "frequencies": "value_counts",
    "foldby": "reduce_by_key",
    "reduceByKey": "reduce_by_key",
    "flatMap": "flat_map",
    "orderBy": "sort",
    "order_by": "sort",
    "where": "filter",
    "dropDuplicates": "distinct",
    "unique": "distinct",
    "topk": "top_k",
    "head": "take",
    "columns": "schema",
    "dtypes": "schema",
    "printSchema": "schema",
    "drop": 'select(pl.exclude("x"))',
    "rename": 'select(new=pl.col("old"))',
    "assign": "with_columns",
    "reduce": "agg, or reduce_by_key",
    "to_pandas": "take_all, or write_parquet",
    "toPandas": "take_all, or write_parquet",
    "mean": 'agg(x=mr.mean("x"))',
    "sum": 'agg(x=mr.sum("x"))',
    "min": 'agg(x=mr.min("x"))',
    "max": 'agg(x=mr.max("x"))',
    "apply": "map, map_batches or map_groups",
}


def unknown(owner: object, name: str) -> NoReturn:
    """Raise AttributeError that names our method for another library's, or one spelt alike."""
    kind = type(owner).__name__
    known = [n for n in dir(type(owner)) if not n.startswith("_")]
    ours = ELSEWHERE.get(name) or next(iter(difflib.get_close_matches(name, known, 1)), None)
    hint = f"; use {ours}" if ours else ""
    raise AttributeError(f"{kind} has no method {name!r}{hint}")


def united(a: Shape | None, b: Shape | None) -> Shape | None:
    """The shape of records of both shapes; types that differ are left to the data. Raises PlanError."""
    if a is None or b is None:
        return None
    if a.names != b.names:
        raise PlanError(f"union(): columns {list(a.names)} and {list(b.names)} differ; select() alike ones")
    if a.kind != b.kind:
        raise PlanError(f"union(): one dataset is of values, the other of rows; select({a.names[0]!r}) makes rows")
    return replace(a, types=tuple(x if x == y else None for x, y in zip(a.types, b.types, strict=True)))


def expressions(columns: Iterable[Column], named: Mapping[str, Column]) -> list[pl.Expr]:
    """Column names and `name=expression` arguments as expressions. Raises PlanError for anything else."""
    return [
        *(_expression(str(column), column) for column in columns),
        *(_expression(name, column).alias(name) for name, column in named.items()),
    ]


def _expression(name: str, column: Any) -> pl.Expr:
    if isinstance(column, str):
        return pl.col(column)
    if isinstance(column, pl.Expr):
        return column
    if isinstance(column, (list, tuple)):
        raise PlanError(f"{column!r}: give the columns one by one, not as a list")
    if callable(column):
        raise PlanError(f"{name}: a Python function is no expression; use .map() first")
    raise PlanError(
        f"{name}: {column!r} is neither a column name nor a Polars expression; pl.lit() makes one of a value"
    )


def column_names(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """One name, several or none as a tuple."""
    return (names,) if isinstance(names, str) else tuple(names or ())


def ordering(
    shape: Shape, by: str | Sequence[str], descending: bool | Sequence[bool], call: str
) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """Sort columns and their directions. Raises PlanError: none, an unknown one, too few or many directions."""
    columns = column_names(by)
    if not columns:
        raise PlanError(f"{call}: name at least one column")
    require_columns(shape, columns, call)
    down = (descending,) * len(columns) if isinstance(descending, bool) else tuple(descending)
    if len(down) != len(columns):
        raise PlanError(f"{call}: descending= has {len(down)} entries for {len(columns)} columns")
    return columns, down


def partition_count(n: int | None) -> int | None:
    """A number of partitions that the constant buckets can be divided into. Raises PlanError."""
    if n is not None and not 1 <= n <= 256:
        raise PlanError("num_partitions= is from 1 to 256")
    return n


def check_key_types(
    left: Shape, right: Shape, left_on: Sequence[str], right_on: Sequence[str], call: str = "join()"
) -> None:
    """Raise PlanError where key columns have types that could never match."""
    for a, b in zip(left_on, right_on, strict=True):
        types = left.types[left.names.index(a)], right.types[right.names.index(b)]
        if None not in types and types[0] != types[1] and not any(pa.types.is_null(t) for t in types):
            text = f"{a!r} is {display(types[0])} on the left but {b!r} is {display(types[1])} on the right"
            raise PlanError(f"{call}: {text}; cast one of them with with_columns()")
