"""Exact aggregates of all values of a group: how many differ, and quantiles. A group may be larger than memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mr.aggregates.base import Ordered, States
from mr.kernels import group
from mr.kernels.keys import Ints, canonical, key_problem


class CountDistinct(Ordered, frozen=True, eq=False):
    """How many different non-null values there are, exactly; int64."""

    name, parts = "count_distinct", ()

    def partials(self, column: Any, ids: Ints, groups: int) -> States:
        return {}

    def merged(self, states: States, ids: Ints, groups: int) -> States:
        return {}

    def prepared(self, column: Any) -> Any:
        self.output_type(column.type)
        return canonical(column)

    def walk(self, before: States | None, values: Any, counts: Ints, ids: Ints, states: States, groups: int) -> States:
        known = before is not None and before["any"][0]
        if before is not None and known:  # the last value of before comes again, in front
            values = pa.concat_arrays([before["last"], values])
            ids = np.concatenate([[0], ids])
        pairs = pa.RecordBatch.from_arrays([pa.array(ids), values], ["id", "value"])
        n = group.count(ids[group.group_starts(pairs, ["id", "value"])], groups)
        if before is not None and known:
            n[0] += before["n"][0] - 1
        last = len(ids) - 1 - group.firsts(ids[::-1], groups)
        last_values = values.take(pa.array(last, mask=last >= len(ids)))
        return {"n": n, "last": last_values, "any": last < len(ids)}

    def finals(self, states: States) -> Any:
        return pa.array(states["n"])

    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        if problem := key_problem(input_type):
            raise self.refused(input_type, f"cannot be compared: {problem}")
        return pa.int64()


class Quantile(Ordered, frozen=True, eq=False):
    """Quantiles of the non-null values by linear interpolation (type 7 of Hyndman and Fan, 1996); float64.

    `q` is one or several from 0 to 1; several give a list. State: `n`, how many values there are, which is known before
    the values come: the two around each quantile are picked in passing.
    """

    q: float | tuple[float, ...]
    name, parts = "quantile", ("n",)

    @property
    def qs(self) -> tuple[float, ...]:
        return self.q if isinstance(self.q, tuple) else (self.q,)

    def partials(self, column: Any, ids: Ints, groups: int) -> States:
        among = None if column.null_count == 0 else np.asarray(column.is_valid())
        return {"n": pa.array(group.count(ids, groups, among))}

    def merged(self, states: States, ids: Ints, groups: int) -> States:
        return {"n": pa.array(group.sum_ints(states["n"].to_numpy(), ids, groups)[0])}

    def prepared(self, column: Any) -> Any:
        self.output_type(column.type)
        return canonical(as_floats(column))

    def walk(self, before: States | None, values: Any, counts: Ints, ids: Ints, states: States, groups: int) -> States:
        until = np.cumsum(counts)
        more = group.sum_ints(counts, ids, groups)[0]
        start = np.cumsum(more) - more
        seen = np.zeros(groups, np.int64)
        picks = {f"{side}{i}": np.full(groups, np.nan) for side in ("low", "high") for i in range(len(self.qs))}
        if before is not None:
            seen[0] = before["seen"][0]
            for name, pick in picks.items():
                pick[0] = before[name][0]
        floats, total = values.to_numpy(), states["n"].to_numpy()
        for i, q in enumerate(self.qs):
            low = np.floor((total - 1) * q).astype(np.int64)
            for side, wanted in (("low", low), ("high", np.minimum(low + 1, total - 1))):
                here = np.flatnonzero((wanted >= seen) & (wanted < seen + more))
                places = np.searchsorted(until, start[here] + wanted[here] - seen[here], side="right")
                picks[f"{side}{i}"][here] = floats[places]
        return {"seen": seen + more, **picks}

    def finals(self, states: States) -> Any:
        total = states["n"].to_numpy()
        found = []
        for i, q in enumerate(self.qs):
            place = (total - 1) * q
            found.append(between(states[f"low{i}"], states[f"high{i}"], place - np.floor(place)))
        return one_or_lists(found, total == 0, self.q)

    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        t = pa.types
        if not any(is_it(input_type) for is_it in (t.is_null, t.is_integer, t.is_floating, t.is_decimal)):
            raise self.refused(input_type, "have no quantiles; cast the column to a number first")
        return pa.large_list(pa.float64()) if isinstance(self.q, tuple) else pa.float64()


def as_floats(column: Any) -> Any:
    """Numbers as float64, rounded where they have more digits."""
    return column if pa.types.is_float64(column.type) else column.cast(pa.float64(), safe=False)


def between(low: Any, high: Any, share: Any) -> Any:
    """The point that lies `share` of the way from `low` to `high`; exactly these where the share is 0 or they agree."""
    with np.errstate(all="ignore"):
        return np.where((share == 0) | (low == high), low, low * (1 - share) + high * share)


def one_or_lists(columns: Sequence[Any], none: Any, q: float | tuple[float, ...]) -> Any:
    """One float column, or, where several quantiles were asked for, a list a row; null where `none` is true."""
    if not isinstance(q, tuple):
        return pa.array(columns[0], pa.float64(), mask=none)
    offsets = np.arange(len(none) + 1, dtype=np.int64) * len(columns)
    flat = pa.array(np.stack(columns, axis=1).ravel())
    return pa.LargeListArray.from_arrays(pa.array(offsets), flat, mask=pa.array(none))
