"""Rows of equal keys that are merged before they are sorted: the same results, to the last bit."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import mr
from mr.operators.grouped import AggregateBy, Distinct


@pytest.fixture
def rows(tmp_path, monkeypatch) -> str:
    """A table that several map tasks read."""
    monkeypatch.setattr("mr.inputs.LOCAL_SPLIT_BYTES", 2000)
    monkeypatch.setattr("mr.inputs.PACKED_FILE_BYTES_MAX", 0)
    rng = np.random.default_rng(1)
    keys = rng.integers(0, 12, 400)
    values = rng.normal(size=400) * 10.0 ** rng.integers(-12, 12, 400)
    path = tmp_path / "rows.csv"
    pl.DataFrame({"k": [f"key {k}" for k in keys], "v": values, "i": np.arange(400)}).write_csv(path)
    return str(path)


@pytest.mark.parametrize(
    ("operator", "reduced"),
    [
        (AggregateBy, lambda ds: ds.group_by("k").agg(s=mr.sum("v"), m=mr.mean("v"), f=mr.first("i"), l=mr.last("i"))),
        (
            AggregateBy,
            lambda ds: ds.group_by("k").agg(q=mr.approx_quantile("i", 0.5), t=mr.top_k("v", 3)),
        ),
        (Distinct, lambda ds: ds.distinct("k")),
    ],
    ids=["sums", "lists", "distinct"],
)
def test_merging_before_sorting_changes_no_bit(inline, monkeypatch, rows, operator, reduced):
    monkeypatch.setattr("mr.shuffle.merge._PROBE_ROWS", 1 << 30)
    expected = reduced(mr.read_csv(rows)).take(99)
    monkeypatch.setattr("mr.shuffle.merge._PROBE_ROWS", 1)
    called = []
    plain = operator.merge
    monkeypatch.setattr(operator, "merge", lambda self, rows: called.append(rows.num_rows) or plain(self, rows))
    with mr.Session(on="inline", reuse=False):
        assert reduced(mr.read_csv(rows)).take(99) == expected
    assert sum(called) > len(expected)


def test_keys_that_seldom_repeat_are_sorted_at_once(inline, monkeypatch, rows):
    monkeypatch.setattr("mr.shuffle.merge._PROBE_ROWS", 1)

    def refused(self: object, rows: pa.RecordBatch) -> None:
        raise AssertionError

    monkeypatch.setattr(AggregateBy, "merge", refused)
    assert len(mr.read_csv(rows).group_by("i").agg(n=mr.count()).take(999)) == 400
