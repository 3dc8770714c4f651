"""Sorts and repartitions that a plan does without: what is left out, and that no row of the result knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from dataset_kit import ident, idents, in_order, shrink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mr
import mr.ordering
import mr.stages
from mr.explain import explain_graph
from mr.formats.jsonl import JsonWriter
from mr.graph import Graph
from mr.plan import Write
from mr.program import GroupHead, HashOutlet, RangeOutlet, SortHead
from mr.shuffle.ranges import END, ranges
from mr.stages import compile_plan

NAMES = {"k": str, "f": float, "n": int}


def table(name: str = "in") -> mr.Dataset:
    return mr.read_text(name).map(lambda line: (line, 1.0, 1), names=NAMES)


def graph_of(*datasets: mr.Dataset) -> Graph:
    nodes = [data._node for data in datasets]
    writes = tuple(Write(node.shape, node, f"out{i}", JsonWriter()) for i, node in enumerate(nodes))
    return compile_plan(writes, lambda read: 1 << 30, lambda path: None)


def shuffles(*datasets: mr.Dataset) -> int:
    return sum(isinstance(e.spec, HashOutlet | RangeOutlet) for e in graph_of(*datasets).exchanges)


def notes(data: mr.Dataset) -> list[str]:
    graph = graph_of(data)
    found = [note for stage in graph.stages for note in stage.notes]
    assert all(note in explain_graph(graph) for note in found)
    return found


def summed(data: mr.Dataset, *keys: str) -> mr.Dataset:
    return data.group_by(*keys).agg(n=mr.sum("n"))


@pytest.mark.parametrize(
    ("made", "count"),
    [
        (lambda d: summed(d, "k").sort("k"), 1),
        (lambda d: summed(d, "k").sort("k", "n", descending=[True, False]), 1),
        (lambda d: summed(d, "k", "f").sort("f", "k"), 1),
        (lambda d: summed(d, "k").filter(pl.col("n") > 1).with_columns(m=pl.col("n") + 1).sort("k"), 1),
        (lambda d: d.distinct("k").sort("k"), 1),
        (lambda d: d.distinct().sort("f", "n", "k"), 1),
        (lambda d: summed(d, "k", "f").sort("k"), 2),
        (lambda d: summed(d, "k").sort("n", "k"), 2),
        (lambda d: summed(d, "k").with_columns(k=pl.col("k") + "!").sort("k"), 2),
        (lambda d: summed(d, "k").filter(lambda row: True).sort("k"), 2),
        (lambda d: d.group_by("k", num_partitions=3).agg(n=mr.count()).sort("k"), 2),
        (lambda d: d.group_by("k").head(2).sort("k"), 2),
        (lambda d: d.group_by("k").agg(n=mr.quantile("n", 0.5)).sort("k"), 2),
        (lambda d: d.group_by("k").map_groups(lambda key, rows: (key, 1), names={"k": str, "n": int}).sort("k"), 2),
    ],
)
def test_a_sort_by_the_keys_of_what_was_grouped_is_one_shuffle(made: Any, count: int) -> None:
    data = made(table())
    assert shuffles(data) == count
    assert any("one shuffle for both" in note for note in notes(data)) is (count == 1)


def test_groups_that_others_read_are_shuffled_and_then_sorted() -> None:
    counts = summed(table(), "k")
    filtered = counts.filter(pl.col("n") > 1)
    for read in (counts, filtered):
        graph = graph_of(read.sort("k"), read)
        assert sum(isinstance(stage.program.head, GroupHead) for stage in graph.stages) == 1
        assert not [note for stage in graph.stages for note in stage.notes]


@pytest.mark.parametrize(
    ("made", "left_out"),
    [
        (lambda d: summed(d.sort("k"), "k"), "sort(k)"),
        (lambda d: summed(d.sort("f", descending=True), "k", "f"), "sort(f)"),
        (lambda d: summed(d.repartition(7, by="k"), "k"), "repartition(k)"),
        (lambda d: summed(d.sort("k").filter(pl.col("n") > 0).repartition(7, by="k"), "k"), "repartition(k), sort(k)"),
        (lambda d: d.sort("k").distinct("k"), "sort(k)"),
        (lambda d: d.sort("k").repartition(2, by="k"), "sort(k)"),
        (lambda d: d.sort("k").group_by("k").map_groups(lambda key, rows: 1), "sort(k)"),
        (lambda d: d.sort("k").join(d, on="k", strategy="sort_merge"), "sort(k)"),
        (lambda d: d.sort("k").join(d.sort("k"), on="k"), "sort(k), sort(k)"),
        (lambda d: d.join(d.sort("k"), on="k", strategy="broadcast"), "sort(k)"),
        (lambda d: d.cogroup(d.sort("k"), on="k").map_groups(lambda *given: 1), "sort(k)"),
        (lambda d: summed(d.sort("k"), "k").sort("k"), "sort(k)"),
        (lambda d: summed(d.sort("n"), "k"), ""),
        (lambda d: summed(d.sort("k", "n"), "k"), ""),
        (lambda d: summed(d.repartition(7), "k"), ""),
        (lambda d: summed(d.sort("k").map(lambda row: row, names=NAMES), "k"), ""),
        (lambda d: summed(d.sort("k").with_columns(k=pl.col("k") + "!"), "k"), ""),
        (lambda d: summed(d.sort("k").limit(9), "k"), ""),
        (lambda d: d.sort("k").agg(n=mr.sum("n")), ""),
        (lambda d: d.sort("k").repartition(2), ""),
        (lambda d: d.sort("k").join(mr.from_items([("a", 1)], names=["k", "m"]), on="k"), ""),
    ],
)
def test_what_means_nothing_behind_it_is_left_out(made: Any, left_out: str) -> None:
    said = [note.partition(" left out")[0] for note in notes(made(table())) if "left out" in note]
    assert said == ([left_out] if left_out else [])


def test_a_sort_that_is_left_out_is_still_there_for_others() -> None:
    ordered = table().sort("k")
    graph = graph_of(summed(ordered, "k"), ordered)
    assert [type(stage.program.head) for stage in graph.stages][1:] == [GroupHead, SortHead]
    assert graph.upstream(graph.stages[1]) == (0,)


@pytest.mark.parametrize(
    ("made", "count"),
    [
        (lambda d: d.distinct("k").group_by("k").agg(n=mr.count()), 1),
        (lambda d: summed(d, "k").filter(pl.col("n") > 1).distinct("k"), 1),
        (lambda d: summed(d, "k", "f").with_columns(n=pl.col("n") * 2).group_by("k", "f").agg(n=mr.max("n")), 1),
        (lambda d: summed(d, "k").sort("k").group_by("k").agg(n=mr.max("n")), 1),
        (lambda d: summed(d.distinct("k", num_partitions=3), "k"), 2),
        (lambda d: d.distinct("k", num_partitions=3).group_by("k", num_partitions=3).agg(n=mr.count()), 1),
        (lambda d: summed(d, "k", "f").group_by("f", "k").agg(n=mr.count()), 2),
        (lambda d: summed(d, "k", "f").group_by("k").agg(n=mr.count()), 2),
        (lambda d: d.group_by("k").head(2).group_by("k").agg(n=mr.count()), 2),
        (lambda d: d.distinct("k").map(lambda row: row, names=NAMES).group_by("k").agg(n=mr.count()), 2),
        (lambda d: d.distinct("k").with_columns(k=pl.col("k") + "!").group_by("k").agg(n=mr.count()), 2),
        (lambda d: d.distinct("k").group_by("k").agg(q=mr.quantile("n", 0.5)), 2),
    ],
)
def test_a_grouping_of_what_is_grouped_by_the_same_keys_needs_no_shuffle(made: Any, count: int) -> None:
    data = made(table())
    assert shuffles(data) == count
    assert any("without a shuffle" in note for note in notes(data)) is (count == 1)


keys = st.sampled_from([None, "", "a", "b", "é", "ab"])
floats = st.sampled_from([None, 0.0, -0.0, 0.5, -1.5, float("nan"), 1e300])
rows_of = st.lists(st.tuples(keys, floats, st.integers(-9, 9)), max_size=24)
fast = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def tiny(inline: mr.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    inline.reuse = False


@pytest.fixture
def as_asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Compile plans as they are written."""

    def off() -> None:
        monkeypatch.setattr(mr.stages, "sorted_groups", lambda node, uses: None)
        monkeypatch.setattr(mr.stages, "without_order", lambda node, keys: (node, ()))

    return off


@fast
@given(rows=rows_of, by=st.permutations(["k", "f"]), down=st.tuples(st.booleans(), st.booleans()), least=st.booleans())
def test_sorted_groups_are_those_of_two_shuffles(tiny: None, rows: Any, by: Any, down: Any, least: bool) -> None:
    data = mr.from_items(rows, names=NAMES)
    grouped = data.group_by("k", "f").agg(n=mr.sum("n"), mean=mr.mean("f"), first=mr.first("n"))
    grouped = grouped.filter(pl.col("n") > 0) if least else grouped
    found = grouped.sort(*by, descending=list(down)).take_all()
    assert shuffles(grouped.sort(*by)) == 1
    assert idents(found) == [ident(tuple(row)) for row in in_order(grouped.take_all(), by, down)]
    once = data.distinct("k", "f").sort(*by, descending=list(down)).take_all()
    assert idents(once) == [ident(tuple(row)) for row in in_order(data.distinct("k", "f").take_all(), by, down)]


@fast
@given(rows=rows_of, partitions=st.sampled_from([None, 3]))
def test_groups_of_groups_are_those_of_two_shuffles(
    tiny: None, monkeypatch: pytest.MonkeyPatch, rows: Any, partitions: int | None
) -> None:
    grouped = mr.from_items(rows, names=NAMES).group_by("k", "f", num_partitions=partitions).agg(n=mr.sum("n"))
    least = grouped.filter(pl.col("n") > -3)
    again = least.group_by("k", "f", num_partitions=partitions).agg(n=mr.sum("n"), m=mr.mean("n"), c=mr.collect("n"))
    plans = [again, least.distinct("f", "k", num_partitions=partitions), least.distinct("k", "f")]
    found = [plan.take_all() for plan in plans]
    with monkeypatch.context() as patch:
        patch.setattr(mr.stages, "has_one_row_a_key", lambda *given: False)
        asked = [plan.take_all() for plan in plans]
    assert [idents(some) for some in found] == [idents(some) for some in asked]


PLANS: list[Callable[[mr.Dataset], mr.Dataset]] = [
    lambda d: d.sort("k", descending=True).group_by("k").agg(first=mr.first("n"), all=mr.collect("n")),
    lambda d: d.repartition(3, by="k").filter(pl.col("n") > -5).group_by("k").agg(f=mr.first("f"), n=mr.last("n")),
    lambda d: d.sort("f").distinct("k", "f"),
    lambda d: d.sort("k").group_by("k").map_groups(lambda key, rows: (key, [r.n for r in rows]), names=["k", "n"]),
    lambda d: d.sort("k").join(d.select("k", m="n").sort("k", descending=True), on="k", strategy="sort_merge"),
    lambda d: d.join(d.select("k", m="n").sort("k"), on="k", how="left", strategy="broadcast"),
    lambda d: (
        d.sort("k")
        .cogroup(d.repartition(2, by="k"), on="k")
        .map_groups(lambda key, a, b: (key, [x.n for x in a], [y.n for y in b]), names=["k", "a", "b"])
    ),
]


@pytest.mark.parametrize("plan", PLANS)
def test_what_is_left_out_changes_no_row(tiny: None, as_asked: Callable[[], None], plan: Any) -> None:
    rows = [("ab"[i % 2] if i % 5 else None, [0.5, -0.0, float("nan")][i % 3], i * 7 % 10) for i in range(40)]
    found = plan(mr.from_items(rows, names=NAMES)).take_all()
    assert any("left out" in note for note in notes(plan(table())))
    as_asked()
    assert notes(plan(table())) == [note for note in notes(plan(table())) if "join" in note]
    asked = plan(mr.from_items(rows, names=NAMES)).take_all()
    assert [repr(tuple(row)) for row in found] == [repr(tuple(row)) for row in asked]
    assert found


def test_a_key_larger_than_a_range_is_not_split(tiny: None, tmp_path: Path) -> None:
    rows = [("hot", 0.5, i) for i in range(300)] + [(f"k{i % 40:02}", 1.5, i) for i in range(100)]
    data = mr.from_items(rows, names=NAMES)
    ordered = data.group_by("k").agg(n=mr.count()).sort("k")
    assert [(row.k, row.n) for row in ordered.take_all()] == sorted(
        {("hot", 300), *((k, 3 - (int(k[1:]) >= 20)) for k, _, _ in rows[300:])}
    )
    ordered.write_json(str(tmp_path / "out"))
    assert len(list((tmp_path / "out").glob("part-*"))) > 1


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=9), min_size=1, max_size=4), st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_ranges_of_whole_keys_hold_all_rows_of_their_keys(runs: list[list[int]], most: int) -> None:
    """Each row has a block of its own; a range's span may begin a block early and is bounded by its keys."""
    samples = []
    for keys in map(sorted, runs):
        count = len(keys)
        columns = {"k": keys, "mr.run": [0] * count, "mr.row": list(range(count)), "mr.bytes": [100] * count}
        samples.append(pa.RecordBatch.from_pydict(columns))
    found = ranges(samples, ["k"], [False], most, whole_keys=True)
    bounds = [None if part.low is None else part.low.key["k"][0].as_py() for part in found]
    assert bounds[0] is None
    assert bounds[1:] == sorted(set(bounds[1:]))
    for part, low, high in zip(found, bounds, [*bounds[1:], None], strict=True):
        assert part.low is None or part.low.task == -1
        for task, keys in enumerate(map(sorted, runs)):
            wanted = {i for i, key in enumerate(keys) if (low is None or key >= low) and (high is None or key < high)}
            spans = [span for span in part.spans.tolist() if span[0] == task]
            held = {
                i for _, _, start, stop in spans for i in range(start, min(stop, len(keys) if stop == END else stop))
            }
            assert wanted <= held
    assert np.sum([part.bytes for part in found]) == 100 * sum(map(len, runs))


def test_words_are_counted_and_sorted_in_one_shuffle(inline: mr.Session, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("b a c a\nb a\n" * 50)
    words = mr.read_text(str(tmp_path / "in.txt")).flat_map(str.split, names="word")
    counts = words.group_by("word").agg(n=mr.count()).sort("word", descending=True)
    assert counts.take_all() == [("c", 50), ("b", 100), ("a", 150)]
    assert shuffles(counts) == 1
