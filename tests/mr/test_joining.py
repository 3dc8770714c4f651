"""What is decided about joins: hot keys, their shares and sizes; and that splitting one changes no row."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dataset_kit import shrink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import mr
import mr.inputs
import mr.joining
import mr.kernels.skew
from mr.executors.inline import InlineExecutor
from mr.joining import hot_keys, isolated, shares, skew_notes
from mr.kernels.frames import to_ipc
from mr.kernels.joined import HOWS
from mr.kernels.skew import ROWS, frequent_keys, merged_keys
from mr.options import REDUCE_RANGE_BYTES_MAX
from mr.plan import Materialized
from mr.tasks import Cut, ExchangeInput


def counts(**rows: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"k": pa.array(list(rows), pa.large_string()), ROWS: pa.array(rows.values())})


@given(st.lists(st.sampled_from("abcdefgh"), max_size=400), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_frequent_keys_are_lower_bounds_and_miss_no_key_of_two_steps(keys: list[str], sample: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mr.kernels.skew, "_SAMPLE_ROWS", sample)
        patch.setattr(mr.kernels.skew, "FREQUENT_ROWS_MIN", 1)
        found = frequent_keys(pa.RecordBatch.from_pydict({"k": pa.array(sorted(keys), pa.large_string())}), ["k"])
        twice = {row["k"]: row[ROWS] for row in merged_keys([found, found], ["k"]).to_pylist()}
    real, step = Counter(keys), max(1, len(keys) // sample)
    once = {row["k"]: row[ROWS] for row in found.to_pylist()}
    assert all(real[key] - 2 * step < rows <= real[key] for key, rows in once.items())
    assert {key for key, rows in real.items() if rows >= step} <= once.keys()
    assert twice == {key: 2 * rows for key, rows in once.items()}


def test_a_key_is_hot_by_its_matches_and_only_if_the_left_has_it() -> None:
    million = 1 << 20
    left, right = counts(many=9 * million, few=3000, lone=8 * million - 1), counts(few=3000, right=99 * million)
    renamed = right.rename_columns(["id", ROWS])
    found = hot_keys([left], [renamed, renamed], ["k"], ["id"], 256)
    assert {hot.key["k"][0].as_py(): (hot.matches, hot.tasks) for hot in found} == {
        "many": (9 * million, 3),
        "few": (3000 * 6000, 5),
    }
    assert [hot.bucket for hot in found] == sorted(hot.bucket for hot in found)
    assert hot_keys([], [renamed], ["k"], ["id"], 256) == []
    nulls = pa.RecordBatch.from_pydict({"k": pa.array([None], pa.large_string()), ROWS: [99 * million]})
    assert hot_keys([nulls], [], ["k"], ["id"], 256) == []


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 8))
def test_shares_cover_all_items_in_order(sizes: list[int], parts: int) -> None:
    found = shares(sizes, parts)
    assert [i for start, end in found for i in range(start, end)] == list(range(len(sizes)))
    assert len(found) <= parts + 1
    assert all(start < end for start, end in found)


def test_hot_buckets_get_a_range_of_their_own() -> None:
    assert isolated([(0, 8)], [0, 3, 4, 7]) == [(0, 1), (1, 3), (3, 4), (4, 5), (5, 7), (7, 8)]


def test_what_was_done_about_skew_is_told() -> None:
    cut = Cut(to_ipc(counts(hot=1).select(["k"])), 0, 0, 0)
    big = REDUCE_RANGE_BYTES_MAX * 3
    part = ExchangeInput((), b"", big, "", (7, 8), lower=cut, upper=replace(cut, producer=1))
    alone, usual = ExchangeInput((), b"", big, "", (9, 10)), ExchangeInput((), b"", big, "", (0, 2))
    assert skew_notes([(usual,), (part,), (part,), (alone,)]) == (
        f"bucket 9 has {big:,} bytes, mostly of few keys: a task of its own streams it",
        "hot key 'hot': its rows on the left are split over 2 tasks",
    )


def test_a_hot_key_that_one_task_made_is_split_within_its_run(tmp_path: Path) -> None:  # F47
    left, right = ["a", *["hot"] * 400, "z"], ["hot"] * 3
    found = []
    for split in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mr.kernels.skew, "FREQUENT_ROWS_MIN", 1)
            patch.setattr(mr.joining, "HOT_JOIN_ROWS", 200 if split else 1 << 40)
            with mr.Session(executor=InlineExecutor(tmp_path, 1 << 30), reuse=False, home=tmp_path):
                mine = mr.from_items(list(enumerate(left)), names={"n": int, "k": str})
                theirs = mr.from_items(list(enumerate(right)), names={"m": int, "k": str})
                kept = mine.join(theirs, on="k", strategy="sort_merge").materialize()
                assert isinstance(kept._node, Materialized)
                sizes = kept.map_partitions(lambda rows: [sum(1 for _ in rows)], names="n").take_all()
                found.append((kept.take_all(), [size for size in sizes if size]))
    assert found[0][0] == found[1][0]
    assert len(found[0][1]) == 1200 // 200, "one map task made all of them"
    assert max(found[0][1]) <= 2 * min(found[0][1])


WORDS = st.lists(st.sampled_from([None, "a", "b", "c", "hot", "hotter"]), max_size=10)


def joined(home: Path, left: Any, right: Any, how: Any, memory: int, split: bool) -> tuple[list[Any], int]:
    """The rows of a join, and how many tasks it took."""
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        patch.setattr(mr.inputs, "ITEMS_PER_SPLIT", 8)
        patch.setattr(mr.kernels.skew, "FREQUENT_ROWS_MIN", 1)
        patch.setattr(mr.joining, "HOT_JOIN_ROWS", 2 if split else 1 << 40)
        with mr.Session(executor=InlineExecutor(home, memory), reuse=False, home=home):
            mine = mr.from_items(list(enumerate(left)), names={"n": int, "k": str})
            theirs = mr.from_items(list(enumerate(right)), names={"m": int, "k": str})
            kept = mine.join(theirs, on="k", how=how, strategy="sort_merge").materialize()
            assert isinstance(kept._node, Materialized)
            return kept.take_all(), len(kept._node.parts)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WORDS, WORDS, st.integers(0, 30), st.integers(0, 5), st.sampled_from(HOWS), st.sampled_from([1, 1 << 30]))
def test_splitting_hot_keys_changes_no_row(
    tmp_path: Path, left: Any, right: Any, n: int, m: int, how: Any, memory: int
) -> None:  # F47
    left, right = left + ["hot"] * n + ["hotter"] * (n // 2), ["hot"] * m + right
    assert joined(tmp_path, left, right, how, memory, True)[0] == joined(tmp_path, left, right, how, memory, False)[0]


@pytest.mark.parametrize("how", HOWS)
def test_several_tasks_share_a_hot_key(tmp_path: Path, how: Any) -> None:  # F47
    left, right = ["a", *["hot"] * 40, "z"], [*["hot"] * 3, "b"]
    split, whole = (joined(tmp_path, left, right, how, 1 << 30, split) for split in (True, False))
    assert split[0] == whole[0]
    assert split[1] >= whole[1] + 4
