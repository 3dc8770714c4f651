"""Joins through the public API: every kind by every strategy, in their documented order, whatever splits and memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from dataset_kit import ident, rank, shrink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mr
import mr.heads.joined
import mr.inputs
import mr.kernels.joined
import mr.outlets.base
from mr.executors.inline import InlineExecutor
from mr.kernels.joined import HOWS
from mr.kernels.keys import buckets, normalise_keys

NAN = math.nan
TYPES: Any = {"k": str, "f": float}
KEYS = st.tuples(st.sampled_from([None, "", "a", "b", "hot"]), st.sampled_from([None, 0.0, -0.0, NAN, 1.5]))
SIDES = st.tuples(st.lists(KEYS, max_size=14), st.integers(0, 12)).map(lambda s: s[0] + [("hot", 1.5)] * s[1])
MEMORY = st.sampled_from([1, 5_000, 1 << 30])
fast = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    monkeypatch.setattr(mr.heads.joined, "MERGE_BLOCK_BYTES", 200)
    monkeypatch.setattr(mr.kernels.joined, "JOIN_BLOCK_BYTES", 100)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def taken(home: Path, memory_bytes: int, dataset: mr.Dataset) -> list[Any]:
    with mr.Session(executor=InlineExecutor(home, memory_bytes), reuse=False, home=home):
        return [tuple(row) for row in dataset.take_all()]


def dataset(keys: list[Any], number: str, first: str = "k", second: str = "f") -> mr.Dataset:
    return mr.from_items([(*key, i) for i, key in enumerate(keys)], names={first: str, second: float, number: int})


def pairs_of(left: list[Any], right: list[Any], how: str) -> list[tuple[int | None, int | None]]:
    """(left row, right row) in left row order; then the right rows that match nothing."""
    found: list[tuple[int | None, int | None]] = []
    met = set()
    for i, key in enumerate(left):
        matches = [j for j, other in enumerate(right) if None not in key and ident(other) == ident(key)]
        met |= set(matches)
        if how in ("semi", "anti"):
            found += [(i, None)] * (bool(matches) == (how == "semi"))
        else:
            found += [(i, j) for j in matches] or ([(i, None)] if how in ("left", "full") else [])
    alone = [j for j in range(len(right)) if j not in met] if how in ("right", "full") else []
    return found + [(None, j) for j in alone]


def by_key(left: list[Any], right: list[Any], pairs: list[Any], on: int) -> list[Any]:
    """The pairs in (bucket, key, left row, right row) order; the key is the first `on` columns."""

    def order(pair: Any) -> Any:
        key = (left[pair[0]] if pair[0] is not None else right[pair[1]])[:on]
        columns = {"k": pa.array([key[0]], pa.large_string()), "f": pa.array(list(key[1:]) or [None], pa.float64())}
        names = list(columns)[:on]
        bucket = int(buckets(normalise_keys(pa.record_batch(columns), names), names)[0])
        parts = [(value is None, () if value is None else rank(value)) for value in key]
        return bucket, parts, pair[0] is None, pair[0] or 0, pair[1] or 0

    return sorted(pairs, key=order)


@fast
@given(
    SIDES,
    SIDES,
    st.sampled_from(HOWS),
    st.sampled_from(["broadcast", "sort_merge"]),
    st.sampled_from([1, 2]),
    MEMORY,
    st.integers(1, 9),
)  # F45
def test_rows_and_their_order(
    home: Path, left: Any, right: Any, how: Any, strategy: Any, on: int, memory: int, split: int
) -> None:
    if strategy == "broadcast" and how in ("right", "full"):
        strategy = "auto"
    left, right = ([(key[0], key[1]) if on == 2 else (key[0], 1.5) for key in side] for side in (left, right))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mr.inputs, "ITEMS_PER_SPLIT", split)
        joined = dataset(left, "n").join(
            dataset(right, "m", "kk", "ff"),
            left_on=["k", "f"][:on],
            right_on=["kk", "ff"][:on],
            how=how,
            strategy=strategy,
        )
        rows = taken(home, memory, joined)
    expected = pairs_of(left, right, how)
    if strategy != "broadcast":
        expected = by_key(left, right, expected, on)
    width = len(rows[0]) if rows else 0
    assert [(row[2], None if how in ("semi", "anti") else row[-1]) for row in rows] == expected
    for row, (i, j) in zip(rows, expected, strict=True):
        key = left[i] if i is not None else right[j] if j is not None else None
        assert key is not None
        assert ident(row[:on]) == ident(key[:on])
        assert len(row) == width == (3 if how in ("semi", "anti") else 4 if on == 2 else 5)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("sizes", [(20, 20), (60, 3), (3, 60), (40, 0), (0, 40)])
def test_one_key_larger_than_memory(home: Path, how: Any, sizes: tuple[int, int]) -> None:  # F47
    left, right = ([("a", 1.5)] + [("hot", 1.5)] * n + [("z", 1.5)] * (n % 2 + 1) for n in sizes)
    joined = dataset(left, "n").join(dataset(right, "m"), on="k", how=how, strategy="sort_merge")
    small, large = (taken(home, memory, joined) for memory in (1, 1 << 30))
    assert small == large
    pairs = by_key(left, right, pairs_of(left, right, how), 1)
    assert [row[2] for row in small] == [i for i, _ in pairs]


@pytest.mark.parametrize("strategy", ["broadcast", "sort_merge"])
@pytest.mark.parametrize("how", HOWS)
def test_an_empty_side_and_one_whose_types_no_record_told(home: Path, how: Any, strategy: Any) -> None:
    if strategy == "broadcast" and how in ("right", "full"):
        return
    some = mr.from_items([("a", 1), ("b", 2)])
    untold = some.filter(pl.col("value") > 9).map(lambda row: row, names=["key", "other"])
    nulls = mr.from_items([(None, 3)], names=["key", "other"])
    beside: Any = {"semi": [], "anti": [("a", 1), ("b", 2)], "inner": [], "right": []}
    kept = beside.get(how, [("a", 1, None), ("b", 2, None)])
    assert sorted(taken(home, 1 << 30, some.join(untold, on="key", how=how, strategy=strategy))) == kept
    other = [("a", None, 1), ("b", None, 2)] if how in ("right", "full") else []
    assert sorted(taken(home, 1 << 30, untold.join(some, on="key", how=how, strategy=strategy))) == other
    found = taken(home, 1 << 30, some.join(nulls, on="key", how=how, strategy=strategy))
    assert set(found) == {*kept, *([(None, None, 3)] if how in ("right", "full") else [])}


def test_semi_and_anti_joins_keep_what_the_left_is(home: Path) -> None:
    words = mr.from_items(["a", "b", "c", "b"])
    known = mr.from_items([("b", 1), ("b", 2)])
    for strategy in ("broadcast", "sort_merge"):
        kept, left = (
            words.join(known, left_on="value", right_on="key", how=how, strategy=strategy)  # type: ignore[arg-type]
            for how in ("semi", "anti")
        )
        with mr.Session(executor=InlineExecutor(home, 1 << 30), home=home):
            assert kept.map(str.upper).take_all() == ["B", "B"]
            assert sorted(left.take_all()) == ["a", "c"]


@pytest.mark.parametrize("strategy", ["broadcast", "sort_merge"])
def test_columns_that_nobody_looks_at_do_not_travel_but_keep_their_names(home: Path, strategy: Any) -> None:
    left = mr.from_items([("a", 1, 2.5)], names=["k", "v", "w"])
    right = mr.from_items([("a", 10, "x")], names=["k", "v", "w"])
    joined = left.join(right, on="k", strategy=strategy)
    assert taken(home, 1 << 30, joined.select("v_right")) == [(10,)]
    assert taken(home, 1 << 30, joined.filter(pl.col("w_right") == "x").select("k", total=pl.col("v"))) == [("a", 1)]
    assert taken(home, 1 << 30, joined) == [("a", 1, 2.5, 10, "x")]
    assert taken(home, 1 << 30, joined.agg(n=mr.count())) == [(1,)]


@fast
@given(SIDES, SIDES, st.sampled_from(HOWS), MEMORY, st.integers(1, 4), st.booleans())
def test_sides_partitioned_alike_are_joined_without_a_shuffle(
    home: Path, left: Any, right: Any, how: Any, memory: int, n: int, filtered: bool
) -> None:
    with mr.Session(executor=InlineExecutor(home, memory), reuse=False, home=home):
        mine = dataset(left, "n").repartition(n, by="k").materialize()
        theirs = dataset(right, "m").repartition(n, by="k").materialize()
        if filtered:
            mine, theirs = mine.filter(pl.col("n") >= 0), theirs.with_columns(z=pl.col("m") + 1)
        shuffled = mine.join(theirs, on="k", how=how, strategy="sort_merge", num_partitions=n)
        joined = mine.join(theirs, on="k", how=how, strategy="partitioned")
        assert repr(joined.take_all()) == repr(shuffled.take_all())


def test_what_is_not_partitioned_alike_is_told(home: Path) -> None:
    with mr.Session(executor=InlineExecutor(home, 1 << 30), home=home):
        data = dataset([("a", 1.5), ("b", 0.0)], "n")
        by_k, by_f = data.repartition(2, by="k").materialize(), data.repartition(2, by="f").materialize()
        other: Any
        for other, why in [
            (data, "the right side is not a materialized dataset"),
            (by_f, "the right side is partitioned by f, not by k"),
            (data.repartition(3, by="k").materialize(), "the left side has 2 partitions, the right side 3"),
            (by_k.with_columns(k=pl.col("k") + "x"), "the right side is not a materialized dataset that keeps"),
        ]:
            with pytest.raises(mr.PlanError, match=why):
                by_k.join(other, on="k", strategy="partitioned")
            assert f"not a partitioned join: {why}" in by_k.join(other, on="k").explain()
        assert "not a partitioned join" not in data.join(data, on="k").explain(), "nobody tried"
        assert "not a partitioned join" not in by_k.join(by_f, on="k", strategy="sort_merge").explain()
        again = by_k.join(by_k.select("k", m=pl.col("n")), on="k").materialize()
        assert again.join(by_k, on="k", how="semi", strategy="partitioned").count() == 2


@fast
@given(
    left=st.lists(st.integers(0, 5), max_size=20),
    right=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["x", "y", None])), min_size=1, max_size=12),
    how=st.sampled_from(["inner", "left"]),
)
def test_grouping_by_strings_of_a_broadcast_side_is_as_grouping_by_any(
    tmp_path_factory: pytest.TempPathFactory, left: list[int], right: list[tuple[int, str | None]], how: Any
) -> None:
    home = tmp_path_factory.mktemp("home")
    facts = mr.from_items([(k, i) for i, k in enumerate(left)], names={"k": int, "i": int})
    dimension = mr.from_items([(k, "t", *row) for k, *row in right], names={"k": int, "t": str, "s": str})
    joined = facts.join(dimension, on="k", how=how, strategy="broadcast")
    known = [
        (i, *(("t", s) if met else (None, None))) for i, k in enumerate(left) for met, s in _matches(k, right, how)
    ]
    expected: dict[Any, list[int]] = {}
    for i, t, s in known:
        expected.setdefault((s, t), []).append(i)
    by = joined.group_by("s", "t")
    sums = taken(home, 1 << 30, by.agg(n=mr.count(), total=mr.sum("i"), first=mr.first("i")))
    assert sorted(sums, key=repr) == sorted(((*k, len(v), sum(v), v[0]) for k, v in expected.items()), key=repr)
    own = taken(home, 1 << 30, joined.group_by("s").agg(m=mr.max("s"), n=mr.count(), c=mr.max(pl.col("t") + "!")))
    counts = {s: [t for _, t, other in known if other == s] for s in {s for _, _, s in known}}
    assert sorted(own, key=repr) == sorted(
        ((s, s, len(ts), "t!" if "t" in ts else None) for s, ts in counts.items()), key=repr
    )
    assert [row[:2] for row in taken(home, 1 << 30, joined.select("i", "s"))] == [(i, s) for i, _, s in known]


def _matches(key: int, right: list[tuple[int, str | None]], how: str) -> list[tuple[bool, str | None]]:
    found = [(True, s) for other, s in right if other == key]
    return found or ([(False, None)] if how == "left" else [])


def test_a_filter_that_keeps_all_of_some_batches_mixes_coded_and_plain_ones(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, limits in ((mr.outlets.base, {"COMBINE_BLOCK_ROWS": 100}), (mr.inputs, {"ITEMS_PER_SPLIT": 20})):
        for name, value in limits.items():
            monkeypatch.setattr(module, name, value)
    facts = mr.from_items([(i % 4, i) for i in range(20)], names={"k": int, "i": int})
    sides = mr.from_items([(0, "x"), (1, "x"), (2, "y"), (3, "y")], names={"k": int, "s": str})
    some = facts.join(sides, on="k", strategy="broadcast").filter(pl.col("i") != 3)
    sums = taken(home, 1 << 30, some.group_by("s").agg(n=mr.count(), total=mr.sum("i")))
    assert sorted(sums) == [("x", 10, 85), ("y", 9, 102)]
