"""Keyed operators over columns: aggregate, distinct, top_k of each group.

Their input is sorted by (bucket, key), so a group is a run of equal keys that may go on from one batch to the next.
What is carried over is put in front of the next batch: a strict left fold, whatever the batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mr.aggregates import Aggregation, finalise, grouped_aggregate, merge_states
from mr.aggregates.base import merge_rows
from mr.batch import Kind, kind_of
from mr.errors import RecordError
from mr.kernels.frames import concat
from mr.kernels.group import group_starts, hardly_repeats
from mr.kernels.keys import Ints, codes
from mr.kernels.rows import Shape, to_python
from mr.kernels.sort import order
from mr.operators.base import Combiner, Grouped, TaskEnv, rows_shape
from mr.operators.columns import named
from mr.operators.python import shorten
from mr.options import RECORD_BYTES_MAX, RESULT_ROWS


class AggregateStates(Combiner, frozen=True):
    """Map-side half of `AggregateBy`: one row of partial states for each key of a block."""

    keys: tuple[str, ...]
    aggregates: tuple[tuple[str, Aggregation], ...]

    def exact(self, schema: pa.Schema) -> bool:
        return all(a.column is None or a.exact(schema.field(a.column).type) for _, a in self.aggregates)

    def combine(self, block: pa.RecordBatch) -> pa.RecordBatch:
        values = {}  # of keys as a `CodedBatch` has them; no aggregate looks at keys
        for i, field in enumerate(block.schema):
            if pa.types.is_dictionary(field.type):  # equal codes are equal keys
                column = block.column(i)
                values[field.name] = column.dictionary
                block = block.set_column(i, field.with_type(column.indices.type), column.indices)
        apart = len(values) < len(self.keys) and self.exact(block.schema) and hardly_repeats(block, self.keys)
        states = grouped_aggregate(block, self.keys, dict(self.aggregates), apart)
        for name, dictionary in values.items():
            i = states.schema.get_field_index(name)
            states = states.set_column(i, name, dictionary.take(states.column(i)))
        return states

    def recombine(self, partial: pa.RecordBatch) -> pa.RecordBatch:
        return merge_states(partial, self.keys, dict(self.aggregates))


class AggregateBy(Grouped, frozen=True):
    """One row for each key: the key columns and the aggregates by name. Without keys always exactly one row."""

    keys: tuple[str, ...]
    aggregates: tuple[tuple[str, Aggregation], ...]
    label: ClassVar[str] = "agg"
    merges: ClassVar[bool] = True

    def merge(self, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, Ints]:
        return merge_rows(rows, self.keys, dict(self.aggregates))

    @property
    def combiner(self) -> Combiner | None:
        return AggregateStates(self.keys, self.aggregates)

    def shape(self, given: Shape) -> Shape | None:
        types = dict(zip(given.names or (), given.types or (), strict=True))
        names = [*self.keys, *(name for name, _ in self.aggregates)]
        outputs = [output_type(aggregate, types) for _, aggregate in self.aggregates]
        return rows_shape(names, [*(types.get(key) for key in self.keys), *outputs])

    def reduce(self, rows: Iterator[pa.RecordBatch], env: TaskEnv) -> Iterator[pa.RecordBatch]:
        aggregates = dict(self.aggregates)
        carried: pa.RecordBatch | None = None
        for batch in rows:
            data = batch if carried is None else concat([carried, batch], batch.schema)
            merged = merge_states(data, self.keys, aggregates, adjacent=True)
            check_state(merged, self.keys)
            done = merged.num_rows - 1
            for start in range(0, done, RESULT_ROWS):
                yield finalise(merged.slice(start, min(RESULT_ROWS, done - start)), self.keys, aggregates)
            carried = merged.slice(max(done, 0))
        if carried is not None and carried.num_rows:
            yield finalise(carried, self.keys, aggregates)


def check_state(states: pa.RecordBatch, keys: tuple[str, ...]) -> None:
    """Raise RecordError naming the key where a list or an object of one group is longer than a record may be."""
    if states.nbytes <= RECORD_BYTES_MAX:
        return
    for name, column in zip(states.schema.names[len(keys) :], states.columns[len(keys) :], strict=True):
        stored = column.storage if isinstance(column, pa.ExtensionArray) else column
        if pa.types.is_large_list(stored.type):
            lengths = stored.value_lengths()
        elif pa.types.is_large_binary(stored.type) or pa.types.is_large_string(stored.type):
            lengths = pc.binary_length(stored)
        else:
            continue
        row = int(np.argmax(lengths.fill_null(0).to_numpy()))
        one = stored.slice(row, 1)
        if (one.flatten() if pa.types.is_large_list(one.type) else one).nbytes > RECORD_BYTES_MAX:
            found = keep(states.slice(row, 1), keys, "values" if len(keys) == 1 else "rows")
            key = f" of the key {shorten(to_python(found)[0])}" if keys else ""
            text = f"agg(): {name.rpartition('.')[0]!r}{key} is longer than {RECORD_BYTES_MAX >> 20} MiB"
            raise RecordError(f"{text}; use map_groups(), which streams the rows")


def output_type(aggregate: Aggregation, types: dict[str, pa.DataType | None]) -> pa.DataType | None:
    """The type of an aggregate's result for columns of these types, None where only the data tells."""
    given = pa.null() if aggregate.column is None else types[str(aggregate.column)]
    return None if given is None else aggregate.output_type(given)


class FirstOfKey(Combiner, frozen=True):
    """Map-side half of `Distinct`: the first row of each key of a block."""

    keys: tuple[str, ...]

    def exact(self, schema: pa.Schema) -> bool:
        return True

    def combine(self, block: pa.RecordBatch) -> pa.RecordBatch:
        if hardly_repeats(block, self.keys):
            return block
        _, representatives = codes(block, self.keys)
        return block.take(pa.array(representatives))


class Distinct(Grouped, frozen=True):
    """The first row of each key (`keys` are all columns for `distinct()`)."""

    keys: tuple[str, ...]
    label: ClassVar[str] = "distinct"
    merges: ClassVar[bool] = True

    def merge(self, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, Ints]:
        _, firsts = codes(rows, self.keys)
        return rows.take(pa.array(firsts)), firsts

    @property
    def combiner(self) -> Combiner | None:
        return FirstOfKey(self.keys)

    def shape(self, given: Shape) -> Shape | None:
        return given

    def reduce(self, rows: Iterator[pa.RecordBatch], env: TaskEnv) -> Iterator[pa.RecordBatch]:
        last: pa.RecordBatch | None = None
        for batch in rows:
            data = batch if last is None else concat([last, batch], batch.schema)
            starts = group_starts(data, self.keys)
            fresh = starts if last is None else starts[1:]  # the first group's row went out with an earlier batch
            if len(fresh):
                yield data.take(pa.array(fresh))
            if data.num_rows:
                last = data.slice(data.num_rows - 1)


def ranks(starts: np.ndarray[tuple[int], np.dtype[np.int64]], rows: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The place of each row in its group, from 0, for groups that begin at `starts`.

    >>> ranks(np.array([0, 2]), 5).tolist()
    [0, 1, 0, 1, 2]
    """
    sizes = np.diff(np.append(starts, rows))
    result: np.ndarray[tuple[int], np.dtype[np.int64]] = np.arange(rows, dtype=np.int64) - np.repeat(starts, sizes)
    return result


class TopOfKey(Combiner, frozen=True):
    """Map-side half of `TopByKey`: no row that `count` rows of its own block come before."""

    keys: tuple[str, ...]
    count: int
    by: tuple[str, ...]
    descending: tuple[bool, ...]

    def exact(self, schema: pa.Schema) -> bool:
        return True

    def combine(self, block: pa.RecordBatch) -> pa.RecordBatch:
        in_order = np.asarray(order(block, self.by, self.descending), dtype=np.int64)
        group, _ = codes(block, self.keys)
        grouped = in_order[np.argsort(group[in_order], kind="stable")]
        ids = group[grouped]
        starts = np.flatnonzero(np.diff(ids, prepend=-1))
        kept = grouped[ranks(starts, len(grouped)) < self.count]
        return block.take(pa.array(np.sort(kept)))


class TopByKey(Grouped, frozen=True):
    """The first `count` rows of each key in the order of `by`, ties in input order."""

    keys: tuple[str, ...]
    count: int
    by: tuple[str, ...]
    descending: tuple[bool, ...]
    label: ClassVar[str] = "top_k by key"

    @property
    def order(self) -> tuple[tuple[str, ...], tuple[bool, ...]]:
        return self.by, self.descending

    @property
    def combiner(self) -> Combiner | None:
        return TopOfKey(self.keys, self.count, self.by, self.descending)

    def shape(self, given: Shape) -> Shape | None:
        return given

    def reduce(self, rows: Iterator[pa.RecordBatch], env: TaskEnv) -> Iterator[pa.RecordBatch]:
        last: pa.RecordBatch | None = None
        taken = 0  # rows of the last group seen so far
        for batch in rows:
            if not batch.num_rows:
                continue
            data = batch if last is None else concat([last, batch], batch.schema)
            starts = group_starts(data, self.keys)
            rank = ranks(starts, data.num_rows)
            first_group = int(starts[1]) if len(starts) > 1 else data.num_rows
            if last is not None:
                rank[:first_group] += taken - 1
                rank[0] = self.count  # the carried row went out already
            yield data.take(pa.array(np.flatnonzero(rank < self.count)))
            size = data.num_rows - int(starts[-1])
            taken = size if len(starts) > 1 or last is None else taken + size - 1
            last = data.slice(data.num_rows - 1)


def keep(data: pa.RecordBatch, names: tuple[str, ...], kind: Kind | None = None) -> pa.RecordBatch:
    """The columns `names` of a batch, in that order."""
    return named([data.column(n) for n in names], names, kind or kind_of(data.schema))
