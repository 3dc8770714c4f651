"""Operators over whole columns: select, with_columns, filter by expression, explode.

Arguments are Polars expressions and must be row-wise: a value of the output may depend on its own row only, since
batches are cut by the engine. Every node of an expression is checked, at plan time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from mr.batch import Batch, CodedBatch, Kind, decoded, kind_of, with_kind
from mr.errors import PlanError, RecordError
from mr.kernels.frames import bare, column, from_polars, plain, to_polars
from mr.kernels.rows import Shape
from mr.kernels.types import cast, display
from mr.operators.base import Narrow, Run, Stateless, TaskEnv, require_columns, rows_shape

UNFIT = {
    "Random": "is random; use .sample(), or .map() with mr.rng()",
    "Sample": "is random; use .map() with mr.rng()",
    "Append": "does not give one value a row; use .union()",
    "Categorical": "numbers categories as it meets them; keep strings, or cast to pl.Enum([...])",
}
"""What Polars takes for row-wise though its result hangs on more than the row: names in serialised expressions."""


def check_row_wise(expr: pl.Expr, call: str) -> None:
    """Raise PlanError naming the node of `expr` that looks beyond its row, or that calls Python.

    >>> check_row_wise(pl.col("x") - pl.col("x").mean(), "select()")
    Traceback (most recent call last):
    ...
    mr.errors.PlanError: select(): col("x").mean() looks at more than one row; compute it with agg() and join it back
    """
    text = str(expr)
    if "python_udf" in text:
        raise PlanError(f"{call}: {text} calls Python inside an expression; use .map() or .map_batches()")
    for name in _names(json.loads(expr.meta.serialize(format="json"))):
        if name in UNFIT:
            raise PlanError(f"{call}: {text} {UNFIT[name]}")
    pending = [expr]
    while pending:
        node = pending.pop()
        pending.extend(node.meta.pop())
        try:
            separable = node.meta.is_row_separable()
            fits = node.meta.is_length_preserving() or node.meta.is_scalar()
        except pl.exceptions.PolarsError:  # elementwise over lists (`list.eval`): resolved only with a schema
            continue
        if not separable and not node.meta.is_literal():
            cure = "compute it with agg() and join it back"
            raise PlanError(f"{call}: {node} looks at more than one row; {cure}")
        if not fits:
            raise PlanError(f"{call}: {node} does not give one value a row; use .filter(), .explode() or .flat_map()")


def _names(tree: Any) -> Iterator[str]:
    """The keys of all objects in a serialised expression: the names of its nodes, never those of columns."""
    if isinstance(tree, dict):
        for name, below in tree.items():
            yield name
            yield from _names(below)
    elif isinstance(tree, list):
        for below in tree:
            yield from _names(below)


def expand(given: Shape, exprs: Sequence[pl.Expr], call: str) -> tuple[tuple[pl.Expr, ...], Shape]:
    """Selectors and multi-column expressions as single ones for input `given`, and the shape they give.

    Raises PlanError: an unknown column, an expression that is not row-wise or cannot be evaluated.
    """
    roots = sorted({name for e in exprs if not e.meta.has_multiple_outputs() for name in e.meta.root_names()})
    known = require_columns(given, roots, call)
    assert known.names is not None
    single: list[pl.Expr] = []
    for expr in exprs:
        for one in _single(known, expr, call):
            check_row_wise(one, call)
            single.append(one)
    names = [e.meta.output_name() for e in single]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise PlanError(f"{call}: two expressions are named {min(repeated)!r}; name one with .alias()")
    return tuple(single), rows_shape(names, [_type_of(known, e, call) for e in single])


def _single(known: Shape, expr: pl.Expr, call: str) -> list[pl.Expr]:
    """An expression of a selector as expressions of one column each, those that the selector means."""
    if expr.meta.is_column_selection():
        return [column(name) for name in expand_names(known, expr, call)]
    if not expr.meta.has_multiple_outputs():
        return [expr]
    nodes, selectors = [expr], {}
    while nodes:
        node = nodes.pop()
        if node.meta.is_column_selection() and node.meta.has_multiple_outputs():
            selectors[str(node)] = node
        else:
            nodes += node.meta.pop()
    if len(selectors) != 1:
        raise PlanError(f"{call}: {expr} stands for several columns; write one expression for each")

    def one(tree: Any, name: str) -> Any:
        if isinstance(tree, dict):
            return {"Column": name} if tree.keys() == {"Selector"} else {k: one(v, name) for k, v in tree.items()}
        return [one(v, name) for v in tree] if isinstance(tree, list) else tree

    tree = json.loads(expr.meta.serialize(format="json"))
    (selector,) = selectors.values()
    names = expand_names(known, selector, call)
    return [pl.Expr.deserialize(StringIO(json.dumps(one(tree, name))), format="json") for name in names]


def expand_names(known: Shape, expr: pl.Expr, call: str) -> list[str]:
    """The columns that a selector means."""
    try:
        return _empty(known).select(expr).columns
    except pl.exceptions.PolarsError as error:
        raise PlanError(f"{call}: {expr}: {error}") from None


def _empty(known: Shape) -> pl.DataFrame:
    """A frame without rows of the known columns (null where the type is not known)."""
    fields = [pa.field(n, t or pa.null()) for n, t in zip(known.names or (), known.types or (), strict=True)]
    frame = pl.from_arrow(pa.schema(fields).empty_table())
    assert isinstance(frame, pl.DataFrame)
    return frame


def _type_of(known: Shape, expr: pl.Expr, call: str) -> pa.DataType | None:
    types = dict(zip(known.names or (), known.types or (), strict=True))
    roots = expr.meta.root_names()
    if any(types[name] is None for name in roots):
        return None
    try:
        result = _empty(known).select(expr)
    except pl.exceptions.PolarsError as error:
        raise PlanError(f"{call}: {expr}: {str(error).splitlines()[0]}") from None
    return from_polars(result).schema.field(0).type


class Expressions:
    """The expressions of one call, made ready for batch after batch; `call` is named where one of them fails.

    >>> doubled = Expressions([pl.col("x") * 2, pl.col("x")], "select()")
    >>> [column.to_pylist() for column in doubled.of(pa.record_batch({"x": [1, 2]}))]
    [[2, 4], [1, 2]]
    """

    def __init__(self, exprs: Sequence[pl.Expr], call: str) -> None:
        self._exprs, self._call = exprs, call
        self._bare = [bare(expr) for expr in exprs]
        self._computed = [e.alias(str(i)) for i, e in enumerate(exprs) if self._bare[i] is None]
        self._roots = sorted({name for expr in self._computed for name in expr.meta.root_names()})

    def of(self, data: pa.RecordBatch) -> list[pa.Array]:
        """The value of each for every row; a bare column is passed on untouched, coded or not. Raises RecordError."""
        results = self._computed_of(data) if self._computed else iter(())
        return [next(results) if name is None else data.column(name) for name in self._bare]

    def _computed_of(self, data: pa.RecordBatch) -> Iterator[pa.Array]:
        """Column by column: what makes a whole frame one batch takes as long as computing it."""
        empty = {"": np.zeros(data.num_rows, np.int8)}
        frame = to_polars(decoded(data.select(self._roots))) if self._roots else pl.DataFrame(empty)
        try:
            result = frame.with_columns(self._computed)
        except pl.exceptions.PolarsError as error:
            told = ", ".join(str(e) for e, bare in zip(self._exprs, self._bare, strict=True) if bare is None)
            raise RecordError(f"{self._call}: {told}: {str(error).splitlines()[0]}") from None
        for i in (str(i) for i, name in enumerate(self._bare) if name is None):
            yield plain(result.get_column(i).to_arrow(compat_level=pl.CompatLevel.oldest()))


def named(columns: Iterable[pa.Array], names: Iterable[str], kind: Kind) -> pa.RecordBatch:
    """A batch from columns and names, marked as of `kind`."""
    arrays = list(columns)
    schema = with_kind(pa.schema([(n, c.type) for n, c in zip(names, arrays, strict=True)]), kind)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class Select(Narrow, frozen=True):
    """New columns in place of the old ones. `output` is their shape, found at plan time."""

    exprs: tuple[pl.Expr, ...]
    output: Shape
    label: ClassVar[str] = "select"

    def shape(self, given: Shape | None) -> Shape | None:
        return self.output

    def start(self, env: TaskEnv, track: bool) -> Run:
        names, exprs = self.output.names or (), Expressions(self.exprs, "select()")

        def apply(batch: Batch) -> Batch:
            if isinstance(batch, CodedBatch):
                return CodedBatch(named(exprs.of(batch.coded), names, self.output.kind))
            data = named(exprs.of(batch.data), names, self.output.kind)
            return Batch(data, batch.origins)

        return Stateless(apply)


class WithColumns(Narrow, frozen=True):
    """The old columns, some replaced, some added."""

    exprs: tuple[pl.Expr, ...]
    output: Shape
    label: ClassVar[str] = "with_columns"

    def shape(self, given: Shape | None) -> Shape | None:
        return self.output

    def start(self, env: TaskEnv, track: bool) -> Run:
        names, exprs = [e.meta.output_name() for e in self.exprs], Expressions(self.exprs, "with_columns()")

        def apply(batch: Batch) -> Batch:
            columns = dict(zip(batch.data.schema.names, batch.data.columns, strict=True))
            columns.update(zip(names, exprs.of(batch.data), strict=True))
            return Batch(named(columns.values(), columns, "rows"), batch.origins)

        return Stateless(apply)


class Widen(Narrow, frozen=True):
    """The same records in columns of the types of `output`, where it has one: null < T, int < float where exact."""

    output: Shape
    label: ClassVar[str] = "widen"

    def shape(self, given: Shape | None) -> Shape | None:
        return self.output

    def start(self, env: TaskEnv, track: bool) -> Run:
        def apply(batch: Batch) -> Batch:
            fields = zip(batch.data.schema, self.output.types, strict=True)
            schema = pa.schema([(field.name, wanted or field.type) for field, wanted in fields])
            return Batch(cast(batch.data, with_kind(schema, self.output.kind)), batch.origins)

        return Stateless(apply)


class FilterExpr(Narrow, frozen=True):
    """The rows for which the expression is true (not null, not false)."""

    expr: pl.Expr
    label: ClassVar[str] = "filter"

    def shape(self, given: Shape | None) -> Shape | None:
        return given

    def start(self, env: TaskEnv, track: bool) -> Run:
        exprs = Expressions([self.expr], "filter()")

        def apply(batch: Batch) -> Batch:
            (mask,) = exprs.of(batch.data)
            if pa.types.is_null(mask.type):
                mask = mask.cast(pa.bool_())
            if not pa.types.is_boolean(mask.type):
                raise RecordError(f"filter(): {self.expr} gives {display(mask.type)}, not true or false")
            if mask.null_count:
                mask = mask.fill_null(False)
            if mask.true_count == batch.rows:
                return batch
            origins = None
            if batch.origins is not None:
                origins = batch.origins[mask.to_numpy(zero_copy_only=False)]
            return Batch(batch.data.filter(mask), origins)

        return Stateless(apply)


class Explode(Narrow, frozen=True):
    """One row for each element of the list columns `columns`, side by side; an empty or null list gives one null."""

    columns: tuple[str, ...]
    output: Shape
    label: ClassVar[str] = "explode"

    def shape(self, given: Shape | None) -> Shape | None:
        return self.output

    def start(self, env: TaskEnv, track: bool) -> Run:
        return Stateless(self._apply)

    def _apply(self, batch: Batch) -> Batch:
        data = batch.data
        lists = [self._lists(data, name) for name in self.columns]
        counts = np.maximum(lists[0][1], 1)
        source = np.repeat(np.arange(data.num_rows), counts)
        within = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)
        made = {}
        for name, (flat, lengths) in zip(self.columns, lists, strict=True):
            different = np.flatnonzero(np.maximum(lengths, 1) != counts)
            if len(different):
                row, first = int(different[0]), self.columns[0]
                text = f"{name!r} has {lengths[row]} elements where {first!r} has {lists[0][1][row]}"
                raise RecordError(f"explode(): {text}; lists side by side are of one length", row)
            # position of each output row in the flattened values; empty lists take the null appended at its end
            begins = np.repeat(np.cumsum(lengths) - lengths, counts)
            index = np.where(np.repeat(lengths > 0, counts), begins + within, len(flat))
            made[name] = pa.concat_arrays([flat, pa.nulls(1, flat.type)]).take(pa.array(index))
        rest = data.drop_columns(list(self.columns)).take(pa.array(source))  # copying each list a row: quadratic
        columns = [made[n] if n in made else rest.column(n) for n in data.schema.names]
        origins = None if batch.origins is None else batch.origins[source]
        return Batch(named(columns, data.schema.names, kind_of(data.schema)), origins)

    def _lists(self, data: pa.RecordBatch, name: str) -> tuple[pa.Array, npt.NDArray[np.int64]]:
        """The elements of all lists of a column, and the length of each list."""
        lists = data.column(name)
        if not (pa.types.is_large_list(lists.type) or pa.types.is_list(lists.type)):
            raise RecordError(f"explode({name!r}): the column is of type {display(lists.type)}, not a list")
        return lists.flatten(), lists.value_lengths().fill_null(0).to_numpy().astype(np.int64)


def explode_shape(given: Shape, columns: Sequence[str]) -> Shape:
    """The shape after exploding `columns`. Raises PlanError when one is unknown or not a list."""
    if not columns:
        raise PlanError("explode(): name at least one list column")
    known = require_columns(given, columns, "explode()")
    types = []
    for name, type in zip(known.names, known.types, strict=True):
        if name in columns and type is not None:
            if not (pa.types.is_large_list(type) or pa.types.is_list(type)):
                raise PlanError(f"explode({name!r}): the column is of type {display(type)}, not a list")
            types.append(type.value_type)
        else:
            types.append(type)
    return rows_shape(known.names, types, known.kind)


class Unnest(Narrow, frozen=True):
    """The fields of the struct column `column` as columns in its place; a null struct gives nulls."""

    column: str
    output: Shape
    label: ClassVar[str] = "unnest"

    def shape(self, given: Shape | None) -> Shape | None:
        return self.output

    def start(self, env: TaskEnv, track: bool) -> Run:
        return Stateless(self._apply)

    def _apply(self, batch: Batch) -> Batch:
        columns: list[pa.Array] = []
        for name, given in zip(batch.data.schema.names, batch.data.columns, strict=True):
            columns += given.flatten() if name == self.column else [given]
        return Batch(named(columns, self.output.names, "rows"), batch.origins)


def unnest_shape(given: Shape, column: str, made_at: object) -> Shape:
    """The shape after unnesting `column`. Raises PlanError: unknown, not a struct, or a name that is there twice."""
    known = require_columns(given, [column], "unnest()")
    fields: list[tuple[str, pa.DataType | None]] = []
    for name, type in zip(known.names, known.types, strict=True):
        if name != column:
            fields.append((name, type))
        elif type is None:
            raise PlanError(f"unnest({column!r}): its type is not known before it runs; give it in names= at {made_at}")
        elif not pa.types.is_struct(type):
            raise PlanError(f"unnest({column!r}): the column is of type {display(type)}, not a struct")
        else:
            fields += [(field.name, field.type) for field in type]
    names = [name for name, _ in fields]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise PlanError(f"unnest({column!r}): there is a column {repeated!r} already; rename one with select()")
    return rows_shape(names, [type for _, type in fields])
