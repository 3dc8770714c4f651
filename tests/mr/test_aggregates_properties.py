"""Every aggregate against DuckDB or plain Python, over tiny tasks and blocks; sketches against their error bounds."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from dataset_kit import ident, rank, shrink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mr
from mr.aggregates import Ordered, finalise, grouped_aggregate, merge_states
from mr.kernels import group, sketches

COLUMNS = {"k": str, "f": float, "i": int, "b": bool, "s": str}
NAN, INF = math.nan, math.inf
rows_of = st.lists(
    st.tuples(
        st.sampled_from([None, "a", "b"]),
        st.sampled_from([None, 0.0, -0.0, NAN, 1.5, -2.0, 1.5, 7.25]),
        st.sampled_from([None, 0, 1, -3, 7, 7, 2**40]),
        st.sampled_from([None, True, False]),
        st.sampled_from([None, "", "a", "é", "zz"]),
    ),
    max_size=24,
)
fast = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, inline: mr.Session) -> None:
    shrink(monkeypatch)
    inline.reuse = False


def widest(values: list[Any]) -> float:
    return 0.0 if not values else max(values) - min(values)


SPREAD = mr.Aggregate(
    partial=lambda values: sorted(v for v in values if v is not None),
    merge=lambda a, b: sorted(a + b),
    final=lambda state: (len(state), state[0] if state else None),
    column="i",
)

AGGREGATES: dict[str, mr.Aggregate] = {
    "rows": mr.count(),
    "n": mr.count("f"),
    "total": mr.sum("i"),
    "low": mr.min("f"),
    "high": mr.max("s"),
    "var_i": mr.var("i"),
    "std_f": mr.std("f"),
    "some": mr.any("b"),
    "every": mr.all("b"),
    "big": mr.any(pl.col("i") > 5),
    "first": mr.first("s"),
    "last": mr.last("f"),
    "list": mr.collect("f"),
    "words": mr.collect("s"),
    "kinds": mr.count_distinct("f"),
    "names": mr.count_distinct("s"),
    "about": mr.approx_distinct("s"),
    "median": mr.quantile("i", 0.5),
    "quarts": mr.quantile("f", [0, 0.25, 1]),
    "near": mr.approx_quantile("f", 0.25),
    "top": mr.top_k("f", 2),
    "low2": mr.top_k("s", 2, descending=False),
    "bins": mr.histogram("f", [-2, 0, 1.5, 7.25]),
    "own": SPREAD,
}


def variance(values: list[float]) -> float | None:
    if len(values) < 2:
        return None
    return NAN if any(map(math.isnan, values)) else float(statistics.variance(map(float, values)))


def quantile(values: list[float], q: float) -> float | None:
    if not values:
        return None
    values = sorted(values, key=rank)
    place = (len(values) - 1) * q
    low, share = values[math.floor(place)], place % 1
    high = values[math.ceil(place)]
    return float(low if low == high or not share else low * (1 - share) + high * share)


def expected(rows: list[Any]) -> tuple[Any, ...]:
    f, i, b, s = ([row[c] for row in rows if row[c] is not None] for c in range(1, 5))
    down = sorted(f, key=rank, reverse=True)
    inside = [v for v in f if not math.isnan(v)]
    return (
        len(rows),
        len(f),
        sum(i) if i else None,
        min(f, key=rank, default=None),
        max(s, key=rank, default=None),
        variance(i),
        None if (v := variance(f)) is None else math.sqrt(v),
        any(b) if b else None,
        all(b) if b else None,
        any(v > 5 for v in i) if i else None,
        rows[0][4] if rows else None,
        rows[-1][1] if rows else None,
        [row[1] for row in rows],
        [row[4] for row in rows],
        len(set(map(ident, f))),
        len(set(s)),
        len(set(s)),
        quantile(i, 0.5),
        [quantile(f, q) for q in (0, 0.25, 1)] if f else None,
        quantile(f, 0.25),
        down[:2],
        sorted(s, key=rank)[:2],
        [sum(-2 <= v < 0 for v in inside), sum(0 <= v < 1.5 for v in inside), sum(1.5 <= v <= 7.25 for v in inside)],
        (len(i), min(i, default=None)),
    )


def plain(value: Any) -> Any:
    """Floats to 12 digits (variances of the two sides are added in another order), NaN and -0.0 as keys are."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else tuple(map(plain, value))
    return ident(float(f"{value:.12g}")) if isinstance(value, float) and not math.isnan(value) else ident(value)


@fast
@given(rows_of)
def test_every_aggregate_of_groups_and_of_all_rows(rows: list[Any]) -> None:
    data = mr.from_items(rows, names=COLUMNS)
    groups = defaultdict(list)
    for row in rows:
        groups[row[0]].append(row)
    found = data.group_by("k").agg(**AGGREGATES).take_all()
    assert {row[0]: plain(list(row[1:])) for row in found} == {k: plain(list(expected(rs))) for k, rs in groups.items()}
    (one,) = data.agg(**AGGREGATES).take_all()
    assert plain(list(one)) == plain(list(expected(rows)))


@fast
@given(rows_of)
def test_each_aggregate_alone_gives_what_it_gives_beside_others(rows: list[Any]) -> None:
    """Alone, an aggregate may take another way through the engine."""
    data = mr.from_items(rows, names=COLUMNS)
    together = data.group_by("k").agg(**AGGREGATES).take_all()
    for name in ("total", "kinds", "quarts", "list", "std_f"):
        alone = data.group_by("k").agg(**{name: AGGREGATES[name]}).take_all()
        assert [repr((row.k, row[name])) for row in alone] == [repr((row.k, row[name])) for row in together]


@settings(fast, max_examples=2)
@given(rows_of)
def test_the_budget_and_the_runs_change_no_byte(rows: list[Any]) -> None:
    rows = rows * 2
    data = mr.from_items(rows, names=COLUMNS)
    wanted = [*map(repr, data.group_by("k").agg(**AGGREGATES).take_all()), repr(data.agg(**AGGREGATES).first())]
    with mr.Session(on="inline", memory=1, reuse=False):
        assert [repr(row) for row in data.group_by("k").agg(**AGGREGATES).take_all()] == wanted[:-1]
        assert repr(data.agg(**AGGREGATES).first()) == wanted[-1]
    with pytest.MonkeyPatch.context() as patch, mr.Session(on="inline", reuse=False):
        patch.setattr("mr.outlets.base.RUN_BYTES_MAX", 1 << 26)
        patch.setattr("mr.options.RESULT_ROWS", 1)
        assert [repr(row) for row in data.group_by("k").agg(**AGGREGATES).take_all()] == wanted[:-1]


@fast
@given(rows_of)
def test_variance_and_quantiles_are_those_of_duckdb(rows: list[Any]) -> None:
    rows = [row for row in rows if row[1] is None or not math.isnan(row[1])]
    data = mr.from_items(rows, names=COLUMNS)
    found = data.group_by("k").agg(
        v=mr.var("f"), s=mr.std("i"), q=mr.quantile("i", 0.3), qs=mr.quantile("f", [0.1, 0.9]), d=mr.count_distinct("f")
    )
    connection = duckdb.connect()
    columns = {name: [row[c] for row in rows] for c, name in enumerate(COLUMNS)}
    types = [pa.large_string(), pa.float64(), pa.int64(), pa.bool_(), pa.large_string()]
    table = pa.table(
        [pa.array(column, type) for column, type in zip(columns.values(), types, strict=True)], list(columns)
    )
    connection.register("t", table)
    wanted = connection.sql(
        "select k, var_samp(f), stddev_samp(i), quantile_cont(i, 0.3), quantile_cont(f, [0.1, 0.9]),"
        " count(distinct f) from t group by k"
    ).fetchall()
    ours = {row.k: (row.v, row.s, row.q, row.d, *(row.qs or ())) for row in found.take_all()}
    assert ours == {k: pytest.approx((v, s, q, d, *(qs or ())), abs=1e-9) for k, v, s, q, qs, d in wanted}


# --- states ----------------------------------------------------------------------------------------------------------

FIXED = {name: agg for name, agg in AGGREGATES.items() if name != "big" and not isinstance(agg, Ordered)}


def batch_of(rows: list[Any]) -> pa.RecordBatch:
    columns = [[row[c] for row in rows] for c in range(5)]
    types = [pa.large_string(), pa.float64(), pa.int64(), pa.bool_(), pa.large_string()]
    return pa.RecordBatch.from_arrays([pa.array(c, t) for c, t in zip(columns, types, strict=True)], list(COLUMNS))


@settings(max_examples=40, deadline=None)
@given(rows_of, st.lists(st.integers(0, 24), max_size=4))
def test_merging_is_a_left_fold(rows: list[Any], cuts: list[int]) -> None:
    data = batch_of(rows)
    bounds = [0, *sorted(min(c, len(rows)) for c in cuts), len(rows)]
    states = [grouped_aggregate(data.slice(a, b - a), ["k"], FIXED) for a, b in itertools.pairwise(bounds)]
    at_once = merge_states(pa.concat_batches(states), ["k"], FIXED)
    carried = states[0]
    for state in states[1:]:
        carried = merge_states(pa.concat_batches([carried, state]), ["k"], FIXED)
    assert finalise(carried, ["k"], FIXED).equals(finalise(at_once, ["k"], FIXED)) or (
        repr(finalise(carried, ["k"], FIXED).to_pylist()) == repr(finalise(at_once, ["k"], FIXED).to_pylist())
    )


@settings(max_examples=30, deadline=None)
@given(rows_of)
def test_exact_states_of_rows_apart_merge_to_those_of_groups(rows: list[Any]) -> None:
    data = batch_of(rows)
    exact = {
        name: agg
        for name, agg in FIXED.items()
        if name != "near" and (agg.column is None or agg.exact(data.column(str(agg.column)).type))
    }  # a digest of a row keeps that row: another state than that of a block, as good
    apart = grouped_aggregate(data, ["k"], exact, apart=True)
    assert apart.num_rows == len(rows)
    merged = merge_states(apart, ["k"], exact)
    assert repr(merged.to_pylist()) == repr(grouped_aggregate(data, ["k"], exact).to_pylist())


def test_blocks_whose_keys_hardly_repeat_are_not_grouped_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mr.inputs.ITEMS_PER_SPLIT", 400)
    monkeypatch.setattr("mr.outlets.base.COMBINE_BLOCK_ROWS", 200)
    monkeypatch.setattr("mr.outlets.base.RUN_BYTES_MAX", 4000)
    monkeypatch.setattr("mr.assignment.REDUCE_RANGE_BYTES_MAX", 1 << 20)
    data = mr.from_items([(n % 900, n) for n in range(1000)])
    skipped = []
    aggs = {"n": mr.count(), "total": mr.sum("value"), "d": mr.count_distinct("value"), "last": mr.last("value")}
    results = []
    for sample in (16, 1000):
        monkeypatch.setattr("mr.kernels.group.SAMPLE_ROWS", sample)
        fixed = {name: agg for name, agg in aggs.items() if name != "d"}
        grouped = data.group_by("key")
        results.append(
            (grouped.agg(**aggs).take_all(), grouped.agg(**fixed).take_all(), data.distinct("key").take_all())
        )
        keys = pa.RecordBatch.from_pydict({"k": np.arange(200)})
        skipped.append(group.hardly_repeats(keys, ["k"]))
    assert results[0] == results[1]
    assert skipped == [True, False]
    assert not group.hardly_repeats(pa.RecordBatch.from_pydict({"k": np.arange(200_000) // 3}), ["k"])


def test_variance_is_sound_far_from_zero() -> None:
    values = [1e9 + v for v in (4.0, 7.0, 13.0, 16.0)] * 5
    assert mr.from_items(values).agg(v=mr.var("value")).first().v == pytest.approx(
        statistics.variance(values), rel=1e-7
    )


def test_infinities() -> None:
    data = mr.from_items([INF, 1.0, -INF, 2.0, None])
    (row,) = data.agg(
        v=mr.var("value"), q=mr.quantile("value", [0, 0.4, 1]), a=mr.approx_quantile("value", [0, 0.4, 1]),
        h=mr.histogram("value", [0, 2]), t=mr.top_k("value", 1),
    ).take_all()  # fmt: skip
    assert math.isnan(row.v)
    assert row.q == row.a == [-INF, pytest.approx(1.2), INF]
    assert (row.h, row.t) == ([2], [INF])


# --- groups larger than memory ---------------------------------------------------------------------------------------


def test_distinct_values_and_quantiles_of_a_group_larger_than_memory(monkeypatch: pytest.MonkeyPatch) -> None:  # F44
    for limit, value in {
        "mr.inputs.ITEMS_PER_SPLIT": 700,
        "mr.outlets.base.COMBINE_BLOCK_ROWS": 200,
        "mr.outlets.base.RUN_BYTES_MAX": 4000,
        "mr.shuffle.reader.MERGE_BLOCK_BYTES": 1000,
        "mr.shuffle.merge.MERGE_BLOCK_BYTES": 1000,
    }.items():
        monkeypatch.setattr(limit, value)
    rng = np.random.default_rng(7)
    values = rng.integers(0, 900, 3000).tolist()
    data = mr.from_items(values).with_columns(k=pl.lit("hot"))
    with mr.Session(on="inline", memory=1, reuse=False):
        found = data.group_by("k").agg(n=mr.count_distinct("value"), q=mr.quantile("value", [0.1, 0.5, 0.999]))
        row = found.first()
        assert data.group_by("k").agg(xs=mr.collect("value")).first().xs == values
    assert row.n == len(set(values))
    assert row.q == [pytest.approx(x) for x in np.quantile(values, [0.1, 0.5, 0.999])]


def test_a_list_longer_than_a_record_may_be_is_an_error_that_names_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mr.operators.grouped.RECORD_BYTES_MAX", 100)
    data = mr.from_items([("a", 1), *(("hot", n) for n in range(40))])
    for aggregates in ({"xs": mr.collect("value")}, {"xs": mr.collect("value"), "n": mr.count_distinct("value")}):
        with pytest.raises(mr.JobFailed, match=r"agg\(\): 'xs' of the key 'hot' is longer.*use map_groups"):
            data.group_by("key").agg(**aggregates).take_all()


# --- sketches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distinct", [0, 1, 100, 5_000, 60_000, 400_000])
def test_approx_distinct_is_within_its_error(distinct: int) -> None:
    values = pa.RecordBatch.from_pydict({"x": pa.array(np.repeat(np.arange(distinct, dtype=np.int64), 2))})
    aggs = {"n": mr.approx_distinct("x")}
    states = [grouped_aggregate(values.slice(at, 50_000), [], aggs) for at in range(0, max(1, 2 * distinct), 50_000)]
    found = finalise(merge_states(pa.concat_batches(states), [], aggs), [], aggs)["n"][0].as_py()
    assert abs(found - distinct) <= 3 * 1.04 / 2**7 * distinct
    whole = finalise(grouped_aggregate(values, [], aggs), [], aggs)
    assert whole["n"][0].as_py() == found  # a union: blocks do not matter


DRAWS: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "uniform": lambda rng, n: rng.random(n),
    "lognormal": lambda rng, n: rng.lognormal(0, 3, n),
    "sorted": lambda rng, n: np.sort(rng.normal(0, 1, n)),
    "few": lambda rng, n: rng.integers(0, 5, n).astype(float),
}


@pytest.mark.parametrize("name", DRAWS)
def test_approx_quantile_is_within_its_error(name: str) -> None:
    """In ranks: at most q (1 - q) / 25 off, and 0.0001: far below what a digest of 100 clusters promises."""
    values = DRAWS[name](np.random.default_rng(3), 200_000)
    qs = [0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0]
    aggs = {"q": mr.approx_quantile("x", qs)}
    data = pa.RecordBatch.from_pydict({"x": values})
    states = [grouped_aggregate(data.slice(at, 30_000), [], aggs) for at in range(0, len(values), 30_000)]
    (found,) = finalise(merge_states(pa.concat_batches(states), [], aggs), [], aggs)["q"].to_pylist()
    in_order = np.sort(values)
    for q, value in zip(qs, found, strict=True):
        low, high = (np.searchsorted(in_order, value, side=side) / len(values) for side in ("left", "right"))
        allowed = q * (1 - q) / 25 + 1e-4
        assert low - allowed <= q <= high + allowed or value == pytest.approx(np.quantile(values, q))
    assert (found[0], found[-1]) == (in_order[0], in_order[-1])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40), st.integers(1, 10**9), st.floats(0, 1))
def test_a_quantile_does_not_depend_on_the_groups_before_it(values: list[float], before: int, q: float) -> None:
    """Which groups are finished together hangs on the memory of a task."""
    means, weights, owners = sketches.clusters(np.array(values), np.zeros(len(values), np.int64), 1)
    (alone,) = sketches.quantiles(means, weights, owners, 1, [q])
    others = np.array([0.0]), np.array([before]), np.array([0])
    behind = [np.concatenate(pair) for pair in zip(others, (means, weights, owners + 1), strict=True)]
    (both,) = sketches.quantiles(behind[0], behind[1], behind[2], 2, [q])
    assert both[1].tobytes() == alone[0].tobytes()


def test_a_digest_is_small_and_the_same_in_every_group() -> None:
    values = np.random.default_rng(5).normal(0, 1, 40_000)
    ids = np.repeat(np.arange(2), 20_000)
    means, weights, owners = sketches.clusters(np.concatenate([values[:20_000], values[:20_000]]), ids, 2)
    assert np.bincount(owners).max() <= 260
    assert weights[owners == 0].sum() == 20_000
    assert np.array_equal(means[owners == 0], means[owners == 1])


# --- aggregates of users ---------------------------------------------------------------------------------------------


def test_own_aggregates_keep_any_state_and_name_their_function() -> None:
    data = mr.from_items([("a", 1), ("b", 2), ("a", 5)] * 3)

    def final(state: set[int]) -> list[int]:
        return sorted(state)

    kinds = mr.Aggregate(set, lambda a, b: a | b, final, column="value")
    dataset = data.group_by("key").agg(kinds=kinds).sort("key")
    assert list(map(tuple, dataset.take_all())) == [("a", [1, 5]), ("b", [2])]
    assert dataset.schema().field("kinds").type == pa.large_list(pa.int64())
    both = mr.Aggregate(list, lambda a, b: a + b, lambda rows: [r.key for r in rows], column=pl.struct("key", "value"))
    assert data.agg(ks=both).first().ks == ["a", "b", "a"] * 3

    def broken(a: Any, b: Any) -> Any:
        raise ValueError("no")

    with pytest.raises(mr.JobFailed, match=r"mr.Aggregate merge .*broken .* raised ValueError: no"):
        data.agg(x=mr.Aggregate(len, broken, abs, column="value")).take_all()
    three = data.union(mr.from_items([("c", 1)]))
    mixed = mr.Aggregate(len, lambda a, b: a + b, lambda n: n if n > 3 else str(n), column="value")
    with pytest.raises(mr.JobFailed, match=r"mr.Aggregate final .* gave a value that does not fit.*'x'"):
        three.group_by("key", num_partitions=1).agg(x=mixed).take_all()


def test_a_changed_function_is_another_aggregate(tmp_path: Any) -> None:
    path = tmp_path / "in.txt"
    path.write_text("a\nb\n")
    results = []
    with mr.Session(on="inline"):
        for final in (lambda n: n, lambda n: n * 10):
            own = mr.Aggregate(len, lambda a, b: a + b, final, column="value")
            results.append(mr.read_text(str(path)).agg(n=own).first().n)
    assert results == [2, 20]


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mr.quantile("x", 1.5), "quantiles are from 0 to 1"),
        (lambda: mr.approx_quantile("x", []), "quantiles are from 0 to 1"),
        (lambda: mr.top_k("x", 0), "k=0 is not a whole number from 1"),
        (lambda: mr.histogram("x", [1]), "at least two edges in ascending order"),
        (lambda: mr.histogram("x", [2, 1]), "at least two edges in ascending order"),
        (lambda: mr.Aggregate(1, max, max, column="x"), "partial=1 is not a function"),  # type: ignore[arg-type]
        (lambda: mr.Aggregate(len, max, max, column=3), "column= is a column name"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_are_refused_when_they_are_given(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(mr.PlanError, match=message):
        make()


@pytest.mark.parametrize(
    ("aggregate", "message"),
    [
        (mr.any("s"), r"any of 's': values of type str are not true or false.*mr.any\(pl.col"),
        (mr.var("s"), "var of 's': values of type str have no variance"),
        (mr.quantile("s", 0.5), "have no quantiles; cast"),
        (mr.approx_quantile("s", 0.5), "have no quantiles; cast"),
        (mr.histogram("s", [0, 1]), "are no numbers"),
    ],
)
def test_types_that_do_not_fit_are_refused_before_anything_runs(aggregate: mr.Aggregate, message: str) -> None:
    data = mr.from_items([("a", 1.0, 1, True, "s")], names=COLUMNS)
    with pytest.raises(mr.PlanError, match=message):
        data.group_by("k").agg(x=aggregate)


def test_aggregations_of_polars_are_refused_with_ours() -> None:
    grouped = mr.from_items([("a", 1)]).group_by("key")
    for expr, ours in (
        (pl.col("value").sum(), r"use x=mr.sum\('value'\)"),
        (pl.col("value").n_unique(), r"use x=mr.count_distinct\('value'\)"),
        (pl.col("value").median(), r"use x=mr.quantile\('value', 0.5\)"),
    ):
        with pytest.raises(mr.PlanError, match=ours):
            grouped.agg(expr)
        with pytest.raises(mr.PlanError, match=ours):
            grouped.agg(x=expr)  # type: ignore[arg-type]
    with pytest.raises(mr.PlanError, match="has no name"):
        grouped.agg(mr.sum("value"))
    with pytest.raises(mr.PlanError, match="'key' is a key already"):
        grouped.agg(key=mr.count())
