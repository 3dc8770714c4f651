"""Estimates in little space: distinct values (HyperLogLog), quantiles (t-digest), and histograms.

A state is a list of what one block holds; merging joins or unites lists. So a result depends on the blocks that a split
was combined by, which are constant, and on nothing else.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from mr.aggregates.base import Aggregation, States
from mr.aggregates.ordered import as_floats, one_or_lists
from mr.kernels import group, sketches
from mr.kernels.keys import Ints, canonical, hashes, key_problem


class ApproxDistinct(Aggregation, frozen=True, eq=False):
    """About how many different non-null values there are; int64. State: the registers that are not zero, see `kernels`.

    Registers are united by their maximum, so the estimate is the same however the rows are divided.
    """

    name, parts = "approx_distinct", ("registers",)

    def partials(self, column: Any, ids: Ints, groups: int) -> States:
        self.output_type(column.type)
        if column.null_count:
            ids, column = ids[np.asarray(column.is_valid())], column.drop_null()
        words = hashes(pa.RecordBatch.from_arrays([canonical(column)], ["value"]), ["value"])
        return self._registers(*sketches.registers(sketches.entries(words), ids), groups)

    def merged(self, states: States, ids: Ints, groups: int) -> States:
        lists = states["registers"]
        found = sketches.registers(lists.flatten().to_numpy(), ids[np.asarray(lists.value_parent_indices())])
        return self._registers(*found, groups)

    def finals(self, states: States) -> Any:
        lists = states["registers"]
        ids = np.asarray(lists.value_parent_indices())
        return pa.array(sketches.cardinalities(lists.flatten().to_numpy(), ids, len(lists)))

    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        if problem := key_problem(input_type):
            raise self.refused(input_type, f"cannot be compared: {problem}")
        return pa.int64()

    def _registers(self, entries: Any, ids: Ints, groups: int) -> States:
        return {"registers": group.lists(pa.array(entries), ids, groups)}


class ApproxQuantile(Aggregation, frozen=True, eq=False):
    """About the quantiles of the non-null values; float64. State: the clusters of each block, `means` and `weights`."""

    q: float | tuple[float, ...]
    name = "approx_quantile"
    parts: ClassVar[tuple[str, ...]] = ("means", "weights")

    def partials(self, column: Any, ids: Ints, groups: int) -> States:
        self.output_type(column.type)
        if column.null_count:
            ids, column = ids[np.asarray(column.is_valid())], column.drop_null()
        means, weights, owners = sketches.clusters(canonical(as_floats(column)).to_numpy(), ids, groups)
        return {
            "means": group.lists(pa.array(means), owners, groups),
            "weights": group.lists(pa.array(weights), owners, groups),
        }

    def merged(self, states: States, ids: Ints, groups: int) -> States:
        return {part: group.joined_lists(states[part], ids, groups) for part in self.parts}

    def finals(self, states: States) -> Any:
        means, weights = states["means"], states["weights"]
        ids = np.asarray(means.value_parent_indices())
        qs = self.q if isinstance(self.q, tuple) else (self.q,)
        found = sketches.quantiles(means.flatten().to_numpy(), weights.flatten().to_numpy(), ids, len(means), qs)
        return one_or_lists(found, np.asarray(means.value_lengths()) == 0, self.q)

    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        t = pa.types
        if not any(is_it(input_type) for is_it in (t.is_null, t.is_integer, t.is_floating, t.is_decimal)):
            raise self.refused(input_type, "have no quantiles; cast the column to a number first")
        return pa.large_list(pa.float64()) if isinstance(self.q, tuple) else pa.float64()


class Histogram(Aggregation, frozen=True, eq=False):
    """How many values fall between neighbouring `edges`; a list of int64. State: the bins that are not empty."""

    edges: tuple[float, ...]
    name = "histogram"
    parts: ClassVar[tuple[str, ...]] = ("bins", "counts")

    def partials(self, column: Any, ids: Ints, groups: int) -> States:
        self.output_type(column.type)
        if column.null_count:
            ids, column = ids[np.asarray(column.is_valid())], column.drop_null()
        values, edges = as_floats(column).to_numpy(), np.array(self.edges)
        bins = np.searchsorted(edges, values, side="right") - 1
        bins[values == edges[-1]] = len(edges) - 2  # the last bin has both its edges
        inside = (values >= edges[0]) & (values <= edges[-1])
        bins, ids = bins[inside], ids[inside]
        return self._counted(bins, np.ones(len(bins), np.int64), ids, groups)

    def merged(self, states: States, ids: Ints, groups: int) -> States:
        bins, counts = states["bins"], states["counts"]
        owners = ids[np.asarray(bins.value_parent_indices())]
        return self._counted(bins.flatten().to_numpy(), counts.flatten().to_numpy(), owners, groups)

    def finals(self, states: States) -> Any:
        bins, width = states["bins"], len(self.edges) - 1
        counts = np.zeros(len(bins) * width, np.int64)
        counts[np.asarray(bins.value_parent_indices()) * width + bins.flatten().to_numpy()] = (
            states["counts"].flatten().to_numpy()
        )
        offsets = np.arange(len(bins) + 1, dtype=np.int64) * width
        return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(counts))

    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        t = pa.types
        if not any(is_it(input_type) for is_it in (t.is_null, t.is_integer, t.is_floating, t.is_decimal)):
            raise self.refused(input_type, "are no numbers; cast the column first")
        return pa.large_list(pa.int64())

    def _counted(self, bins: Ints, counts: Ints, ids: Ints, groups: int) -> States:
        places, numbers = np.unique(ids * len(self.edges) + bins, return_inverse=True)
        totals = group.sum_ints(counts, numbers.astype(np.int64), len(places))[0]
        owners = places // len(self.edges)
        return {
            "bins": group.lists(pa.array(places % len(self.edges)), owners, groups),
            "counts": group.lists(pa.array(totals), owners, groups),
        }
