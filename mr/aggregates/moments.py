"""Variance and standard deviation of a sample, numerically sound and in a fixed order of operations.

Within a block the corrected two-pass algorithm (Chan, Golub, LeVeque, "Algorithms for Computing the Sample Variance",
1983); blocks are merged pairwise, from the left (Chan, Golub, LeVeque, 1979).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from mr.aggregates.base import Aggregation, States
from mr.kernels import group
from mr.kernels.keys import Ints, null_mask


class Variance(Aggregation, frozen=True, eq=False):
    """The variance of the non-null values with n - 1 degrees of freedom as float64; null for fewer than two.

    State: `n`, the `mean` and `m2`, the sum of squared deviations from it.
    """

    name = "var"
    parts: ClassVar[tuple[str, ...]] = ("n", "mean", "m2")

    def partials(self, column: Any, ids: Ints, groups: int) -> States:
        self.output_type(column.type)
        nulls = null_mask(column)
        if nulls is not None:
            column, ids = column.drop_null(), ids[~nulls]
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.uint8())
        values = column.cast(pa.float64(), safe=False).to_numpy()
        n = group.count(ids, groups)
        safe = np.maximum(n, 1)
        with np.errstate(all="ignore"):  # infinities make NaN, which is the answer
            mean = group.sum_floats(values, ids, groups) / safe
            off = values - mean[ids]
            m2 = group.sum_floats(off * off, ids, groups) - group.sum_floats(off, ids, groups) ** 2 / safe
            return _states(n, mean, np.maximum(m2, 0.0))

    def merged(self, states: States, ids: Ints, groups: int) -> States:
        counts, means, m2s = (states[part].to_numpy() for part in self.parts)
        n, mean, m2 = np.zeros(groups, np.int64), np.zeros(groups), np.zeros(groups)
        with np.errstate(all="ignore"):
            for rows in group.rounds(ids, groups):
                rows = rows[counts[rows] > 0]
                at = ids[rows]
                before, more = n[at], counts[rows]
                total = before + more
                distance = means[rows] - mean[at]
                share = more / total
                mean[at] = np.where(before == 0, means[rows], mean[at] + distance * share)
                m2[at] = np.where(before == 0, m2s[rows], m2[at] + m2s[rows] + distance * distance * before * share)
                n[at] = total
        return _states(n, mean, m2)

    def finals(self, states: States) -> Any:
        n, m2 = states["n"].to_numpy(), states["m2"].to_numpy()
        return pa.array(m2 / np.maximum(n - 1, 1), mask=n < 2)

    def output_type(self, input_type: pa.DataType) -> pa.DataType:
        t = pa.types
        if not any(is_it(input_type) for is_it in (t.is_null, t.is_integer, t.is_boolean, t.is_floating, t.is_decimal)):
            raise self.refused(input_type, "have no variance; cast the column to a number first")
        return pa.float64()

    def exact(self, input_type: pa.DataType) -> bool:
        return False


class Deviation(Variance, frozen=True, eq=False):
    """The square root of the variance."""

    name = "std"

    def finals(self, states: States) -> Any:
        variance = super().finals(states)
        return pa.array(np.sqrt(variance.fill_null(0.0).to_numpy()), mask=null_mask(variance))


def _states(n: Ints, mean: Any, m2: Any) -> States:
    for floats in (mean, m2):
        floats[np.isnan(floats)] = np.nan  # one bit pattern
    return {"n": pa.array(n), "mean": pa.array(mean), "m2": pa.array(m2)}
