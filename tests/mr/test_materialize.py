"""`repartition` and `materialize`: which task holds which rows, what is run again, and what becomes of lost files."""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from dataset_kit import shrink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mr
from mr.kernels.keys import buckets
from mr.kernels.rows import from_python
from mr.plan import Materialized
from mr.testing import run_inline

fast = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
KEYS = st.one_of(st.none(), st.integers(-3, 3))


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, inline: mr.Session) -> None:
    shrink(monkeypatch)


def node(dataset: mr.Dataset) -> Materialized:
    assert isinstance(dataset._node, Materialized)
    return dataset._node


def files(session: mr.Session, dataset: mr.Dataset) -> list[Path]:
    return [session.home / "runs" / file.path for part in node(dataset).parts for file in part.files]


# --- repartition -----------------------------------------------------------------------------------------------------


@fast
@given(rows=st.lists(st.tuples(KEYS, st.integers(0, 99)), max_size=30), n=st.integers(1, 7))
def test_a_partition_by_key_holds_the_rows_of_its_buckets_in_order(rows: list[tuple[Any, int]], n: int) -> None:
    data = mr.from_items(rows, names={"k": int, "v": int})
    parts = data.repartition(n, by="k").map_partitions(lambda records: [[tuple(r) for r in records]], names="part")
    found = parts.take_all()
    assert len(found) == n
    assert sorted((r for part in found for r in part), key=repr) == sorted(rows, key=repr)
    for i, part in enumerate(found):
        if part:
            batch, _ = from_python(part, None)
            column = batch.column(0).cast(pa.int64())
            ids = buckets(pa.record_batch({"k": column}), ["k"]).astype(int) * n // 256
            assert set(ids.tolist()) == {i}
        for key in {k for k, _ in part}:
            assert [r for r in part if r[0] == key] == [r for r in rows if r[0] == key]


@fast
@given(count=st.integers(0, 40), n=st.integers(1, 9))
def test_without_a_key_each_task_deals_its_records_out_in_turn(count: int, n: int) -> None:
    split = 4  # as the kit shrinks it
    data = mr.from_items(list(range(count)), names="i").repartition(n)
    found = data.map_partitions(lambda r: [list(r)], names="p").take_all()
    assert len(found) == n
    assert all(part == sorted(part) for part in found)
    place = {i: p for p, part in enumerate(found) for i in part}
    assert sorted(place) == list(range(count))
    for first in range(0, count, split):
        turns = [(place[i] - place[first]) % n for i in range(first, min(count, first + split))]
        assert turns == [turn % n for turn in range(len(turns))]
    again = data.map_partitions(lambda r: [list(r)], names="p").take_all()
    assert again == found


def test_small_tasks_begin_to_deal_at_different_partitions(
    inline: mr.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path is part of what such a task reads
    Path("in").mkdir()
    for name in range(60):
        Path("in", f"{name:02}.txt").write_text(f"only line of {name}\n")
    sizes = (
        mr.read_text_files("in")
        .map(lambda row: row.text, names="text")
        .repartition(4)
        .map_partitions(lambda rows: [sum(1 for _ in rows)], names="n")
    )
    assert min(sizes.take_all()) >= 60 // 4 // 2, "not all in partition 0"


def test_repartition_checks_its_arguments_and_keeps_kind_and_shape() -> None:
    values = mr.from_items(["a", "b"])
    assert sorted(values.repartition(3, by="value").take_all()) == ["a", "b"]
    assert values.repartition(2).schema() == values.schema()
    with pytest.raises(mr.PlanError, match="no column 'x'"):
        values.repartition(2, by="x")
    for n in (0, 257):
        with pytest.raises(mr.PlanError, match="from 1 to 256"):
            values.repartition(n)


# --- materialize -----------------------------------------------------------------------------------------------------


def test_a_materialized_dataset_is_the_same_records_of_a_known_shape() -> None:
    hidden = mr.from_items(list(range(9))).map(lambda n: (n, str(n)))
    with pytest.raises(mr.PlanError, match="add names="):
        hidden.select("key")
    kept = hidden.materialize()
    assert kept.take_all() == [(n, str(n)) for n in range(9)]
    assert kept.select("value").first().value == "0"
    assert kept.materialize()._node is kept._node
    assert kept.persist().count() == 9
    values = mr.from_items(["a"]).materialize()
    assert (values.take_all(), values.union(mr.from_items(["b"])).count()) == (["a"], 2)
    empty = mr.from_items([], names={"k": int}).materialize()
    assert (empty.take_all(), empty.schema().names) == ([], ["k"])


def test_explain_says_what_was_materialized() -> None:
    kept = mr.from_items([(1, 2)], names=["k", "v"]).repartition(4, by="k").materialize()
    text = kept.filter(pl.col("v") > 0).explain()
    assert "materialized repartition(k) at test_materialize.py:" in text
    assert "1 rows, 4 partitions by k" in text


@pytest.mark.parametrize(
    ("use", "keys"),
    [
        (lambda d: d.repartition(3, by="k"), ("k",)),
        (lambda d: d.repartition(3, by=["k", "v"]).filter(pl.col("v") > 1), ("k", "v")),
        (lambda d: d.repartition(3, by="k").with_columns(w=pl.col("v") + 1), ("k",)),
        (lambda d: d.repartition(3, by="k").with_columns(k=pl.col("v")), ()),
        (lambda d: d.repartition(3, by="k").select(k="v"), ()),
        (lambda d: d.group_by("k", num_partitions=3).agg(n=mr.count()), ("k",)),
        (lambda d: d.distinct("v", num_partitions=3), ("v",)),
        (lambda d: d.group_by("k").agg(n=mr.count()), ()),
        (lambda d: d.repartition(3), ()),
        (lambda d: d.repartition(3, by="k").map(lambda r: r, names=["k", "v"]), ()),
    ],
)
def test_which_partitioning_stays(use: Callable[[mr.Dataset], mr.Dataset], keys: tuple[str, ...]) -> None:
    data = mr.from_items([(i % 5, i) for i in range(20)], names={"k": int, "v": int})
    assert node(use(data).materialize()).keys == keys


def test_what_reads_a_materialized_result_is_found_again(inline: mr.Session, tmp_path: Path) -> None:
    calls: list[int] = []

    def job(output: str) -> mr.JobResult:
        def double(n: int) -> int:
            mr.counter("doubled").add()
            return 2 * n

        @mr.job
        def doubled(output: str) -> Any:
            kept = mr.from_items(list(range(8))).map(double, names={"n": int}).repartition(2, by="n").materialize()
            calls.append(kept.count())
            return kept.filter(pl.col("n") > 3).sort("n").write_json(output)

        return doubled(output)

    first, again = job(str(tmp_path / "a")), job(str(tmp_path / "b"))
    assert (first.tasks_reused, again.tasks_run) == (0, 0)
    assert first.tasks_run == again.tasks_reused > 6  # those of materialize() and count(), too
    assert first.counters == again.counters == {"doubled": 8}
    assert calls == [8, 8]
    assert job(str(tmp_path / "b")).state == "up to date"


def test_what_an_action_outside_a_job_ran_is_not_told_with_the_next_job(tmp_path: Path) -> None:
    mr.from_items([1, 2]).map(str).count()
    result = mr.from_items([1]).write_json(str(tmp_path / "out.json"))
    assert result.tasks_run == 1 + 1  # the items, and the one file


def test_actions_inside_a_job_run_in_its_session() -> None:
    seen: list[Any] = []

    @mr.job
    def looks(output: str) -> Any:
        data = mr.from_items([3, 1, 2])
        seen.append((data.count(), data.first(), data.take(2), data.materialize().take_all()))
        return data.write_json(output)

    rows, result = run_inline(looks, output="out")
    assert seen == [(3, 3, [3, 1], [3, 1, 2])]
    assert rows == [3, 1, 2]
    assert result.tasks_run > 4


# --- lost files ------------------------------------------------------------------------------------------------------


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize("harm", [Path.unlink, spoil])
def test_a_lost_result_is_made_again(harm: Callable[[Path], None], inline: mr.Session) -> None:  # F50
    base = mr.from_items([(i % 3, i) for i in range(20)], names={"k": int, "v": int}).materialize()
    kept = base.repartition(3, by="k").materialize()
    expected = kept.take_all()
    for path in [*files(inline, kept)[1:], *files(inline, base)[:2]]:
        harm(path)
    inline.reuse = False  # else the records are known that were brought here before
    assert kept.take_all() == expected
    assert all(path.exists() for path in files(inline, kept))


def test_a_join_without_a_shuffle_survives_lost_files(inline: mr.Session) -> None:  # F50
    left = mr.range(20).map(lambda n: (n, n), names={"k": int, "a": int}).repartition(3, by="k").materialize()
    right = mr.range(0, 20, 2).map(lambda n: (n, -n), names={"k": int, "b": int}).repartition(3, by="k").materialize()
    joined = left.join(right, on="k", strategy="partitioned")
    text = joined.explain()
    assert "partitioned join" in text
    assert text.count("materialized repartition(k)") == 2
    for path in (*files(inline, left)[:1], *files(inline, right)[1:]):
        path.unlink()
    assert sorted(joined.take_all()) == [(n, n, -n) for n in range(0, 20, 2)]


def test_a_lost_result_that_cannot_be_made_again_is_an_error(inline: mr.Session) -> None:
    numbers = random.Random(1)
    kept = mr.from_items([1, 2, 3]).map(lambda n: numbers.random(), pure=False).materialize()
    for path in files(inline, kept):
        path.unlink()
    with pytest.raises(mr.JobFailed, match=r"test_materialize\.py:\d+: a materialized result is lost .*pure=False"):
        kept.count()


# --- iteration -------------------------------------------------------------------------------------------------------


def test_the_loop_of_the_interface() -> None:
    edges = mr.from_items([("a", "b"), ("b", "c"), ("c", "a"), ("a", "c")], names={"src": str, "dst": str})
    nodes = mr.from_items([("a",), ("b",), ("c",)], names={"v": str})
    n, max_iter = nodes.count(), 2
    links = edges.join(edges.group_by("src").agg(deg=mr.count()), on="src").repartition(16, by="src").materialize()
    ranks = nodes.with_columns(r=pl.lit(1 / n)).repartition(16, by="v").materialize()
    for _ in range(max_iter):
        flow = links.join(ranks, left_on="src", right_on="v").with_columns(c=pl.col("r") / pl.col("deg")).materialize()
        lost = 1 - (flow.agg(t=mr.sum("c")).first().t or 0)
        assert lost == pytest.approx(0)
        ranks = flow.group_by(v=pl.col("dst"), num_partitions=16).agg(r=mr.sum("c")).materialize()
    assert "partitioned" in links.join(ranks, left_on="src", right_on="v").explain()
    # from (1/3, 1/3, 1/3): a gives half to b and half to c, b gives all to c, c gives all to a
    assert dict(ranks.take_all()) == pytest.approx({"a": 1 / 2, "b": 1 / 6, "c": 1 / 3})


def test_a_long_chain_of_lost_results_is_made_again_one_after_the_other(inline: mr.Session) -> None:
    data, kept = mr.from_items([0]), []
    for _ in range(60):
        data = data.map(lambda n: n + 1).materialize()
        kept.append(data)
    for one in kept:
        for path in files(inline, one):
            path.unlink()
    frames = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 200)
    try:
        assert data.map(lambda n: -n).take_all() == [-60]
    finally:
        sys.setrecursionlimit(frames)


# --- what the whole plan shows ---------------------------------------------------------------------------------------


def test_quarantined_records_behind_a_materialized_result_must_be_looked_at(tmp_path: Path) -> None:
    parsed: list[mr.Dataset] = []

    @mr.job
    def reads(output: str, *, looks: bool) -> Any:
        parsed.append(mr.from_items(["1", "x", "3"]).map(int, on_error="quarantine"))
        kept = parsed[-1].materialize()
        assert kept.count() == 2
        bad = [parsed[-1].rejected().write_json(f"{output}/bad")] if looks else []
        return [kept.write_json(f"{output}/good"), *bad]

    with pytest.raises(mr.PlanError, match=r"nothing uses \.rejected\(\)"):
        reads(str(tmp_path / "out"), looks=False)
    with pytest.raises(mr.PlanError, match=r"nothing uses \.rejected\(\)"):
        run_inline(reads, output="out", looks=False)
    assert {name: report.rows for name, report in reads(str(tmp_path / "out"), looks=True).outputs.items()} == {
        "good": 2,
        "bad": 1,
    }


def test_an_output_inside_what_a_materialized_result_was_made_from_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a\n")
    kept = mr.read_text(str(tmp_path / "in")).materialize()
    with pytest.raises((mr.PlanError, mr.OutputError), match="in"):
        kept.write_text(str(tmp_path / "in" / "out"))
