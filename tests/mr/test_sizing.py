"""How many buckets a shuffle gets: decided from the sizes of its sources, the same for both sides, without effect on
what comes out but for the order of buckets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import xxhash
from dataset_kit import shrink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mr
import mr.inputs
import mr.sizing
from mr.executors.inline import InlineExecutor
from mr.explain import explain_graph
from mr.fingerprint import program_identity
from mr.formats.jsonl import JsonWriter
from mr.graph import Graph
from mr.kernels.joined import HOWS
from mr.plan import Write
from mr.program import CoGroupHead, HashOutlet
from mr.sizing import bucket_count, known_size, source_bytes
from mr.stages import compile_plan

GIB, TIB = 1 << 30, 1 << 40
SIZES = {"small": GIB, "half": 40 * GIB, "other half": 40 * GIB, "huge": 5 * TIB}
ANY = [256, 4096, 65_536]


def size_of(read: Any) -> int | None:
    return SIZES.get(read.paths[0])


def graph_of(dataset: mr.Dataset, sizes: Any = size_of) -> Graph:
    node = dataset._node
    return compile_plan((Write(node.shape, node, "out", JsonWriter()),), sizes, lambda path: None)


def buckets_of(dataset: mr.Dataset) -> list[int]:
    return [e.spec.buckets for e in graph_of(dataset).exchanges if isinstance(e.spec, HashOutlet)]


def lines(path: str) -> mr.Dataset:
    return mr.read_text(path)


@pytest.mark.parametrize(
    ("size", "count"),
    [(0, 256), (64 * GIB, 256), (64 * GIB + 1, 4096), (4 * TIB, 4096), (4 * TIB + 1, 65_536), (999 * TIB, 65_536)],
)
def test_buckets_grow_in_coarse_classes(size: int, count: int) -> None:
    assert bucket_count(size) == count


def test_sources_count_once_each_and_unknown_ones_not() -> None:
    both = lines("half").union(lines("other half"))
    assert source_bytes((both._node, both.distinct()._node), size_of) == 80 * GIB
    assert source_bytes((lines("elsewhere")._node, mr.from_items([1, 2])._node), size_of) == 16


@pytest.mark.parametrize(
    ("made", "buckets"),
    [
        (lambda: lines("small").distinct(), [256]),
        (lambda: lines("elsewhere").distinct(), [256]),
        (lambda: lines("half").union(lines("other half")).distinct(), [4096]),
        (lambda: lines("huge").distinct().map(lambda s: (s, 1), names=["s", "n"]).group_by("n").count(), [65_536] * 2),
        (lambda: lines("half").join(lines("other half"), on="value", strategy="sort_merge"), [4096, 4096]),
        (lambda: lines("small").join(lines("huge"), on="value"), [65_536, 65_536]),
        (lambda: lines("huge").distinct(num_partitions=7), [256]),
        (lambda: lines("huge").repartition(7, by="value"), [256]),
    ],
)
def test_the_size_of_all_that_is_read_decides(made: Any, buckets: list[int]) -> None:
    assert buckets_of(made()) == buckets


def test_sides_of_a_cogroup_and_its_function_have_the_same_buckets() -> None:
    graph = graph_of(lines("half").cogroup(lines("other half"), on="value").map_groups(lambda *given: 1))
    (head,) = (s.program.head for s in graph.stages if isinstance(s.program.head, CoGroupHead))
    assert [e.spec.buckets for e in graph.exchanges if isinstance(e.spec, HashOutlet)] == [4096, 4096]
    assert head.op.buckets == 4096


def test_each_source_is_asked_once() -> None:
    asked: list[str] = []

    def sizes(read: Any) -> int:
        asked.append(read.paths[0])
        return 1

    left, right = lines("a"), lines("b")
    graph_of(left.join(right, on="value").distinct().group_by("value").count(), sizes)
    assert sorted(asked) == ["a", "b"]
    asked.clear()
    graph_of(left.distinct(num_partitions=2), sizes)
    assert asked == [], "nothing is decided by it"


def test_the_count_is_part_of_identity_and_explained() -> None:
    small, huge = (graph_of(lines(path).distinct()) for path in ("small", "huge"))
    digests = {program_identity(graph.stages[0].program).digest for graph in (small, huge)}
    assert len(digests) == 2
    assert "65,536 buckets for the size of the input" in explain_graph(huge, size_of)
    assert "buckets" not in explain_graph(small, size_of)


def classed(patch: pytest.MonkeyPatch, buckets: int) -> None:
    patch.setattr(mr.sizing, "BUCKET_CLASSES", ((-1, buckets),))


def bucket_of(key: str, buckets: int) -> int:
    return xxhash.xxh3_64_intdigest(key.encode()) * buckets >> 64


@pytest.mark.parametrize("buckets", ANY)
def test_groups_come_in_the_order_of_their_buckets(
    buckets: int, inline: mr.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink(monkeypatch)
    classed(monkeypatch, buckets)
    words = [f"w{i % 300}" for i in range(900)]
    found = mr.from_items(words).group_by("value").agg(n=mr.count()).take_all()
    expected = sorted(set(words), key=lambda word: (bucket_of(word, buckets), word))
    assert [(row.value, row.n) for row in found] == [(word, 3) for word in expected]


WORDS = st.lists(st.sampled_from([None, "", "a", "b", "c", "d", "hot"]), max_size=12)


def numbered(words: list[str | None]) -> mr.Dataset:
    return mr.from_items(list(enumerate(words)), names={"n": int, "k": str})


@given(WORDS, WORDS, st.sampled_from(HOWS), st.sampled_from([1, 1 << 30]), st.integers(0, 30))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_do_not_depend_on_the_buckets(
    tmp_path: Path, left: Any, right: Any, how: Any, memory: int, hot: int
) -> None:
    left = left + ["hot"] * hot
    found = []
    for buckets in ANY:
        with pytest.MonkeyPatch.context() as patch:
            shrink(patch)
            classed(patch, buckets)
            with mr.Session(executor=InlineExecutor(tmp_path, memory), home=tmp_path, reuse=False):
                mine, theirs = numbered(left), numbered(right)
                joined = mine.join(theirs, on="k", how=how, strategy="sort_merge").take_all()
                both = mine.cogroup(theirs, on="k").map_groups(_counts, names={"k": str, "l": int, "r": int})
                found.append((sorted(map(repr, joined)), sorted(map(repr, both.take_all()))))
    assert found[0] == found[1] == found[2]


def _counts(key: Any, left: Any, right: Any) -> tuple[Any, int, int]:
    return key, sum(1 for _ in left), sum(1 for _ in right)


def apart(fine: int, coarse: int) -> tuple[str, str]:
    """Two keys in their own order that lie in one of `coarse` buckets, but in the other order in `fine` ones."""
    words = [f"{i:06}" for i in range(9999)]
    held: dict[int, str] = {}
    for word in words:
        before = held.setdefault(bucket_of(word, coarse), word)
        if bucket_of(before, fine) > bucket_of(word, fine):
            return before, word
    raise AssertionError


def test_sides_are_matched_in_the_order_of_all_buckets(inline: mr.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    classed(monkeypatch, 4096)
    first, second = apart(4096, 256)
    both = numbered([first, second]).cogroup(numbered([first]), on="k")
    found = both.map_groups(_counts, names={"k": str, "l": int, "r": int}).take_all()
    assert found == [(second, 1, 0), (first, 1, 1)]


def test_results_of_one_number_of_buckets_are_not_those_of_another(
    inline: mr.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files of one key each leave the same segments whatever the buckets, but these lie in another order."""
    first, second = apart(256, 2)
    for name, key in (("0", first), ("1", second)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"k": key}) + "\n")
    monkeypatch.setattr(mr.inputs, "PACKED_FILE_BYTES_MAX", 0)  # each is a split of its own
    words = mr.read_json(str(tmp_path / "*.json"), schema={"k": str})
    found = words.group_by("k").agg(n=mr.count()).take_all()
    again = words.group_by("k", num_partitions=2).agg(n=mr.count()).take_all()
    assert [row.k for row in found] == [second, first]
    assert [row.k for row in again] == [first, second]


def test_a_run_file_of_the_most_buckets_lists_those_it_has(tmp_path: Path) -> None:
    from mr.kernels.partition import sort_into_buckets
    from mr.shuffle.reader import RunReader
    from mr.shuffle.writer import RunWriter

    words = pa.RecordBatch.from_pydict({"k": pa.array([f"w{i}" for i in range(40)], pa.large_string())})
    with RunWriter(tmp_path / "m", "a", words.schema) as writer:
        for _ in range(2):
            writer.append_run(*sort_into_buckets(words, ["k"], buckets_total=65_536))
        index = writer.finish()
    assert (tmp_path / "m").stat().st_size < 16_000
    assert index.table.num_rows <= 80
    reader = RunReader(tmp_path / "m")
    spans = reader.index.spans(0, 65_536)
    assert [(span.run, span.start, span.stop) for span in spans] == [(0, 0, 40), (1, 0, 40)], "one read a run"
    expected = sorted(words["k"].to_pylist(), key=lambda word: (bucket_of(word, 65_536), word))
    assert reader.rows(1, 0, 40)["k"].to_pylist() == expected
    (one,) = (s for s in reader.index.spans(0, bucket_of(expected[0], 65_536) + 1) if s.run == 0)
    assert reader.rows(0, one.start, one.stop)["k"].to_pylist() == expected[:1]


def test_numbers_count_as_what_they_become() -> None:
    few, many = (mr.range(n).select(k="value", y="value") for n in (1000, 2_000_000))
    assert known_size(mr.range(2_000_000)._node, size_of) == 16_000_000
    left = mr.from_items([(1, 2)], names=["k", "x"])
    for right, strategy in ((few, "broadcast join:"), (many, "sort-merge join:")):
        stages = graph_of(left.join(right, on="k")).stages
        assert [note.startswith(strategy) for stage in stages for note in stage.notes] == [True]


def test_what_a_stage_reads_is_estimated_for_what_the_program_made(inline: mr.Session) -> None:
    kept = mr.range(1000).with_columns(y=pl.col("value") + 1).repartition(2, by="value").materialize()
    joined = kept.join(kept, on="value")
    for text in (explain_graph(graph_of(kept), size_of), explain_graph(graph_of(joined), size_of)):
        assert "about 0 B" not in text
        assert "kB to read" in text
    assert "about 8.0 kB to read" in explain_graph(graph_of(mr.range(1000)), size_of)
    assert "reads stage 0 dealt out, 3 partitions" in explain_graph(graph_of(mr.range(9).repartition(3)), size_of)
