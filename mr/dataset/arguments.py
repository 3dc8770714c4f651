"""What users pass to dataset methods - columns, orders, names - checked and brought into one form. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, NoReturn

import polars as pl
import pyarrow as pa
from msgspec.structs import replace

from mr.errors import PlanError
from mr.kernels.frames import column as exactly
from mr.kernels.keys import key_problem
from mr.kernels.rows import Shape
from mr.kernels.types import display, join_types
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
    "with_row_index": "map_partitions, or read_text(include_offset=True)",
    "zipWithIndex": "map_partitions, or read_text(include_offset=True)",
    "nlargest": "top_k",
    "takeOrdered": "top_k",
    "tail": "sort(..., descending=True).limit(n)",
    "frequencies": "value_counts",
    "foldby": "reduce_by_key",
    "reduceByKey": "reduce_by_key",
    "groupByKey": "group_by(...).map_groups(fn)",
    "combineByKey": "group_by(...).agg(x=mr.Aggregate(...))",
    "aggregateByKey": "group_by(...).agg(x=mr.Aggregate(...))",
    "leftOuterJoin": 'join(how="left")',
    "rightOuterJoin": 'join(how="right")',
    "fullOuterJoin": 'join(how="full")',
    "aggregate": "agg",
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
    "to_polars": "take_all, or write_parquet",
    "toPandas": "take_all, or write_parquet",
    "mean": 'agg(x=mr.mean("x"))',
    "sum": 'agg(x=mr.sum("x"))',
    "min": 'agg(x=mr.min("x"))',
    "max": 'agg(x=mr.max("x"))',
    "apply": "map, map_batches or group_by(...).map_groups",
}


def unknown(owner: object, name: str) -> NoReturn:
    """Raise AttributeError that names our method for another library's, or one spelt alike, or else a few methods."""
    kind = type(owner).__name__
    known = [n for n in dir(type(owner)) if not n.startswith("_")]
    ours = ELSEWHERE.get(name, "")
    if re.split(r"\W", ours)[0] not in known:  # a method of datasets, and this is a group
        ours = next(iter(difflib.get_close_matches(name, known, 1)), "")
    hint = f"; use {ours}" if ours else f"; it has {', '.join(known)}" if len(known) < 10 else ""
    raise AttributeError(f"{kind} has no method {name!r}{hint}")


def united(a: Shape | None, b: Shape | None) -> Shape | None:
    """The shape of records of both shapes; types that are not known are left to the data. Raises PlanError."""
    if a is None or b is None:
        return None
    if a.names != b.names:
        raise PlanError(f"union(): columns {list(a.names)} and {list(b.names)} differ; select() alike ones")
    if a.kind != b.kind:
        raise PlanError(f"union(): one dataset is of values, the other of rows; select({a.names[0]!r}) makes rows")
    joined: list[pa.DataType | None] = []
    for name, x, y in zip(a.names, a.types, b.types, strict=True):
        joined.append(None if x is None or y is None else join_types(x, y))
        if x is not None and y is not None and joined[-1] is None:
            cure = "cast one of them with with_columns()"
            raise PlanError(f"union(): {name!r} is {display(x)} in one dataset and {display(y)} in another; {cure}")
    return replace(a, types=tuple(joined))


def expressions(columns: Iterable[Column], named: Mapping[str, Column]) -> list[pl.Expr]:
    """Column names and `name=expression` arguments as expressions. Raises PlanError for anything else."""
    return [
        *(_expression(str(column), column) for column in columns),
        *(_expression(name, column).alias(name) for name, column in named.items()),
    ]


def _expression(name: str, column: Any) -> pl.Expr:
    if isinstance(column, str):
        return exactly(column)
    if isinstance(column, pl.Expr):
        return column
    if isinstance(column, (list, tuple)):
        raise PlanError(f"{column!r}: give the columns one by one, not as a list")
    if callable(column):
        raise PlanError(f"{name}: a Python function is no expression; with_columns(name=fn) makes a column of it")
    raise PlanError(
        f"{name}: {column!r} is neither a column name nor a Polars expression; pl.lit() makes one of a value"
    )


def column_names(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """One name, several or none as a tuple. What is no name is left to `require_columns`."""
    several = isinstance(names, Iterable) and not isinstance(names, str)
    return tuple(names) if several else () if names is None else (names,)  # type: ignore[arg-type,return-value]


def whole(n: Any, call: str, name: str = "n") -> int:
    """`n`, once it is known to be a whole number from 0. Raises PlanError."""
    if not isinstance(n, Integral) or isinstance(n, bool) or n < 0:
        raise PlanError(f"{call}: {name}={n!r} is not a whole number from 0")
    return int(n)


def function(fn: Any, call: str) -> None:
    """Raise PlanError unless `fn` can be called."""
    if not callable(fn):
        cure = "; select() and with_columns() take expressions" if isinstance(fn, pl.Expr) else ""
        raise PlanError(f"{call}: {fn if cure else repr(fn)} is not a function{cure}")


def key_columns(given: Shape, names: Sequence[str], call: str) -> Shape:
    """`given`, once it is known to have the columns `names`, of types that can be keys. Raises PlanError."""
    require_columns(given, names, call)
    for name in names:
        type_ = given.types[given.names.index(name)]
        problem = None if type_ is None else key_problem(type_)
        if problem:
            raise PlanError(f"{call}: {name!r} is of type {display(type_)} and cannot be a key: {problem}")
    return given


def ordering(
    shape: Shape, by: str | Sequence[str], descending: bool | Sequence[bool], call: str
) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """Sort columns and their directions. Raises PlanError: none, an unknown one, too few or many directions."""
    columns = column_names(by)
    if not columns:
        raise PlanError(f"{call}: name at least one column")
    key_columns(shape, columns, call)
    if not isinstance(descending, bool) and not all(isinstance(one, bool) for one in descending):
        raise PlanError(f"{call}: descending={descending!r} is neither True, False nor a list of them")
    down = (descending,) * len(columns) if isinstance(descending, bool) else tuple(descending)
    if len(down) != len(columns):
        raise PlanError(f"{call}: descending= has {len(down)} entries for {len(columns)} columns")
    if len(set(columns)) < len(columns):
        raise PlanError(f"{call}: a column is named twice: {', '.join(columns)}")
    return columns, down


def partition_count(n: int | None) -> int | None:
    """A number of partitions that the constant buckets can be divided into. Raises PlanError."""
    if n is not None and not 1 <= whole(n, "partitions", "num_partitions") <= 256:
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
