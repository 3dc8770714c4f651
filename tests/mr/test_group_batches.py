"""head, map_batches and lazily read rows of groups, against plain Python."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from dataset_kit import shrink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mr
from mr.operators import group_rows
from mr.operators.group_batches import MapGroupBatches
from mr.operators.group_rows import groups

rows_of = st.lists(st.tuples(st.sampled_from([None, "a", "b", "é"]), st.integers(0, 9)), max_size=24)
fast = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, inline: mr.Session) -> None:
    shrink(monkeypatch)
    inline.reuse = False


def data_of(rows: list[Any]) -> mr.Dataset:
    return mr.from_items(rows, names={"k": str, "v": int})


def by_key(rows: list[Any]) -> dict[Any, list[int]]:
    found = defaultdict(list)
    for key, value in rows:
        found[key].append(value)
    return found


class Env:
    """A `TaskEnv` that nothing is asked of."""

    memory_bytes = 1 << 30

    def watch(self, records: Any) -> None:
        pass


@fast
@given(rows_of, st.integers(0, 4))
def test_head_takes_the_first_rows_of_each_key(rows: list[Any], n: int) -> None:
    found = data_of(rows).group_by("k").head(n).take_all()
    assert by_key(found) == {key: values[:n] for key, values in by_key(rows).items() if n}
    with mr.Session(on="inline", memory=1, reuse=False):
        assert data_of(rows).group_by("k").head(n).take_all() == found


@fast
@given(rows_of)
def test_batches_hold_whole_groups_in_key_order(rows: list[Any]) -> None:
    def totals(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(total=pl.col("v").sum().over("k"))

    grouped = data_of(rows).group_by("k", num_partitions=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mr.operators.group_batches.GROUP_BATCH_ROWS", 4)
        found = grouped.map_batches(totals, sort_by="v", descending=True).take_all()
    assert by_key([row[:2] for row in found]) == {k: sorted(vs)[::-1] for k, vs in by_key(rows).items()}
    assert all(row.total == sum(by_key(rows)[row.k]) for row in found)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), max_size=6), st.integers(1, 6), st.integers(1, 5))
def test_a_batch_ends_with_the_group_that_fills_it(sizes: list[int], full: int, block: int) -> None:
    """Whatever blocks the rows come in."""
    keys = [key for key, size in enumerate(sizes) for _ in range(size)]
    data = pa.RecordBatch.from_pydict({"k": pa.array(keys, pa.int64())})
    wanted: list[list[int]] = []
    for key, size in enumerate(sizes):
        if not wanted or len(wanted[-1]) >= full:
            wanted.append([])
        wanted[-1] += [key] * size
    seen: list[list[int]] = []
    op = MapGroupBatches(("k",), lambda frame: seen.append(frame["k"].to_list()) or frame, "polars")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mr.operators.group_batches.GROUP_BATCH_ROWS", full)
        blocks = [data.slice(at, block) for at in range(0, len(keys), block)]
        out = list(op.reduce(iter(blocks), Env()))  # type: ignore[arg-type]
    assert seen == wanted
    assert [key for batch in out for key in batch.column("k").to_pylist()] == keys


def test_a_group_that_does_not_fit_is_an_error_that_names_its_key() -> None:
    data = data_of([("hot", n) for n in range(50)])
    with (
        mr.Session(on="inline", memory=1, reuse=False),
        pytest.raises(mr.JobFailed, match="of the key 'hot' do not fit the memory of a task; use map_groups"),
    ):
        data.group_by("k").map_batches(lambda frame: frame).take_all()


def test_formats_and_errors_of_batch_functions() -> None:
    grouped = data_of([("a", 1), ("a", 2)]).group_by("k")
    assert [tuple(r) for r in grouped.map_batches(lambda t: t.slice(1), batch_format="arrow").take_all()] == [("a", 2)]
    made = grouped.map_batches(lambda d: {"v": d["v"] * 2}, batch_format="numpy", names={"v": float})
    assert [type(row.v) for row in made.take_all()] == [float, float]
    with pytest.raises(mr.PlanError, match="batch_format is"):
        grouped.map_batches(len, batch_format="pandas")  # type: ignore[arg-type]
    with pytest.raises(mr.JobFailed, match=r"map_batches .*raised ZeroDivisionError.* 2 rows that begins with key 'a'"):
        grouped.map_batches(lambda frame: 1 / 0).take_all()


def test_a_computed_key_does_not_take_the_place_of_a_column() -> None:
    data = data_of([("a", 1), ("b", 3), ("a", 4)])
    for method in ("map_groups", "map_batches"):
        with pytest.raises(mr.PlanError, match=r"the key 'v' would take the place of the column 'v'; .*v_key="):
            getattr(data.group_by(v=pl.col("v") % 2), method)(len)
    with pytest.raises(mr.PlanError, match="the key 'k' would take the place"):
        data.group_by(pl.col("k").str.to_uppercase()).head(1)
    odd = data.group_by(odd=pl.col("v") % 2).map_groups(lambda key, rows: (key, [row.v for row in rows]))
    assert sorted(map(tuple, odd.take_all())) == [(0, [4]), (1, [1, 3])]
    totals = data.group_by(v=pl.col("v") % 2).agg(total=mr.sum("v"))  # only keys and results come out: no clash
    assert sorted(map(tuple, totals.take_all())) == [(0, 4), (1, 4)]


def test_rows_that_nobody_reads_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:  # F44
    made = []
    plain = group_rows.to_python
    monkeypatch.setattr(group_rows, "to_python", lambda data: made.append(data.num_rows) or plain(data))
    batch = pa.RecordBatch.from_pydict({"k": ["a"] * 90 + ["b"] * 10, "v": list(range(100))})
    found = [(key, next(rows).v if key == "b" else None) for key, (rows,) in groups(iter([batch]), ("k",), None, Env())]  # type: ignore[arg-type]
    assert found == [("a", None), ("b", 90)]
    assert sum(n for n in made if n > 1) <= 3 + 34  # one piece of three rows, and the keys of each piece


def test_what_is_left_of_a_group_cannot_be_read_in_the_next() -> None:
    batch = pa.RecordBatch.from_pydict({"k": ["a"] * 7 + ["b"] * 2, "v": list(range(9))})
    kept: list[Any] = []
    for _, (rows,) in groups(iter([batch]), ("k",), "v", Env()):  # type: ignore[arg-type]
        assert all(next(old, None) is None for old in kept)
        kept.append(rows)
        next(rows)
    assert len(kept) == 2
