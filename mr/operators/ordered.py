"""Aggregates of all values of a group, such as the exact quantile, without ever holding a group: docs/decisions/0030.

Through the shuffle go, for each key, rows of two sorts, told apart by the column `TAG`: first (0) one row of states for
each combine block, then for each such aggregate (1, 2, ...) its values in ascending order. Rows of one key that hold
equal values may be several, one for each run. The reduce side reads them in that order and carries one row of states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from mr.aggregates import Aggregation, Ordered, States, finalise, grouped_aggregate, merge_states, states_of
from mr.kernels.frames import concat
from mr.kernels.group import count, group_starts, hardly_repeats, ids_of
from mr.kernels.keys import codes, normalise_keys
from mr.kernels.rows import Shape
from mr.kernels.types import nulls
from mr.operators.base import Combiner, Grouped, TaskEnv, rows_shape
from mr.operators.grouped import check_state, output_type

TAG, TIMES = "\x1ftag", "\x1ftimes"
"""Named as no column is: a key may have any other name."""

Named = tuple[tuple[str, Aggregation], ...]


def _ordered(aggregates: Named) -> list[tuple[str, Ordered]]:
    return [(out, agg) for out, agg in aggregates if isinstance(agg, Ordered)]


def _values(out: str) -> str:
    return f"{out}.values"


class ValueRows(Combiner, frozen=True):
    """Map-side half of `AggregateOrdered`: rows of states, and each distinct value of a key and block once."""

    keys: tuple[str, ...]
    aggregates: Named

    def exact(self, schema: pa.Schema) -> bool:
        return False  # combining the blocks of a run with each other would cost more than it saves

    def combine(self, block: pa.RecordBatch) -> pa.RecordBatch:
        block = normalise_keys(block, self.keys)
        parts = [(0, _columns(grouped_aggregate(block, self.keys, dict(self.aggregates))))]
        for tag, (out, agg) in enumerate(_ordered(self.aggregates), 1):
            values = agg.prepared(block.column(agg.column))
            data = pa.RecordBatch.from_pydict({**{key: block.column(key) for key in self.keys}, _values(out): values})
            parts.append((tag, self._distinct(data, out) if agg.sorts else _each(data)))
        return _stacked(parts)

    def _distinct(self, data: pa.RecordBatch, out: str) -> dict[str, Any]:
        """Each distinct (key, value) of a block once, nulls left out, and how often it stands there.

        Where hardly any repeats, the rows as they are.
        """
        column = data.column(_values(out))
        if column.null_count:
            data = data.filter(column.is_valid())
        names = [*self.keys, _values(out)]
        if hardly_repeats(data, names):
            return _each(data)
        ids, first = codes(data, names)
        return {**_columns(data.take(pa.array(first))), TIMES: pa.array(count(ids, len(first)))}


def _each(data: pa.RecordBatch) -> dict[str, Any]:
    """The rows as they are, each once."""
    return {**_columns(data), TIMES: pa.array(np.ones(data.num_rows, np.int64))}


def _columns(data: pa.RecordBatch) -> dict[str, Any]:
    return dict(zip(data.schema.names, data.columns, strict=True))


def _stacked(parts: Sequence[tuple[int, Mapping[str, Any]]]) -> pa.RecordBatch:
    """Rows of several sorts below each other, null where a sort has no such column."""
    types = {name: column.type for _, columns in parts for name, column in columns.items()}
    stacked = {}
    sizes = [len(next(iter(columns.values()))) for _, columns in parts]
    for name, type_ in types.items():
        given = [columns.get(name) for _, columns in parts]
        stacked[name] = pa.concat_arrays(
            [nulls(size, type_) if column is None else column for column, size in zip(given, sizes, strict=True)]
        )
    stacked[TAG] = pa.array(np.repeat(np.array([tag for tag, _ in parts], np.int8), sizes))
    return pa.RecordBatch.from_pydict(stacked)


class AggregateOrdered(Grouped, frozen=True):
    """One row for each key, as `AggregateBy`, where some aggregate is `Ordered`."""

    keys: tuple[str, ...]
    aggregates: Named
    label: ClassVar[str] = "agg"

    @property
    def order(self) -> tuple[tuple[str, ...], tuple[bool, ...]]:
        by = (TAG, *(_values(out) for out, agg in _ordered(self.aggregates) if agg.sorts))
        return by, (False,) * len(by)

    @property
    def combiner(self) -> Combiner | None:
        return ValueRows(self.keys, self.aggregates)

    def shape(self, given: Shape) -> Shape:
        types = dict(zip(given.names or (), given.types or (), strict=True))
        names = [*self.keys, *(name for name, _ in self.aggregates)]
        outputs = [output_type(aggregate, types) for _, aggregate in self.aggregates]
        return rows_shape(names, [*(types.get(key) for key in self.keys), *outputs])

    def reduce(self, rows: Iterator[pa.RecordBatch], env: TaskEnv) -> Iterator[pa.RecordBatch]:
        carried: pa.RecordBatch | None = None
        known: dict[str, States] = {}
        for batch in rows:
            if not batch.num_rows:
                continue
            data = batch if carried is None else concat([carried, batch], batch.schema)
            states, known = self._walked(data, known)
            self._check(states, known)
            done = states.num_rows - 1
            if done:
                yield self._results(states.slice(0, done), {out: _cut(one, 0, done) for out, one in known.items()})
            known = {out: _cut(one, done, done + 1) for out, one in known.items()}
            last = states.slice(done)
            carried = _stacked([(0, _columns(last))])
            carried = pa.RecordBatch.from_arrays(
                [carried.column(f.name) if f.name in carried.schema.names else nulls(1, f.type) for f in data.schema],
                schema=data.schema,
            )
        if carried is not None:
            yield self._results(carried, known)

    def _check(self, states: pa.RecordBatch, known: dict[str, States]) -> None:
        """Raise RecordError naming the key of a group whose values do not fit a record."""
        check_state(states, self.keys)
        keys = [states.column(key) for key in self.keys]
        for out, found in known.items():
            if isinstance(found.get("values"), pa.LargeListArray):
                check_state(pa.RecordBatch.from_arrays([*keys, found["values"]], [*self.keys, _values(out)]), self.keys)

    def nothing(self, shape: Shape) -> pa.RecordBatch:
        """The one row over no rows of `shape`, without a key."""
        types = [type_ or pa.null() for type_ in shape.types]
        empty = pa.RecordBatch.from_arrays([pa.nulls(0, type_) for type_ in types], names=list(shape.names))
        states = grouped_aggregate(empty, (), dict(self.aggregates))
        none = np.zeros(0, np.int64)
        known = {
            out: agg.walk(None, agg.prepared(empty.column(agg.column)), none, none, states_of(states, out, agg), 1)
            for out, agg in _ordered(self.aggregates)
        }
        return self._results(states, known, ())

    def _walked(self, data: pa.RecordBatch, known: dict[str, States]) -> tuple[pa.RecordBatch, dict[str, States]]:
        """The states of each group of `data`, and what each ordered aggregate knows of it."""
        starts = group_starts(data, self.keys)
        ids = ids_of(starts, data.num_rows)
        tags = data.column(TAG).to_numpy()
        states = merge_states(data.filter(pa.array(tags == 0)), self.keys, dict(self.aggregates), adjacent=True)
        found = {}
        for tag, (out, agg) in enumerate(_ordered(self.aggregates), 1):
            mine = np.flatnonzero(tags == tag)
            values = data.column(_values(out)).take(pa.array(mine))
            times = data.column(TIMES).take(pa.array(mine)).to_numpy()
            mine_states = states_of(states, out, agg)
            found[out] = agg.walk(known.get(out), values, times, ids[mine], mine_states, len(starts))
        return states, found

    def _results(
        self, states: pa.RecordBatch, known: dict[str, States], keys: tuple[str, ...] | None = None
    ) -> pa.RecordBatch:
        keys = self.keys if keys is None else keys
        ordered = dict(_ordered(self.aggregates))
        plain = finalise(states, keys, {out: agg for out, agg in self.aggregates if out not in ordered})
        columns = _columns(plain)
        for out, agg in ordered.items():
            columns[out] = agg.finals({**states_of(states, out, agg), **known[out]})
        names = [*keys, *(out for out, _ in self.aggregates)]
        return pa.RecordBatch.from_arrays([columns[name] for name in names], names)


def _cut(known: States, start: int, stop: int) -> States:
    return {part: column[start:stop] for part, column in known.items()}


class OneRow(Grouped, frozen=True):
    """The row of the only group of `AggregateOrdered` without its key, or that of no rows if there is no group."""

    by: AggregateOrdered
    given: Shape
    keys: tuple[str, ...] = ()
    label: ClassVar[str] = "agg"

    def shape(self, given: Shape) -> Shape:
        kept = len(self.by.keys)
        return rows_shape(given.names[kept:], given.types[kept:])

    def reduce(self, rows: Iterator[pa.RecordBatch], env: TaskEnv) -> Iterator[pa.RecordBatch]:
        found = [batch.select(batch.schema.names[len(self.by.keys) :]) for batch in rows if batch.num_rows]
        yield from found or [self.by.nothing(self.given)]
