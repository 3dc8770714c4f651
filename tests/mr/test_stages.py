"""Plan to stages to tasks: what is fused, shared, cut and pushed down, which join is chosen, who reads what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import mr
from mr.assignment import (
    Draft,
    Produced,
    bucket_ranges,
    check_join_keys,
    draft_tasks,
    exchange_schema,
    places_of,
    task_identity,
)
from mr.errors import PlanError, TypeConflict
from mr.explain import explain_graph
from mr.fingerprint import program_identity
from mr.graph import Graph, Stage
from mr.operators.joins import BroadcastJoin
from mr.options import BROADCAST_BYTES_MAX, BUCKETS, REDUCE_ALONE_BYTES_MAX, REDUCE_RANGE_BYTES_MAX
from mr.plan import Collect, Write, validate
from mr.program import GatherHead, GatherOutlet, GroupHead, HashOutlet, JoinHead, PartOutlet, RangeOutlet, ReadHead
from mr.stages import compile_plan
from mr.tasks import Output, PieceRef, Place, Segment, Split, TaskId

SIZES = {
    "small": 1000,
    "half": BROADCAST_BYTES_MAX // 2 + 1,
    "big": BROADCAST_BYTES_MAX + 1,
    "limit": BROADCAST_BYTES_MAX,
}
ROWS = [("a", 1), ("b", 2)]


def size_of(read: Any) -> int | None:
    return SIZES.get(read.paths[0])


def node(dataset: Any) -> Any:
    return dataset._node


def write(dataset: Any, path: str = "out") -> Write:
    from mr.formats.jsonl import JsonWriter

    return Write(dataset._node.shape, dataset._node, path, JsonWriter())


def graph_of(*datasets: Any) -> Graph:
    """The stages of datasets that are each written to a folder."""
    return compile_plan(tuple(write(d, f"out{i}") for i, d in enumerate(datasets)), size_of, lambda path: None)


def shape_of(graph: Graph) -> list[tuple[str, int, int]]:
    """(label, inputs, outlets) of each stage."""
    return [(stage.label, len(stage.inputs), len(stage.program.outlets)) for stage in graph.stages]


def lines(path: str = "in") -> Any:
    return mr.read_text(path)


# --- fusion and sharing ----------------------------------------------------------------------------------------------


def test_narrow_operators_are_one_stage() -> None:
    chain = lines().map(str.strip).filter(bool).flat_map(str.split, names=["w"]).with_columns(n=pl.lit(1))
    graph = graph_of(chain)
    assert shape_of(graph) == [("read in > map > filter > flat_map > with_columns", 0, 1)]
    assert [step.source.step for step in graph.stages[0].program.steps] == [-1, 0, 1, 2]


def test_a_shuffle_cuts_and_what_follows_is_fused_behind_it() -> None:
    grouped = lines().map(lambda s: (s, 1), names={"k": str, "n": int}).group_by("k").agg(n=mr.sum("n"))
    graph = graph_of(grouped.filter(pl.col("n") > 1).map(lambda row: row.k, names="k").sort("k"))
    assert graph.stages[0].label.startswith("read in > map")
    assert [stage.label for stage in graph.stages[1:]] == ["agg(k) > filter > map", "sort"]
    assert isinstance(graph.stages[1].program.head, GroupHead)
    assert isinstance(graph.exchanges[0].spec, HashOutlet)
    assert graph.exchanges[0].spec.keys == ("k",)
    assert graph.exchanges[0].spec.combiner is not None, "the partial step runs in the map task"
    assert isinstance(graph.exchanges[1].spec, RangeOutlet)
    assert [graph.upstream(stage) for stage in graph.stages] == [(), (0,), (1,)]
    assert [graph.publishes(stage) for stage in graph.stages] == [False, False, True]


def test_one_read_feeds_several_outputs() -> None:
    parsed = lines().map(lambda s: (s, 1), names={"k": str, "n": int}, on_error="quarantine")
    outputs = (
        parsed,
        parsed.group_by("k").agg(n=mr.count()),
        parsed.filter(pl.col("n") > 1),
        parsed.rejected(),
    )
    graph = graph_of(*outputs)
    reads = [stage for stage in graph.stages if isinstance(stage.program.head, ReadHead)]
    assert len(reads) == 1, "the input is read once"
    program = reads[0].program
    assert len(program.outlets) == 4
    assert [step.op.label for step in program.steps].count("map") == 1, "and parsed once"
    sources = [(outlet.source.step, outlet.source.rejects) for outlet in program.outlets]
    assert sources[0] == (0, False)
    assert sources[-1] == (0, True)
    assert {sink.node.path for sink in graph.sinks} == {"out0", "out1", "out2", "out3"}
    assert graph.sinks[0].feeds[0].stage == graph.sinks[2].feeds[0].stage == reads[0].id
    assert "shared: one pass feeds 4 outlets" in explain_graph(graph)


def test_a_shared_shuffle_is_made_once_and_equal_reads_of_two_datasets_are_two() -> None:
    counted = lines().group_by("value").agg(n=mr.count())
    graph = graph_of(counted, counted.sort("n"), counted.top_k(1, by="n"))
    assert sum("agg(value)" in stage.label for stage in graph.stages) == 1
    assert len([s for s in graph_of(lines(), lines()).stages if s.source is not None]) == 2


def test_a_union_is_several_feeds_of_one_exchange() -> None:
    both = lines("a").union(lines("b")).map(str.upper, names="value")
    graph = graph_of(both.group_by("value").agg(n=mr.count()), both)
    assert [stage.label.split(" > ")[:2] for stage in graph.stages[:2]] == [["read a", "map"], ["read b", "map"]]
    assert [feed.stage for feed in graph.exchanges[0].feeds] == [0, 1]
    assert [feed.stage for feed in graph.sinks[1].feeds] == [0, 1], "parts in the order of the union"
    twice = lines("a")
    graph = graph_of(twice.union(twice))
    assert [(feed.stage, feed.outlet) for feed in graph.sinks[0].feeds] == [(0, 0), (0, 1)]


def test_one_file_needs_one_task() -> None:
    many, one = (
        compile_plan((write(dataset, "out.json"),), size_of, lambda path: None)
        for dataset in (lines(), lines().agg(n=mr.count()))
    )
    assert [stage.label for stage in many.stages] == ["read in", "gather"]
    assert [stage.single for stage in one.stages] == [False, True]
    assert len(one.stages) == 2, "an aggregate of everything is one task already"


def test_collected_records_come_in_order_from_everywhere() -> None:
    graph = compile_plan((Collect(None, node(lines("a").union(lines("b")))),), size_of, lambda path: None)
    assert [feed.stage for feed in graph.exchanges[graph.collects[0]].feeds] == [0, 1]
    assert all(graph.publishes(stage) for stage in graph.stages)


# --- limit and top_k -------------------------------------------------------------------------------------------------


def test_limit_stops_reading_early() -> None:
    graph = graph_of(lines().map(str.upper).limit(7))
    assert [stage.limit_rows for stage in graph.stages] == [7, None]
    assert graph.stages[0].label == "read in > map > limit"
    assert isinstance(graph.stages[1].program.head, GatherHead)
    assert "stops when the first tasks have 7 rows" in explain_graph(graph)


def test_limit_does_not_stop_a_stage_that_others_need() -> None:
    shared = lines().map(str.upper)
    graph = graph_of(shared.limit(7), shared)
    assert graph.stages[0].limit_rows is None


def test_top_k_needs_every_task_and_a_single_task_needs_no_second() -> None:
    graph = graph_of(lines().top_k(3, by="value"))
    assert [stage.limit_rows for stage in graph.stages] == [None, None]
    assert [stage.label for stage in graph.stages] == ["read in > top_k", "top_k > top_k"]
    assert len(graph_of(lines().agg(n=mr.count()).limit(1)).stages) == 2


def test_limit_reads_no_more_tasks_than_it_needs(inline: mr.Session, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(6):
        (tmp_path / "in" / f"{i}.txt").write_bytes(b"%d\n" % i * 2_200_000)  # too large to be packed
    dataset = mr.read_text(str(tmp_path / "in"))
    assert dataset.limit(3).write_text(str(tmp_path / "few")).tasks_run == 2
    assert dataset.take(3) == ["0", "0", "0"]
    result = dataset.limit(2_300_000).write_text(str(tmp_path / "more"))
    assert result.outputs["more"].rows == 2_300_000
    assert result.tasks_run <= 4


# --- push-down -------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path, inline: object) -> Any:
    path = str(tmp_path / "t.parquet")
    mr.from_items([{"a": 1, "b": "x", "c": 1.5, "d": True}]).write_parquet(path)
    return mr.read_parquet(path)


def needed(dataset: Any) -> tuple[str, ...] | None:
    head = graph_of(dataset).stages[0].program.head
    assert isinstance(head, ReadHead)
    return head.columns


def test_only_needed_columns_are_read(table: Any) -> None:
    assert needed(table) is None
    assert needed(table.select("a")) == ("a",)
    assert needed(table.select(x=pl.col("a") + 1, y="c")) == ("a", "c")
    assert needed(table.filter(pl.col("d")).select("a")) == ("a", "d")
    assert needed(table.with_columns(e=pl.col("b") + "!").select("e", "a")) == ("a", "b")
    assert needed(table.with_columns(a=pl.lit(1)).select("a", "b")) == ("b",), "a column that is replaced is not read"
    assert needed(table.select("a", "b").select("b")) == ("a", "b")
    assert needed(table.filter(pl.col("a") > 0)) is None
    assert needed(table.map(lambda row: row.a)) is None, "a function may look at every column"
    assert needed(table.select("a").map(lambda row: row.a)) == ("a",)


def test_what_several_outputs_need_is_read(table: Any) -> None:
    graph = graph_of(table.select("a"), table.filter(pl.col("b") == "x").select("c"))
    assert graph.stages[0].program.head.columns == ("a", "b", "c")  # type: ignore[union-attr]
    assert graph_of(table.select("a"), table).stages[0].program.head.columns is None  # type: ignore[union-attr]


def test_no_column_at_all_still_counts_rows(table: Any) -> None:
    assert table.select(one=pl.lit(1)).take_all() == [(1,)]
    assert table.count() == 1


def test_places_are_kept_only_where_somebody_asks(table: Any) -> None:
    assert not graph_of(table.select("a")).stages[0].program.head.track  # type: ignore[union-attr]
    assert graph_of(table.map(lambda row: row.a)).stages[0].program.head.track  # type: ignore[union-attr]
    chain = graph_of(lines().map(str.upper, names="s").filter(bool).with_columns(n=pl.lit(1)))
    assert [step.track for step in chain.stages[0].program.steps] == [True, False, False]


# --- joins -----------------------------------------------------------------------------------------------------------


def pairs(path: str) -> Any:
    return mr.read_text(path).map(lambda s: (s, 1), names={"k": str, "n": int})


def join_of(right: Any, strategy: Any = "auto", left: Any = None) -> tuple[str, str]:
    """The chosen strategy and the reason that `explain` gives."""
    left = pairs("big") if left is None else left
    graph = graph_of(left.join(right, on="k", strategy=strategy))
    (stage,) = [stage for stage in graph.stages if "join" in stage.label]
    (note,) = stage.notes
    kind, _, why = note.partition(" join: ")
    assert note in explain_graph(graph)
    assert isinstance(stage.program.head, JoinHead) is (kind == "sort-merge")
    assert bool(stage.sides) is (kind == "broadcast")
    return kind, why


def test_the_join_is_chosen_from_known_sizes() -> None:
    assert join_of(pairs("small")) == ("broadcast", "the right side has 1,000 bytes, at most 10,000,000")
    assert join_of(pairs("limit"))[0] == "broadcast"
    assert join_of(pairs("big")) == ("sort-merge", "the right side has 10,000,001 bytes, more than 10,000,000")
    unknown = "the size of the right side is not known before it runs"
    assert join_of(pairs("unheard of")) == ("sort-merge", unknown)
    assert join_of(pairs("small").group_by("k").agg(n=mr.count())) == ("sort-merge", unknown)
    assert join_of(mr.from_items([("x", 1)], names=["k", "m"]))[0] == "broadcast"


def joins_of(*rights: tuple[str, Any]) -> list[tuple[str, str]]:
    """What is chosen for a chain of joins, one after another."""
    data = pairs("big")
    for i, (path, strategy) in enumerate(rights):
        data = data.join(pairs(path).select("k", pl.col("n").alias(f"n{i}")), on="k", strategy=strategy)
    notes = [note.partition(" join: ") for stage in graph_of(data).stages for note in stage.notes]
    return [(kind, why) for kind, _, why in notes]


def test_sides_of_one_stage_are_broadcast_only_together() -> None:
    small, half = ("small", "auto"), ("half", "auto")
    assert [kind for kind, _ in joins_of(small, small, small)] == ["broadcast"] * 3
    assert joins_of(half, small)[1] == (
        "broadcast",
        "the right side has 1,000 bytes, other sides of the stage 5,000,001, at most 10,000,000",
    )
    assert joins_of(small, half, half)[2] == (
        "sort-merge",
        "the right side has 5,000,001 bytes, other sides of the stage 5,001,001, more than 10,000,000",
    )
    behind = joins_of(half, ("small", "sort_merge"), half)
    assert [kind for kind, _ in behind] == ["broadcast", "sort-merge", "broadcast"], "another stage holds its own"
    assert [kind for kind, _ in joins_of(("half", "broadcast"), half)] == ["broadcast", "sort-merge"]


def test_a_join_knows_how_many_sides_its_tasks_hold() -> None:
    two = pairs("big").join(pairs("small"), on="k").join(pairs("small"), on="k", suffix="_2")
    (stage,) = [stage for stage in graph_of(two).stages if "join" in stage.label]
    assert [step.op.sides for step in stage.program.steps if isinstance(step.op, BroadcastJoin)] == [2, 2]


def test_the_join_can_be_asked_for() -> None:
    assert join_of(pairs("big"), "broadcast") == ("broadcast", "asked for")
    assert join_of(pairs("small"), "sort_merge") == ("sort-merge", "asked for")
    kind, why = join_of(pairs("big").group_by("k").agg(n=mr.count()), "broadcast")
    assert (kind, why) == ("broadcast", "asked for")


def test_a_broadcast_of_what_the_left_is_made_of_would_wait_for_itself() -> None:
    base = pairs("small")
    kind, why = join_of(base, "broadcast", left=base)
    assert (kind, why) == ("sort-merge", "the right side is made by the stage that makes the left")
    derived = base.group_by("k").agg(m=mr.count())
    assert join_of(derived, "broadcast", left=base)[0] == "sort-merge"
    assert join_of(base.map(lambda row: row, names={"k": str, "m": int}), "auto", left=base)[0] == "sort-merge"


def test_the_strategies_give_the_same_rows_and_self_joins_end(inline: object) -> None:
    left = mr.from_items([(i % 5, i) for i in range(20)], names=["k", "n"])
    right = mr.from_items([(k, str(k)) for k in range(1, 7)], names=["k", "s"])
    found = [
        sorted(map(tuple, left.join(right, on="k", how="left", strategy=strategy).take_all()))
        for strategy in ("broadcast", "sort_merge", "auto")
    ]
    assert found[0] == found[1] == found[2] == sorted((i % 5, i, str(i % 5) if i % 5 else None) for i in range(20))
    counts = left.group_by("k").agg(m=mr.count())
    assert len(left.join(counts, on="k", strategy="broadcast").take_all()) == 20


# --- plans that are refused ------------------------------------------------------------------------------------------


def test_quarantine_without_rejected_is_refused() -> None:
    dataset = lines().map(int, on_error="quarantine")
    with pytest.raises(PlanError, match=r'test_stages\.py:\d+: on_error="quarantine", but nothing uses \.rejected\(\)'):
        validate((write(dataset),))
    validate((write(dataset), write(dataset.rejected(), "bad")))


def test_only_written_datasets_are_roots() -> None:
    with pytest.raises(PlanError, match="a job returns written datasets, not a map"):
        compile_plan((node(lines().map(str)),), size_of, lambda path: None)


def test_a_part_in_a_store_is_written_there() -> None:
    graph = compile_plan((write(lines(), "dfs://out"), write(lines(), "local")), size_of, {"dfs://out": "/s"}.get)
    stores = [
        s.program.outlets[0].spec.store for s in graph.stages if isinstance(s.program.outlets[0].spec, PartOutlet)
    ]
    assert stores == ["/s", None]


# --- assignment ------------------------------------------------------------------------------------------------------


def test_bucket_ranges_are_aligned_powers_of_two_within_the_limit() -> None:
    import random

    for seed in range(50):
        source = random.Random(seed)
        sizes = [int(source.paretovariate(0.5)) for _ in range(BUCKETS)]
        most = sum(sizes) // source.choice([1, 3, 10, 1000])
        ranges = bucket_ranges(sizes, most)
        assert [low for low, _ in ranges] == [0, *(high for _, high in ranges[:-1])]
        assert ranges[-1][1] == BUCKETS
        for low, high in ranges:
            width = high - low
            assert width & (width - 1) == 0
            assert low % width == 0
            assert sum(sizes[low:high]) <= most or width == 1
            if width < BUCKETS:  # not cut without need
                start = low - low % (2 * width)
                assert sum(sizes[start : start + 2 * width]) > most


def test_growth_splits_locally() -> None:
    sizes = [100] * BUCKETS
    before = bucket_ranges(sizes, 400)
    sizes[77] += 1
    after = bucket_ranges(sizes, 400)
    assert set(before) ^ set(after) == {(76, 80), (76, 78), (78, 80)}
    assert bucket_ranges([0] * BUCKETS, 400) == [(0, BUCKETS)]
    assert bucket_ranges([7], 1) == [(0, 1)]


def test_all_buckets_are_one_range_only_where_they_are_small() -> None:
    half = REDUCE_ALONE_BYTES_MAX // 2
    assert bucket_ranges([half, half], REDUCE_RANGE_BYTES_MAX) == [(0, 2)]
    assert bucket_ranges([half, 1, half, 0], REDUCE_RANGE_BYTES_MAX) == [(0, 2), (2, 4)]
    grown = [2 * REDUCE_ALONE_BYTES_MAX] * 4
    assert bucket_ranges(grown, REDUCE_RANGE_BYTES_MAX) == [(0, 2), (2, 4)], "as they were when they were small"


SCHEMA = pa.schema([("value", pa.large_string())], {b"mr.kind": b"rows"}).serialize().to_pybytes()


def produced(stage: int, index: int, segments: tuple[Segment, ...], schema: bytes = SCHEMA) -> Produced:
    size = sum(segment.bytes for segment in segments)
    rows = sum(segment.rows for segment in segments)
    return Produced(TaskId(stage, index), Output(f"{stage}.{index}", schema, rows, size, segments), Place(()))


def segment(bucket: int, size: int, digest: str, run: int = 0) -> Segment:
    return Segment(bucket, run, 0, size, 1, digest)


def grouped(**options: Any) -> tuple[Graph, Stage]:
    graph = graph_of(lines().group_by("value", **options).agg(n=mr.count()))
    return graph, graph.stages[1]


def test_reduce_tasks_cover_ranges_of_real_bytes() -> None:
    graph, stage = grouped()
    half = REDUCE_RANGE_BYTES_MAX // 2 + 1
    items = [
        produced(0, 0, (segment(3, half, "a"), segment(200, 10, "b"))),
        produced(0, 1, (segment(3, half, "c"), segment(201, 10, "d"))),
        produced(0, 2, ()),
    ]
    drafts = draft_tasks(stage, graph, {0: items}, ())
    reads = [(draft.exchanges[0].buckets, [file.path for file in draft.exchanges[0].files]) for draft in drafts]
    busy = [read for read in reads if read[1]]
    assert ((3, 4), ["0.0", "0.1"]) in busy
    assert ((128, 256), ["0.0", "0.1"]) in busy
    assert len(busy) == 2
    assert [low for (low, _), _ in reads] == sorted(low for (low, _), _ in reads)
    assert {draft.needs for draft in drafts} == {(), (TaskId(0, 0), TaskId(0, 1))}
    assert sum(draft.exchanges[0].bytes for draft in drafts) == 2 * half + 20
    small = draft_tasks(stage, graph, {0: items[2:]}, ())
    assert len(small) == 1, "at least one task, also for nothing"


def test_a_fixed_number_of_partitions_is_kept() -> None:
    graph, stage = grouped(num_partitions=5)
    drafts = draft_tasks(stage, graph, {0: [produced(0, 0, (segment(3, 10, "a"),))]}, ())
    assert [draft.exchanges[0].buckets for draft in drafts] == [(i, i + 1) for i in range(5)]


def test_the_identity_of_a_reduce_task_is_what_it_reads() -> None:
    graph, stage = grouped()

    def identities(*items: Produced) -> list[str]:
        return [draft.identity for draft in draft_tasks(stage, graph, {0: items}, ())]

    one, two = (segment(1, 10, "a"), segment(200, 10, "b")), (segment(1, 10, "c"),)
    base = identities(produced(0, 0, one), produced(0, 1, two))
    assert identities(produced(0, 5, one), produced(7, 1, two)) == base, "not who made it"
    assert identities(produced(0, 0, one), produced(0, 1, ()), produced(0, 2, two)) == base, "nor who had nothing"
    assert identities(produced(0, 1, two), produced(0, 0, one)) != base, "but in which order it comes"
    assert identities(produced(0, 0, one), produced(0, 1, (segment(1, 10, "x"),))) != base
    program = program_identity(stage.program)
    drafts = draft_tasks(stage, graph, {0: [produced(0, 0, one)]}, ())
    fingerprints = [task_identity(program, drafts[0], schemas).digest for schemas in ((), (None,), (b"s",))]
    assert len(set(fingerprints)) == 3
    assert task_identity(program, drafts[0], ()) == task_identity(program, drafts[0], ())


def test_only_the_ranges_that_changed_have_new_identities() -> None:
    graph, stage = grouped()
    full = REDUCE_RANGE_BYTES_MAX // 100
    base = [segment(bucket, full, f"d{bucket}") for bucket in range(BUCKETS)]
    changed = [*base[:9], segment(9, full, "new"), *base[10:]]
    before, after = (
        [draft.identity for draft in draft_tasks(stage, graph, {0: [produced(0, 0, tuple(segments))]}, ())]
        for segments in (base, changed)
    )
    assert len(before) == len(after) >= 3
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


def test_source_tasks_are_the_splits() -> None:
    graph = graph_of(lines())
    splits = [Split((), f"id{i}", 0) for i in range(3)]
    drafts = draft_tasks(graph.stages[0], graph, {}, splits)
    assert [draft.split for draft in drafts] == splits
    assert drafts[0] == Draft(splits[0])
    assert len({draft.identity for draft in drafts}) == 3


def test_the_schemas_of_an_exchange_are_joined() -> None:
    def schema(type: pa.DataType) -> bytes:
        return pa.schema([("k", type)], {b"mr.kind": b"rows"}).serialize().to_pybytes()

    def joined(*types: pa.DataType) -> pa.DataType:
        items = [produced(0, i, (), schema(type)) for i, type in enumerate(types)]
        return pa.ipc.read_schema(pa.py_buffer(exchange_schema(items))).field("k").type

    assert joined(pa.null(), pa.int64(), pa.null()) == pa.int64()
    assert joined(pa.int64(), pa.float64()) == pa.float64()
    assert exchange_schema([]) == b""
    with pytest.raises(TypeConflict, match=r"'k'.*int.*str"):
        joined(pa.int64(), pa.large_string())


def test_keys_of_unequal_types_never_meet() -> None:
    def schema(type: pa.DataType) -> bytes:
        return pa.schema([("k", type)]).serialize().to_pybytes()

    check_join_keys(schema(pa.int64()), schema(pa.int64()), ["k"], ["k"])
    check_join_keys(schema(pa.int64()), schema(pa.null()), ["k"], ["k"])
    check_join_keys(b"", schema(pa.int64()), ["k"], ["k"])
    with pytest.raises(PlanError, match="'k' is int64 on the left but 'k' is large_string on the right"):
        check_join_keys(schema(pa.int64()), schema(pa.large_string()), ["k"], ["k"])


def test_places_count_lines_from_piece_to_piece() -> None:
    def split(*pieces: PieceRef) -> Split:
        return Split(pieces, "", 0)

    splits = [
        split(PieceRef("a", 0, 100)),
        split(PieceRef("a", 100, 50), PieceRef("b", 0, 10)),
        split(PieceRef("c.gz", 0, 10, compression="gzip")),
        split(PieceRef("a", 150, 5)),
        split(),
    ]
    found = places_of(splits, [(7,), (3, 2), (4,), (), ()])
    assert [place.pieces for place in found] == [
        (("a", 0, 0),),
        (("a", 100, 7), ("b", 0, 0)),
        (("c.gz", 0, 0),),
        (("a", 150, 10),),
        (),
    ]


def test_gathers_and_sides_read_everything() -> None:
    graph = graph_of(lines().agg(n=mr.count()))
    assert isinstance(graph.exchanges[0].spec, GatherOutlet)
    items = [produced(0, i, (segment(0, 10, f"d{i}"),)) for i in range(3)]
    (draft,) = draft_tasks(graph.stages[1], graph, {0: items}, ())
    assert [file.path for file in draft.exchanges[0].files] == ["0.0", "0.1", "0.2"]
    joined = graph_of(pairs("big").join(pairs("small"), on="k"))
    stage = next(stage for stage in joined.stages if stage.sides)
    (task,) = draft_tasks(stage, joined, {stage.sides[0]: items}, [Split((), "split", 0)])
    assert (task.sides[0].bytes, task.needs) == (30, tuple(TaskId(0, i) for i in range(3)))
    (other,) = draft_tasks(stage, joined, {stage.sides[0]: items[:2]}, [Split((), "split", 0)])
    assert other.identity != task.identity, "what is broadcast counts"
