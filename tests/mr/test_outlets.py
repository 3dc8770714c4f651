"""Runs: where they end, and so their bytes, follows from the rows alone, however these came in batches."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_oracle import key_batches, key_names

import mr
import mr.assignment
import mr.outlets.base
import mr.shuffle.merge
import mr.shuffle.reader
import mr.shuffle.writer
from mr.kernels.sizes import logical_bytes, rows_filling
from mr.outlets.gathered import GatherRun
from mr.outlets.ranged import RangeRun
from mr.program import GatherOutlet, RangeOutlet
from mr.shuffle.reader import RunReader
from mr.task_context import Context, running


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mr.outlets.base, "RUN_BYTES_MAX", 200)
    monkeypatch.setattr(mr.outlets.base, "RUN_ROWS_MAX", 9)
    monkeypatch.setattr(mr.shuffle.writer, "SORT_BLOCK_BYTES", 60)
    monkeypatch.setattr(mr.shuffle.writer, "SORT_BLOCK_ROWS_MIN", 1)


def pieces(batch: pa.RecordBatch, cuts: list[int]) -> list[pa.RecordBatch]:
    bounds = [0, *sorted(min(cut, batch.num_rows) for cut in cuts), batch.num_rows]
    return [batch.slice(low, high - low) for low, high in pairwise(bounds)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key_batches(2), st.lists(st.integers(0, 24), max_size=4), st.sampled_from([0, 10**9]))
def test_sorted_runs_are_the_same_however_rows_come(
    small: None, tmp_path_factory: Any, batch: pa.RecordBatch, cuts: list[int], memory: int
) -> None:
    spec = RangeOutlet(tuple(key_names(batch)), (False,) * len(key_names(batch)))
    files = []
    for name, batches in (("one", [batch]), ("many", pieces(batch, cuts))):
        folder = tmp_path_factory.mktemp(name)
        run = RangeRun(0, folder / "m", "a", None, spec, memory)
        for data in batches:
            run.write(data)
        output = run.finish()
        files.append(
            (output.rows, output.segments, output.sample, (folder / "m").exists() and (folder / "m").read_bytes())
        )
        assert len(list(folder.iterdir())) == (batch.num_rows > 0)
    assert files[0] == files[1]
    assert files[0][0] == batch.num_rows


def test_a_run_ends_with_the_row_that_fills_it(small: None, tmp_path: Path) -> None:
    run = GatherRun(0, tmp_path / "m", "a", None, GatherOutlet(), 10**9)
    run.write(pa.record_batch({"x": pa.array(["y" * 42] * 20, pa.large_string())}))  # 50 bytes each
    run.finish()
    assert RunReader(tmp_path / "m").index.runs["rows"].to_pylist() == [4] * 5
    run = GatherRun(0, tmp_path / "m", "a", None, GatherOutlet(), 10**9)
    run.write(pa.record_batch({"x": [1] * 20}))
    run.finish()
    assert RunReader(tmp_path / "m").index.runs["rows"].to_pylist() == [9, 9, 2]


@given(key_batches(), st.integers(0, 300))
def test_rows_filling_is_the_least_number(batch: pa.RecordBatch, wanted: int) -> None:
    rows = rows_filling(batch, wanted)
    if batch.num_rows:
        assert 1 <= rows <= batch.num_rows
        assert rows == batch.num_rows or logical_bytes(batch.slice(0, rows)) >= wanted
        assert rows == 1 or logical_bytes(batch.slice(0, rows - 1)) < wanted


@pytest.mark.parametrize("operator", ["distinct", "top_k"])
def test_parts_of_a_sort_behind_a_shuffle_do_not_depend_on_memory(
    operator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A little memory makes smaller batches; runs that ended with them moved the boundaries of the sort."""
    monkeypatch.setattr(mr.outlets.base, "RUN_BYTES_MAX", 5000)
    monkeypatch.setattr(mr.assignment, "REDUCE_RANGE_BYTES_MAX", 8000)
    monkeypatch.setattr(mr.shuffle.reader, "MERGE_BLOCK_BYTES", 1000)
    monkeypatch.setattr(mr.shuffle.merge, "MERGE_BLOCK_BYTES", 1000)
    monkeypatch.setattr(mr.shuffle.writer, "SORT_BLOCK_BYTES", 500)
    monkeypatch.setattr(mr.shuffle.writer, "SORT_BLOCK_ROWS_MIN", 4)
    made = []
    for memory in ("1GB", "20KB"):
        with mr.Session(on="inline", home=tmp_path / "home", memory=memory, reuse=False):
            data = mr.from_items([(i * 7919 % 503, f"x{i * i % 977}") for i in range(1500)], names=["k", "v"])
            found = {
                "distinct": lambda d: d.distinct("k", "v", num_partitions=1),
                "top_k": lambda d: d.group_by("k", num_partitions=1).top_k(3, by="v"),
            }[operator](data)
            found.sort("v").write_parquet(str(tmp_path / memory))
        made.append([path.read_bytes() for path in sorted((tmp_path / memory).glob("*.parquet"))])
    assert len(made[0]) > 1
    assert made[0] == made[1]


def test_what_waits_for_a_run_is_spilled_once(tmp_path: Path) -> None:
    data = [pa.record_batch({"x": [n] * 1000, "s": pa.array([str(n)] * 1000, pa.large_string())}) for n in range(100)]
    size = sum(batch.nbytes for batch in data)
    files = {}
    for memory in (1 << 30, size // 20, size // 2):
        context = Context()
        with running(context):
            run = GatherRun(0, tmp_path / str(memory), "a", None, GatherOutlet(), memory)
            for batch in data:
                run.write(batch)
            run.finish()
        files[memory] = (tmp_path / str(memory)).read_bytes()
        assert context.spilled <= 1.2 * size
        assert (context.spilled > size // 2) == (memory < size)
    assert len(set(files.values())) == 1


def test_a_type_that_grows_between_spills_is_that_of_all_rows(tmp_path: Path) -> None:
    run = GatherRun(0, tmp_path / "m", "a", None, GatherOutlet(), 0)
    for column in (pa.nulls(2), pa.array([1, 2]), pa.array([], pa.int64()), pa.array([0.5, None])):
        run.write(pa.record_batch({"x": column}))
    run.finish()
    reader = RunReader(tmp_path / "m")
    assert reader.rows(0, 0, 6)["x"].to_pylist() == [None, None, 1.0, 2.0, 0.5, None]
    assert reader.index.schema.field("x").type == pa.float64()
