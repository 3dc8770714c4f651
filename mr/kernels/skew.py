"""Frequent keys of sorted rows: found by looking at every n-th row, with lower bounds of how often they occur.

In sorted rows a key that occurs at c places of an even sample has at least (c - 1) * step + 1 rows. Sampling sorted
rows costs next to nothing and misses no key of more than two steps, which is what the summaries of Misra and Gries
("Finding repeated elements", 1982) guarantee for streams; sums of such bounds are bounds again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from mr.kernels.group import group_starts
from mr.kernels.keys import Ints, codes
from mr.kernels.sort import number_part, order_by
from mr.options import FREQUENT_KEYS_MAX, FREQUENT_ROWS_MIN

ROWS: Final = "\x1frows"
"""The column of row counts beside the keys, named as no key is."""
_SAMPLE_ROWS: Final = 4096


def frequent_keys(data: pa.RecordBatch, keys: Sequence[str]) -> pa.RecordBatch:
    """The most frequent keys of `data`, in which equal keys lie together: key columns and `ROWS`, lower bounds.

    At most `FREQUENT_KEYS_MAX`, each with at least `FREQUENT_ROWS_MIN` rows.

    >>> frequent_keys(pa.RecordBatch.from_pydict({"k": ["a"] * 2000 + ["b"]}), ["k"]).column(ROWS).to_pylist()
    [2000]
    """
    step = max(1, data.num_rows // _SAMPLE_ROWS)
    sample = data.select(list(keys)).take(pa.array(np.arange(0, data.num_rows, step)))
    starts = group_starts(sample, keys)
    rows = (np.diff(starts, append=sample.num_rows) - 1) * step + 1
    return _most(sample.take(pa.array(starts)), rows)


def merged_keys(found: Sequence[pa.RecordBatch], keys: Sequence[str]) -> pa.RecordBatch:
    """What several of `frequent_keys`, of one schema, say together. Requires: at least one.

    >>> one = pa.RecordBatch.from_pydict({"k": ["a"], ROWS: [1500]})
    >>> merged_keys([one, one], ["k"]).column(ROWS).to_pylist()
    [3000]
    """
    data = pa.concat_batches(found)
    numbers, firsts = codes(data, keys)
    rows = np.zeros(len(firsts), np.int64)
    np.add.at(rows, numbers, data.column(ROWS).to_numpy())
    return _most(data.select(list(keys)).take(pa.array(firsts)), rows)


def _most(keys: pa.RecordBatch, rows: Ints) -> pa.RecordBatch:
    ranked = order_by(len(rows), [number_part((rows.max(initial=0) - rows).astype(np.uint64))])
    chosen = ranked[rows[ranked] >= FREQUENT_ROWS_MIN][:FREQUENT_KEYS_MAX]
    return keys.take(pa.array(chosen)).append_column(ROWS, pa.array(rows[chosen], pa.int64()))
