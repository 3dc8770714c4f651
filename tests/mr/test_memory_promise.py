"""`--memory` is for the whole process tree: how it is shared, and that what holds rows keeps to its share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mr
import mr.outlets.base
from mr.batch import Batch
from mr.errors import ExecutorError
from mr.executors.base import attempt_memory_bytes, slots_within
from mr.operators.grouped import AggregateStates
from mr.options import ATTEMPT_MEMORY_BYTES_MIN, MASTER_MEMORY_BYTES, MERGE_BLOCK_BYTES, MIB, WORKER_MEMORY_BYTES
from mr.outlets import open_outlet
from mr.program import GatherOutlet, HashOutlet, OutletSpec, RangeOutlet
from mr.shuffle.merge import sorted_rows
from mr.shuffle.run_file import pieces

# --- shares ----------------------------------------------------------------------------------------------------------


@given(memory=st.integers(408 * MIB, 64 << 30), workers=st.integers(1, 256))
@settings(max_examples=100, deadline=None)
def test_all_processes_together_stay_within_the_budget(memory: int, workers: int) -> None:
    slots, share = slots_within(memory, workers), attempt_memory_bytes(memory, workers)
    assert 1 <= slots <= workers
    assert share >= ATTEMPT_MEMORY_BYTES_MIN
    assert MASTER_MEMORY_BYTES + slots * (WORKER_MEMORY_BYTES + share) <= memory
    if slots < workers:
        assert MASTER_MEMORY_BYTES + (slots + 1) * (WORKER_MEMORY_BYTES + ATTEMPT_MEMORY_BYTES_MIN) > memory


def test_a_budget_too_small_for_one_worker_names_the_least() -> None:
    with pytest.raises(ExecutorError, match="give --memory 408MiB or more"):
        attempt_memory_bytes(407 * MIB, 2)
    assert attempt_memory_bytes(408 * MIB, 2) == ATTEMPT_MEMORY_BYTES_MIN


# --- outlets ---------------------------------------------------------------------------------------------------------


def batches(count: int, rows: int) -> list[pa.RecordBatch]:
    rng = np.random.default_rng(7)
    found = []
    for _ in range(count):
        keys = pa.array([f"{n:090d}" for n in rng.integers(0, 1 << 40, rows)], pa.large_string())
        found.append(pa.RecordBatch.from_pydict({"k": keys, "n": rng.integers(0, 99, rows)}))
    return found


OUTLETS = (
    RangeOutlet(("k",), (False,)),
    HashOutlet(("k",)),
    HashOutlet(("n",), combiner=AggregateStates(("n",), (("n_rows", mr.count()),))),
    GatherOutlet(),
)


@pytest.mark.parametrize("spec", OUTLETS, ids=["sort", "hash", "combined", "gather"])
def test_what_waits_for_a_run_stays_within_the_budget_and_gives_the_same_bytes(
    spec: OutletSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mr.outlets.base, "RUN_BYTES_MAX", 4 * MIB)
    monkeypatch.setattr(mr.outlets.base, "COMBINE_BLOCK_ROWS", 4000)
    data, found = batches(60, 2000), []
    for memory in (1 << 40, 1 * MIB, 0):
        outlet = open_outlet(0, spec, tmp_path / f"m-{memory}", "1-0.0#1", None, memory, "")
        before, held = pa.total_allocated_bytes(), 0
        for batch in data:
            outlet.take(Batch(batch.take(pa.array(range(batch.num_rows)))))
            held = max(held, pa.total_allocated_bytes() - before)
        output = outlet.finish()
        found.append(((tmp_path / output.path).read_bytes(), output.segments, output.sample))
        if spec in (OUTLETS[0], OUTLETS[1], OUTLETS[3]):
            assert (held > 3 * MIB) == (memory == 1 << 40)
            assert memory == 1 << 40 or held <= memory // 4 + 2 * data[0].nbytes
    assert found[0] == found[1] == found[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m-0", f"m-{1 * MIB}", f"m-{1 << 40}"]


def test_a_run_of_narrow_rows_ends_before_sorting_it_takes_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mr.outlets.base, "RUN_ROWS_MAX", 1000)
    outlet = open_outlet(0, RangeOutlet(("n",), (False,)), tmp_path / "m", "1-0.0#1", None, 1 << 30, "")
    for start in range(0, 5000, 500):
        outlet.take(Batch(pa.RecordBatch.from_pydict({"n": np.arange(start, start + 500)})))
    assert [segment.rows for segment in outlet.finish().segments] == [1000] * 5


# --- merges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text_bytes", [0, 90])
def test_a_merge_in_a_small_budget_takes_no_more_and_gives_the_same_rows(text_bytes: int, tmp_path: Path) -> None:
    rng, runs = np.random.default_rng(3), []
    for _ in range(12):
        keys = np.sort(rng.integers(0, 1 << 40, 60_000))
        runs.append(
            pa.RecordBatch.from_pydict({"k": keys, "x": pa.array(["y" * text_bytes] * 60_000, pa.large_string())})
        )
    rows = sum(run.num_rows for run in runs)
    budget, found, peaks = 8 * MIB, [], []
    for memory in (1 << 40, budget):
        streams = [pieces(run, MERGE_BLOCK_BYTES) for run in runs]
        tracemalloc.start()
        before, most, ids = pa.total_allocated_bytes(), 0, []
        for batch in sorted_rows(streams, sum(run.nbytes for run in runs), rows, ["k"], [False], memory, tmp_path):
            most = max(most, pa.total_allocated_bytes() - before + tracemalloc.get_traced_memory()[1])
            ids.append(batch.column("k").to_numpy())
        tracemalloc.stop()
        found.append(np.concatenate(ids).tolist())
        peaks.append(most - rows * 8)
    assert found[0] == found[1] == sorted(found[0])
    assert peaks[1] < 1.5 * budget < peaks[0]


# --- real processes --------------------------------------------------------------------------------------------------

JOB = """
import mr

@mr.job
def job(input: str, sorted: str, grouped: str):
    lines = mr.read_text(input)
    counts = lines.group_by("value").agg(n=mr.count())
    return lines.sort("value").write_text(sorted), counts.write_parquet(grouped)
"""


@pytest.mark.slow
@pytest.mark.parametrize("line_bytes", [10, 100])
def test_a_sort_and_a_grouping_of_more_than_memory_stay_within_it(line_bytes: int, tmp_path: Path) -> None:
    letters = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ012345", np.uint8)
    count = 60_000_000 // line_bytes * (10 if line_bytes == 100 else 1)
    lines = letters[np.random.default_rng(1).integers(0, 32, (count, line_bytes), np.uint8)]
    lines[:, -1] = 10
    (tmp_path / "in.txt").write_bytes(lines.tobytes())
    (tmp_path / "job.py").write_text(JOB)
    command = [sys.executable, "-m", "benchmarks.peak_memory", "--json", str(tmp_path / "figures.json"), "--"]
    command += [sys.executable, "-m", "mr", "submit", str(tmp_path / "job.py"), "--memory", "720MiB", "--"]
    command += ["--input", str(tmp_path / "in.txt")]
    command += ["--sorted", str(tmp_path / "sorted"), "--grouped", str(tmp_path / "grouped")]
    root = Path(__file__).parents[2]
    subprocess.run(command, check=True, cwd=root, env={**os.environ, "MR_HOME": str(tmp_path / "home")})
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert 100 < figures["peak_mb"] <= 720 * MIB / 1e6
