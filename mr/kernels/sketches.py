"""Sketches of many groups at once: HyperLogLog registers and t-digest clusters, as plain arrays with an owner each.

Nothing is random, and no transcendental function of the machine's library is called, so the bytes are the same on every
processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mr.kernels import group
from mr.kernels.keys import Ints, Words
from mr.kernels.sort import number_part, order_by, ordered_words

Entries = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float64]

# --- distinct values: HyperLogLog (Flajolet, Fusy, Gandouet, Meunier, 2007) ------------------------------------------

REGISTER_BITS: Final = 14
"""2^14 registers: a standard error of 1.04 / 2^7 = 0.8 %."""
_REST: Final = 64 - REGISTER_BITS
_RANK_BITS: Final = 6
_ALPHA: Final = 0.7213475204444817  # 1 / (2 ln 2)


def entries(hashes: Words) -> Entries:
    """What each hash says: its register and the rank of its first one bit, as register << 6 | rank.

    >>> [(int(e) >> 6, int(e) & 63) for e in entries(np.array([0, 1 << 63, 1 << 49], np.uint64))]
    [(0, 51), (8192, 51), (0, 1)]
    """
    rest = hashes & np.uint64((1 << _REST) - 1)
    rank = _REST + 1 - np.frexp(rest.astype(np.float64))[1]  # 50 bits are exact as a float; of 0 the exponent is 0
    return (((hashes >> np.uint64(_REST)) << np.uint64(_RANK_BITS)) | rank.astype(np.uint64)).astype(np.uint32)


def registers(found: Entries, ids: Ints) -> tuple[Entries, Ints]:
    """The highest entry of each register of each group, and the group of each; in (group, register) order.

    >>> kept, owners = registers(np.array([65, 66, 64], np.uint32), np.array([0, 0, 1]))
    >>> kept.tolist(), owners.tolist()
    ([66, 64], [0, 1])
    """
    bits = np.uint64(REGISTER_BITS + _RANK_BITS)
    packed = (ids.astype(np.uint64) << bits) | found.astype(np.uint64)
    packed.sort()
    register = packed >> np.uint64(_RANK_BITS)
    highest = np.ones(len(packed), bool)
    highest[:-1] = register[1:] != register[:-1]
    packed = packed[highest]
    return (packed & np.uint64((1 << int(bits)) - 1)).astype(np.uint32), (packed >> bits).astype(np.int64)


def cardinalities(found: Entries, ids: Ints, groups: int) -> Ints:
    """The estimate for each group from its `registers`, int64[groups].

    The improved raw estimator of O. Ertl, "New cardinality estimation algorithms for HyperLogLog sketches", 2017: no
    tables, and no switch to linear counting between small and large.

    >>> cardinalities(*registers(entries(np.arange(5, dtype=np.uint64) << np.uint64(60)), np.zeros(5, np.int64)), 1)
    array([5])
    """
    width, m = _REST + 2, float(1 << REGISTER_BITS)
    ranks = (found & np.uint32((1 << _RANK_BITS) - 1)).astype(np.int64)
    counts = group.count(ids * width + ranks, groups * width).reshape(groups, width).astype(np.float64)
    zeros = m - counts.sum(axis=1)
    z = m * _tau(1.0 - counts[:, _REST + 1] / m)
    for rank in range(_REST, 0, -1):
        z = 0.5 * (z + counts[:, rank])
    empty = zeros == m
    z += m * _sigma(np.where(empty, 0.0, zeros / m))
    return np.where(empty, 0, np.rint(_ALPHA * m * m / np.where(z == 0, 1.0, z))).astype(np.int64)


def _sigma(x: Floats) -> Floats:
    z, y = x.copy(), 1.0
    while True:
        x = x * x
        before = z
        z = z + x * y
        y += y
        if (z == before).all():
            return z


def _tau(x: Floats) -> Floats:
    z, y = 1.0 - x, 1.0
    while True:
        x = np.sqrt(x)
        before = z
        y *= 0.5
        z = z - (1.0 - x) ** 2 * y
        if (z == before).all():
            return np.where(x == 0, 0.0, z / 3.0)


# --- quantiles: t-digest (Dunning and Ertl, "Computing extremely accurate quantiles using t-digests", 2019) -----------

CLUSTERS_MAX: Final = 256
"""Clusters of one digest, about; a group of no more values keeps them all."""


def _edges() -> Floats:
    """Where clusters end: (1 - cos(pi j / 256)) / 2, which is their scale function k1, by Chebyshev's recurrence."""
    cos = [1.0, 0.9999247018391445]  # cos(pi / 256), to the last digit
    while len(cos) <= CLUSTERS_MAX:
        cos.append(2 * cos[1] * cos[-1] - cos[-2])
    return (1.0 - np.array(cos[1:CLUSTERS_MAX])) / 2.0


_EDGES: Final = _edges()


def clusters(values: Floats, ids: Ints, groups: int) -> tuple[Floats, Ints, Ints]:
    """The t-digest of each group: the mean and weight (values) of each cluster and the group that it belongs to.

    In (group, value) order. The first and the last value of a group are clusters of their own, NaN and infinities lie
    in clusters without numbers.

    >>> means, weights, owners = clusters(np.arange(1000.0), np.zeros(1000, np.int64), 1)
    >>> len(means) <= 258, float(means[0]), float(means[-1]), int(weights.sum())
    (True, 0.0, 999.0, 1000)
    """
    order = _by_value(values, ids)
    values, ids = values[order], ids[order]
    total = group.count(ids, groups)
    start = np.cumsum(total) - total
    rank = np.arange(len(ids), dtype=np.int64) - start[ids]
    mine = total[ids]
    begins = np.ones(len(ids), bool)
    bins = np.searchsorted(_EDGES, (rank + 0.5) / mine)
    kind = np.where(np.isnan(values), 2, np.sign(values) * np.isinf(values))
    begins[1:] = (bins[1:] != bins[:-1]) | (kind[1:] != kind[:-1])
    begins |= (mine <= CLUSTERS_MAX) | (rank <= 1) | (rank == mine - 1)
    first = np.flatnonzero(begins)
    number = group.ids_of(first, len(ids))
    weights = group.count(number, len(first))
    with np.errstate(invalid="ignore"):
        means = group.sum_floats(values, number, len(first)) / weights
    return np.where(weights == 1, values[first], means), weights, ids[first]


def quantiles(means: Floats, weights: Ints, ids: Ints, groups: int, qs: Sequence[float]) -> list[Any]:
    """For each of `qs` the quantile of each group (NaN of an empty one) from the clusters of one or more digests.

    Each cluster's values are taken to lie around its mean; between means it is interpolated linearly.

    >>> [float(q[0]) for q in quantiles(np.array([1.0, 2.0]), np.ones(2, np.int64), np.zeros(2, np.int64), 1, [0, 0.5])]
    [1.0, 1.5]
    """
    order = _by_value(means, ids)
    means, weights, ids = means[order], weights[order], ids[order]
    size = group.count(ids, groups)
    total = group.sum_ints(weights, ids, groups)[0]
    middles = 2 * np.cumsum(weights) - weights  # doubled: whole numbers, in which groups before this one do not show
    first = np.cumsum(size) - size
    base = 2 * (np.cumsum(total) - total)
    found = []
    some = np.flatnonzero(size)
    for q in qs:
        target = 2 * (total[some] - 1) * q + 1
        high = np.searchsorted(middles, base[some] + np.ceil(target).astype(np.int64))
        low = np.clip(high - 1, first[some], first[some] + size[some] - 1)
        high = np.clip(high, first[some], first[some] + size[some] - 1)
        a, b = means[low], means[high]
        gap = middles[high] - middles[low]
        share = np.where(gap > 0, (target - (middles[low] - base[some])) / np.where(gap > 0, gap, 1), 0.0)
        result = np.full(groups, np.nan)
        with np.errstate(invalid="ignore"):
            result[some] = np.where((share == 0) | (a == b), a, np.where(share == 1, b, a * (1 - share) + b * share))
        found.append(result)
    return found


def _by_value(values: Floats, ids: Ints) -> Ints:
    """The rows in (group, value) order, NaN above all numbers."""
    words = ordered_words((values + 0.0).view(np.uint64), "float")
    return order_by(len(ids), [number_part(ids.view(np.uint64)), number_part(words)])
