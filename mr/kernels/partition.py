"""Partition: rows into buckets, sorted by key within each, ready to be written as one run.

The rows come out in (bucket, key, input row) order, or (bucket, key, sort columns, input row). The bucket is the top
bits of the key's hash, or any id that the caller gives (a user's partitioner, `num_partitions`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mr.errors import RecordError
from mr.kernels.gather import taken
from mr.kernels.keys import Ints, buckets
from mr.kernels.sort import number_part, order_by, parts_of
from mr.options import BUCKETS


def sort_into_buckets(
    data: pa.RecordBatch,
    key_names: Sequence[str],
    sort_names: Sequence[str] = (),
    descending: Sequence[bool] = (),
    buckets_total: int = BUCKETS,
) -> tuple[pa.RecordBatch, Ints]:
    """Sort `data` by (hash bucket, keys ascending, `sort_names` in their directions, row).

    Returns (sorted data, offsets int64[buckets_total + 1]): bucket b is rows offsets[b] to offsets[b + 1]. The values
    are not changed: call `keys.normalise_keys` first where the key that comes out matters.

    >>> batch = pa.RecordBatch.from_pydict({"k": ["b", "a", "b"]})
    >>> data, offsets = sort_into_buckets(batch, ["k"])
    >>> sorted(data["k"].to_pylist()), int(offsets[-1])
    (['a', 'b', 'b'], 3)
    """
    ids = buckets(data, key_names, buckets_total)
    return bucket_by(data, ids, buckets_total, key_names, sort_names, descending)


def bucket_by(
    data: pa.RecordBatch,
    bucket_ids: npt.NDArray[np.integer],
    buckets_total: int,
    key_names: Sequence[str] = (),
    sort_names: Sequence[str] = (),
    descending: Sequence[bool] = (),
) -> tuple[pa.RecordBatch, Ints]:
    """Like `sort_into_buckets`, with the bucket of each row given: integers from 0 to `buckets_total` - 1.

    Returns (sorted data, offsets int64[buckets_total + 1]). Raises `RecordError` with the row of the first id that
    is out of range.

    >>> batch = pa.RecordBatch.from_pydict({"k": ["b", "a", "b"]})
    >>> data, offsets = bucket_by(batch, np.array([1, 1, 0]), 2, ["k"])
    >>> data["k"].to_pylist(), offsets.tolist()
    (['b', 'a', 'b'], [0, 1, 3])
    """
    wrong = (bucket_ids < 0) | (bucket_ids >= buckets_total)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise RecordError(f"partition {bucket_ids[row]} is not one of 0 to {buckets_total - 1}", row)
    counts = np.bincount(bucket_ids, minlength=buckets_total)
    offsets = np.zeros(buckets_total + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    directions = [False] * len(key_names) + list(descending or [False] * len(sort_names))
    parts = parts_of(data, [*key_names, *sort_names], directions)
    indices = order_by(data.num_rows, [number_part(bucket_ids.astype(np.uint64)), *parts])
    return taken(data, indices), offsets
