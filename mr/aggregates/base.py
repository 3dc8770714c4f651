"""What an aggregate is, and how those of a whole batch are formed, merged and finished by group.

`partials` turns rows into one state a group, `merged` turns states into one state a group, `finals` states into the
results. The law is that of a left fold: merging [a, b, c] in row order is merging [merging [a, b], c], so a group
larger than memory is streamed by putting the state so far in front of the next rows. Rows go in row order, always.

States are columns: `f"{out}.{part}"`, the parts being `Aggregation.parts`. Column types carry what a later step must
know (a sum of durations has a state of durations), so steps need no schema beside them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pyarrow as pa

from mr.abstract import AbstractStruct
from mr.errors import TypeConflict
from mr.kernels import group
from mr.kernels.keys import Ints, codes, normalise_keys
from mr.kernels.types import display

States = dict[str, Any]
"""State columns (Arrow arrays of one length) by part."""

INPUT_SUFFIX = ".in"
"""`agg(total=...)` puts what it aggregates into the column `total.in`; messages name it `total`."""


class Aggregation(AbstractStruct, frozen=True, eq=False):
    """One aggregate of `column`: a column name, an expression (the compiler makes it a column first) or None (rows)."""

    column: str | pl.Expr | None
    parts: ClassVar[tuple[str, ...]]
    name: ClassVar[str]

    @abstractmethod
    def partials(self, column: Any, ids: Ints, groups: int) -> States:
        """States of `groups` groups from the input array (None for `count()`); `ids` int64[rows], the group of each.

        Raises `TypeConflict` naming the column if its type cannot be aggregated so.
        """

    @abstractmethod
    def merged(self, states: States, ids: Ints, groups: int) -> States:
        """States of `groups` groups from states, in row order."""

    @abstractmethod
    def finals(self, states: States) -> Any:
        """The result array, one value a state. Raises `RecordError` if one does not fit its type."""

    @abstractmethod
    def output_type(self, input_type: pa.DataType) -> pa.DataType | None:
        """The type of the result for this input type, None where only the results tell.

        Raises `TypeConflict` if it cannot be aggregated so.
        """

    def exact(self, input_type: pa.DataType) -> bool:
        """Whether merging some neighbouring states earlier gives the same bytes; false where floats are added."""
        return True

    @property
    def of(self) -> str:
        """What is aggregated, for messages."""
        return repr(self.column.removesuffix(INPUT_SUFFIX)) if isinstance(self.column, str) else "its expression"

    def refused(self, dtype: pa.DataType, reason: str) -> TypeConflict:
        """The error for a column of a type that cannot be aggregated so."""
        return TypeConflict(f"{self.name} of {self.of}: values of type {display(dtype)} {reason}")


class Ordered(Aggregation, frozen=True, eq=False):
    """An aggregate of all values of a group, which may be more than memory holds.

    Its values travel as rows of their own and reach `walk` behind the states of their group: docs/decisions/0030.
    If it `sorts`, they come in ascending order, each distinct one of a block once, nulls left out; else all of them in
    row order. `partials` and `merged` are of the states.
    """

    sorts: ClassVar[bool] = True

    @abstractmethod
    def prepared(self, column: Any) -> Any:
        """The column in the form in which its values are compared. Raises `TypeConflict` naming it."""

    @abstractmethod
    def walk(self, before: States | None, values: Any, counts: Ints, ids: Ints, states: States, groups: int) -> States:
        """What is known after these values, one entry a group.

        `values` come group by group in that order, each `counts` times; one value may come in several rows. `before` is
        what was known of group 0 (None: nothing), `states` are the merged states of each group.
        """


def grouped_aggregate(
    data: pa.RecordBatch, key_names: Sequence[str], aggs: Mapping[str, Aggregation], apart: bool = False
) -> pa.RecordBatch:
    """Partial states of each group of `data`: the keys (normalised) and the state columns of each of `aggs`.

    One row a group in order of first occurrence; with no keys exactly one row. `aggs` maps output names to aggregates
    whose `column` is a column name (or None). `apart`: every row is taken for a group, nothing is hashed.

    >>> from mr.aggregates import count
    >>> batch = pa.RecordBatch.from_pydict({"k": ["b", "a", "b"]})
    >>> grouped_aggregate(batch, ["k"], {"n": count()}).to_pylist()
    [{'k': 'b', 'n.n': 2}, {'k': 'a', 'n.n': 1}]
    """
    data = normalise_keys(data, key_names)

    def states(agg: Aggregation, _out: str, ids: Ints, groups: int) -> States:
        return agg.partials(data.column(agg.column) if isinstance(agg.column, str) else None, ids, groups)

    rows = np.arange(data.num_rows, dtype=np.int64) if apart and key_names else None
    groups = _numbered(data, key_names, adjacent=False) if rows is None else (rows, rows, len(rows))
    return _by_group(data, key_names, aggs, states, groups)


def merge_states(
    data: pa.RecordBatch, key_names: Sequence[str], aggs: Mapping[str, Aggregation], adjacent: bool = False
) -> pa.RecordBatch:
    """The states of `grouped_aggregate` (or of this) merged in row order, one row a group in order of first occurrence.

    `adjacent` says that rows of equal keys are neighbours, as after a shuffle: nothing is hashed then.

    >>> from mr.aggregates import count
    >>> batch = pa.RecordBatch.from_pydict({"k": ["b", "a", "b"], "n.n": [1, 2, 3]})
    >>> merge_states(batch, ["k"], {"n": count()}).to_pylist()
    [{'k': 'b', 'n.n': 4}, {'k': 'a', 'n.n': 2}]
    """
    return merge_rows(data, key_names, aggs, adjacent)[0]


def merge_rows(
    data: pa.RecordBatch, key_names: Sequence[str], aggs: Mapping[str, Aggregation], adjacent: bool = False
) -> tuple[pa.RecordBatch, Ints]:
    """As `merge_states`, and the first row of each group (int64; none without keys).

    >>> from mr.aggregates import count
    >>> batch = pa.RecordBatch.from_pydict({"k": ["b", "a", "b"], "n.n": [1, 2, 3]})
    >>> merge_rows(batch, ["k"], {"n": count()})[1].tolist()
    [0, 1]
    """

    def states(agg: Aggregation, out: str, ids: Ints, groups: int) -> States:
        mine = states_of(data, out, agg)
        return mine if groups == data.num_rows else agg.merged(mine, ids, groups)

    groups = _numbered(data, key_names, adjacent)
    return _by_group(data, key_names, aggs, states, groups), groups[1]


def finalise(data: pa.RecordBatch, key_names: Sequence[str], aggs: Mapping[str, Aggregation]) -> pa.RecordBatch:
    """The results: keys and one column for each of `aggs`, row by row from merged states.

    Raises `RecordError` naming the column if a result does not fit its type.

    >>> from mr.aggregates import count
    >>> finalise(pa.RecordBatch.from_pydict({"k": ["b"], "n.n": [4]}), ["k"], {"n": count()}).to_pylist()
    [{'k': 'b', 'n': 4}]
    """
    columns = [data.column(name) for name in key_names]
    columns += [agg.finals(states_of(data, out, agg)) for out, agg in aggs.items()]
    return pa.RecordBatch.from_arrays(columns, [*key_names, *aggs])


def states_of(data: pa.RecordBatch, out: str, agg: Aggregation) -> States:
    """The state columns of the aggregate `out` in `data`."""
    return {part: data.column(f"{out}.{part}") for part in agg.parts}


def _numbered(data: pa.RecordBatch, key_names: Sequence[str], adjacent: bool) -> tuple[Ints, Ints, int]:
    """The group of each row, the first row of each group (none without keys) and their number."""
    if not key_names:
        return np.zeros(data.num_rows, np.int64), np.zeros(0, np.int64), 1
    if adjacent:
        first = group.group_starts(data, key_names)
        return group.ids_of(first, data.num_rows), first, len(first)
    ids, first = codes(data, key_names)
    return ids, first, len(first)


def _by_group(
    data: pa.RecordBatch,
    key_names: Sequence[str],
    aggs: Mapping[str, Aggregation],
    states: Any,
    groups: tuple[Ints, Ints, int],
) -> pa.RecordBatch:
    ids, first, number = groups
    keys = [data.column(name) for name in key_names]
    names, columns = list(key_names), keys if number == data.num_rows else [key.take(pa.array(first)) for key in keys]
    for out, agg in aggs.items():
        for part, column in states(agg, out, ids, number).items():
            names.append(f"{out}.{part}")
            columns.append(column)
    return pa.RecordBatch.from_arrays(columns, names)
