"""The drawing of a stage graph, its estimates, and the figures of a run."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from msgspec import to_builtins

import mr
from mr.analysis import Spread, figures, from_report, spread
from mr.explain import explain_graph
from mr.plan import Write
from mr.session import input_bytes
from mr.stopwatch import KINDS, Stopwatch
from mr.tasks import Output, TaskResult


def result(read: int, seconds: float, **more: object) -> TaskResult:
    output = Output("f", b"", rows=read // 10, bytes=read // 2)
    given = {"timing": (seconds, 0.0, 0.0, 0.0), **more}
    return TaskResult((output,), (), read // 8, read, seconds, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [[5], [1, 2], list(range(100)), [7] * 21])
def test_spread_is_of_sizes_that_occur(sizes: list[int]) -> None:
    found = spread(sizes)
    assert (found.min, found.max) == (min(sizes), max(sizes))
    assert {found.median, found.p95} <= set(sizes)
    assert found.min <= found.median <= found.p95 <= found.max


def test_figures_add_up_over_tasks() -> None:
    made = figures(3, "agg", [result(80, 1.0, spilled=5), result(800, 3.0), result(160, 2.0)], 1, ("a note",))
    assert (made.total, made.reused, made.records, made.bytes) == (3, 1, 130, 1040)
    assert (made.rows_out, made.bytes_out, made.spilled) == (104, 520, 5)
    assert made.seconds == (6.0, 0.0, 0.0, 0.0)
    assert made.slowest == (1, 3.0)
    assert made.read == Spread(80, 160, 800, 800)


def test_figures_come_back_from_a_report() -> None:
    made = figures(0, "read", [result(8, 0.5)], 0, ())
    assert from_report(json.loads(json.dumps(to_builtins(made)))) == made


def test_a_stopwatch_gives_each_moment_to_one_kind() -> None:
    watch = Stopwatch()
    with watch.doing("write"):
        assert watch.switch("shuffle") == "write"
        watch.switch("write")
    assert list(watch.timed("read", iter("ab"))) == ["a", "b"]
    assert watch.switch("user") == "user", "every block puts back what was before"
    assert len(watch.seconds()) == len(KINDS)


def outputs(text: Path, out: Path) -> dict[str, Write]:
    @mr.job
    def tables(input: str) -> dict[str, object]:
        words = mr.read_text(input).flat_map(str.split, names="word")
        counts = words.group_by("word").agg(n=mr.count())
        return {
            "sorted": counts.sort("n").write_csv(f"{out}/sorted"),
            "long": counts.filter(pl.col("word").str.len_bytes() > 3).write_csv(f"{out}/long.csv"),
        }

    return tables.plan(str(text))


def test_the_graph_hangs_from_its_sources(inline: mr.Session, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("to be or not to be\n" * 40)
    graph = inline.compile(tuple(outputs(tmp_path / "in.txt", tmp_path / "out").values()))
    lines = explain_graph(graph, input_bytes).splitlines()
    assert lines[0].startswith("stage 0: read ")
    assert "│   about 760 B to read" in lines
    assert any(line.startswith("└─▶ stage 1: agg(word)") for line in lines)
    branches = [line.split(":")[0] for line in lines if "─▶" in line]
    assert branches == ["└─▶ stage 1", "    ├─▶ stage 2", "    └─▶ stage 3"]
    assert sum("at most about 760 B to read" in line for line in lines) == 3


def test_analyze_shows_what_the_last_run_of_the_same_job_did(inline: mr.Session, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("to be or not to be\n" * 40)
    planned = outputs(tmp_path / "in.txt", tmp_path / "out")
    assert inline.figures(planned) == {}
    inline.run(planned, "tables")
    ran = inline.figures(planned)
    assert [ran[stage].records for stage in sorted(ran)][:2] == [40, 4]
    assert ran[1].rows_out == 4, "the long words are none"
    text = explain_graph(inline.compile(tuple(planned.values())), input_bytes, ran)
    assert "1 task: 40 records, 760 B in;" in text
    assert text.count("slowest task") == len(ran)
    (tmp_path / "in.txt").write_text("changed\n")
    assert inline.figures(outputs(tmp_path / "in.txt", tmp_path / "out")) == {}


def test_what_does_not_fit_memory_is_told_as_spilled(tmp_path: Path) -> None:
    told = []
    for memory in ("64kB", "1GB"):
        with mr.Session(on="inline", home=tmp_path / memory, memory=memory):
            numbers = mr.from_items([i * 7919 % 20_011 for i in range(20_000)])
            result = numbers.sort("value").write_parquet(str(tmp_path / f"out-{memory}.parquet"))
            told.append(sum(stage["spilled"] for stage in result.stages))
    assert told[0] > 100_000
    assert told[1] == 0
