"""A result is reused exactly when nothing that could change it has changed; what is gone or damaged is made again."""

from __future__ import annotations

import functools
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import polars as pl
import pytest
from dataset_kit import shrink, write_lines

import mr

ROWS = [{"k": f"k{n % 5}", "n": n} for n in range(40)]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, inline: mr.Session) -> None:
    shrink(monkeypatch)
    monkeypatch.setattr("mr.inputs.LOCAL_SPLIT_BYTES", 200)


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_lines(tmp_path / "in", ROWS, 2)


@pytest.fixture
def out(tmp_path: Path) -> Callable[[], str]:
    """A new destination every time."""
    numbers = iter(range(99))
    return lambda: str(tmp_path / f"out-{next(numbers)}")


def double(row: Any) -> tuple[str, int]:
    mr.counter("mapped").add()
    return row.k, row.n * 2


def largest(key: str, rows: Iterator[Any]) -> tuple[str, int]:
    return key, max(row.value for row in rows)


def pairs(source: str) -> mr.Dataset:
    return mr.read_json(source, schema={"k": str, "n": int}).map(double, names=["key", "value"])


def stages(result: mr.JobResult) -> list[tuple[int, int]]:
    """(tasks, reused) of each stage."""
    return [(stage["total"], stage["reused"]) for stage in result.stages]


def parts(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def runs(home: Path) -> list[Path]:
    return sorted((home / "runs").iterdir())


def run_files(session: mr.Session) -> list[Path]:
    """The files of rows on their way to other tasks."""
    return [path for path in runs(session.home) if path.read_bytes()[:5] == b"MRRUN"]


# --- what is reused --------------------------------------------------------------------------------------------------


def test_the_same_job_again_runs_nothing(source: str, out: Callable[[], str]) -> None:
    @mr.job
    def job(output: str) -> Any:
        return pairs(source).group_by("key").map_groups(largest).write_json(output)

    where = out()
    first = job(where)
    assert first.tasks_reused == 0
    assert first.tasks_run > 4
    again = job(where)
    assert (again.state, again.tasks_run) == ("up to date", 0)
    assert again.outputs == first.outputs
    elsewhere = job(out())
    assert (elsewhere.state, elsewhere.tasks_run, elsewhere.tasks_reused) == ("done", 0, first.tasks_run)
    assert elsewhere.counters == first.counters == {"mapped": 40}
    assert elsewhere.outputs.popitem()[1].digest == first.outputs["out-0"].digest  # type: ignore[attr-defined]


def test_editing_only_the_reducer_runs_no_map_task(source: str, out: Callable[[], str]) -> None:
    groups = pairs(source).group_by("key")
    first = groups.map_groups(largest).write_json(out())
    (maps, _), (reduces, _) = stages(first)
    edited = groups.map_groups(lambda key, rows: (key, min(row.value for row in rows))).write_json(out())
    assert stages(edited) == [(maps, maps), (reduces, 0)]
    assert (edited.tasks_run, edited.tasks_reused) == (reduces, maps)
    # as is adding a step behind the shuffle, and another way to group the same rows
    longer = groups.map_groups(largest, names=["k", "n"]).filter(pl.col("n") > 9).write_json(out())
    assert stages(longer)[0] == (maps, maps)


def test_appending_lines_runs_only_the_split_that_changed(source: str, out: Callable[[], str]) -> None:
    first = pairs(source).write_json(out())
    ((maps, _),) = stages(first)
    assert maps >= 4
    with open(Path(source) / "01.json", "a") as file:
        file.write('{"k": "k9", "n": 99}\n')
    then = pairs(source).write_json(out())
    assert then.tasks_run == 1
    assert then.tasks_reused in (maps - 1, maps)  # the last split grew, or a new one came
    (Path(source) / "02.json").write_text('{"k": "k9", "n": 99}\n')
    assert pairs(source).write_json(out()).tasks_run == 1  # a new file, nothing of the others
    path = Path(source) / "00.json"
    path.write_text(path.read_text().replace('"n": 0}', '"n": 5}', 1))
    assert pairs(source).write_json(out()).tasks_run == 1
    assert pairs(source).count() == 42


def test_the_order_and_the_place_of_equal_content_do_not_matter(
    source: str, tmp_path: Path, out: Callable[[], str]
) -> None:
    def summed(folder: str) -> mr.Dataset:
        return pairs(folder).group_by("key").agg(n=mr.sum("value"))

    first, second, third = out(), out(), out()
    result = summed(source).write_parquet(first)
    copies = tmp_path / "elsewhere"
    copies.mkdir()
    for path in sorted(Path(source).iterdir(), reverse=True):  # made in another order
        (copies / path.name).write_bytes(path.read_bytes())
    copied = summed(str(copies)).write_parquet(second)
    assert (copied.tasks_run, copied.tasks_reused) == (0, result.tasks_run)
    assert parts(first) == parts(second)
    swapped = summed(source).union(summed(source))
    assert swapped.write_parquet(third).tasks_run <= 2  # only what writes the parts of the union
    placed = mr.read_text(source, include_path=True)
    placed.write_json(out())
    assert mr.read_text(str(copies), include_path=True).write_json(out()).tasks_reused == 0  # paths are data here


# --- what a function is ----------------------------------------------------------------------------------------------


def loaded(text: str, name: str = "fn") -> Any:
    """A function of the user's own code, from its source."""
    space: dict[str, Any] = {"__name__": "users_own_code"}
    exec(compile(dedent(text), "users.py", "exec"), space)
    return space[name]


BASE = """
    FACTOR = 3
    def helper(n):
        return n * FACTOR
    class Table:
        step = 1
        def look(self, n):
            return n + self.step
    table = Table()
    def fn(n, extra=0):
        return [helper(v) + extra for v in [table.look(n)]][0]
"""


@pytest.mark.parametrize(
    ("edit", "reused"),
    [
        (("", ""), True),
        (("def fn(n, extra=0):", "\n\n    # a comment\n    def fn(n, extra=0):\n        'What it does.'"), True),
        (("def fn(n, extra=0):", "other = 7\n    def fn(n, extra=0):"), True),  # a global that it does not name
        (("def helper(n):", "def helper(n):  # helps"), True),
        (("FACTOR = 3", "FACTOR = 4"), False),
        (("n * FACTOR", "FACTOR + n"), False),
        (("step = 1", "step = 2"), False),
        (("n + self.step", "n - self.step"), False),
        (("extra=0", "extra=1"), False),
        (("helper(v) + extra", "helper(v) - extra"), False),
    ],
)
def test_edits_of_a_function(edit: tuple[str, str], reused: bool, out: Callable[[], str]) -> None:
    data = mr.from_items([1, 2, 3])
    data.map(loaded(BASE)).write_json(out())
    text = BASE.replace(*edit) if edit[0] else BASE
    assert reused is (data.map(loaded(text)).write_json(out()).tasks_run == 0)


def test_a_name_is_nothing_but_a_closure_a_partial_and_an_object_are_something(out: Callable[[], str]) -> None:
    data = mr.from_items([1, 2, 3])

    def again(fn: Any) -> bool:
        return bool(data.map(fn).write_json(out()).tasks_run == 0)

    def adds(k: Any) -> Callable[[int], int]:
        return lambda n: n + k

    class Adds:
        def __init__(self, k: int) -> None:
            self.k = k

        def __call__(self, n: int) -> int:
            return n + self.k

    assert [again(adds(1)), again(adds(1)), again(adds(2)), again(adds(2.0))] == [False, True, False, False]
    assert [again(functools.partial(pow, 2)), again(functools.partial(pow, 2)), again(functools.partial(pow, 3))] == [
        False, True, False,
    ]  # fmt: skip
    assert [again(Adds(1)), again(Adds(1)), again(Adds(2))] == [False, True, False]
    one = loaded("def one(n):\n    return n * 31", "one")
    assert [again(one), again(loaded("def two(n):\n    return n * 31", "two"))] == [False, True]
    assert [again(lambda n: n * 17), again(lambda m: m * 17)] == [False, False]  # its variables are called otherwise


def test_expressions_and_options_of_operators(out: Callable[[], str]) -> None:
    data = mr.from_items([(n % 2, n) for n in range(9)])

    def again(made: mr.Dataset) -> bool:
        return bool(made.write_json(out()).tasks_run == 0)

    x = pl.col("value")
    assert [again(data.select(a=x + 1)), again(data.select(a=x + 1)), again(data.select(a=x + 2))] == [
        False,
        True,
        False,
    ]
    assert [again(data.select(b=x + 1)), again(data.limit(3)), again(data.limit(3)), again(data.limit(4))] == [
        False, False, True, False,
    ]  # fmt: skip
    sums = [data.group_by("key").agg(n=made) for made in (mr.sum("value"), mr.sum("value"), mr.max("value"))]
    assert [again(made) for made in sums] == [False, True, False]


def test_the_name_of_a_function_that_quarantines_is_data(out: Callable[[], str]) -> None:
    data = mr.from_items(["x"])
    one = loaded("def one(n):\n    return int(n)", "one")
    two = loaded("def two(n):\n    return int(n)", "two")
    assert [data.map(fn, on_error="quarantine").rejected().first().operator for fn in (one, two)] == ["one", "two"]


def test_what_is_not_pure_always_runs(out: Callable[[], str]) -> None:
    data = mr.from_items([(1, 1), (2, 2)])
    uses: list[Callable[[], mr.Dataset]] = [
        lambda: data.map(tuple, pure=False),
        lambda: data.filter(bool, pure=False),
        lambda: data.map_batches(lambda df: df, pure=False),
        lambda: data.group_by("key").map_groups(lambda key, rows: key, pure=False),
        lambda: data.map_reduce(lambda row: [row], lambda key, values: key, pure=False),
        lambda: data.reduce_by_key(max, pure=False),
    ]
    for use in uses:
        where = out()
        assert use().write_json(where).tasks_run >= 1
        assert use().write_json(out()).tasks_run >= 1
        with pytest.raises(mr.OutputError):  # nor is its output ever up to date
            use().write_json(where)
    both = [use().write_json(out()) for use in uses[-2:]]
    assert [(done.tasks_run, done.tasks_reused) for done in both] == [(2, 0), (2, 0)], "combined values are not reused"


def test_what_cannot_be_sent_to_workers_is_told_in_a_line(inline: mr.Session, out: Callable[[], str]) -> None:
    handle = random.SystemRandom()
    with pytest.raises(mr.PlanError, match=r"test_reuse.py:\d+: .*what cannot travel: System entropy source"):
        mr.from_items([1]).map(lambda n: handle.random()).write_json(out())
    assert [job.state for job in inline.journal.jobs(9)] == ["failed"]


def test_without_reuse_everything_runs_and_gives_the_same(source: str, out: Callable[[], str]) -> None:
    data = pairs(source).group_by("key").map_groups(largest)
    first, second = out(), out()
    result = data.write_parquet(first)
    with mr.Session(on="inline", reuse=False):
        again = data.write_parquet(second)
    assert (again.tasks_run, again.tasks_reused) == (result.tasks_run, 0)
    assert parts(first) == parts(second)


# --- files that are gone or damaged ----------------------------------------------------------------------------------


def test_a_run_file_that_is_gone_is_made_again_only_when_it_is_needed(
    source: str, inline: mr.Session, out: Callable[[], str]
) -> None:
    groups = pairs(source).group_by("key")
    where = out()
    first = groups.map_groups(largest).write_json(where)
    (maps, _), (reduces, _) = stages(first)
    assert len(run_files(inline)) == maps
    for path in run_files(inline):
        path.unlink()
    assert groups.map_groups(largest).write_json(out()).tasks_run == 0  # nobody reads them
    edited = groups.map_groups(lambda key, rows: (key, len(list(rows)))).write_json(out())
    assert edited.tasks_run == maps + reduces
    gone = run_files(inline)[0]
    gone.unlink()
    third = groups.map_groups(lambda key, rows: (key, 0)).write_json(out())
    assert third.tasks_run == reduces + 1
    assert gone.exists()


def test_a_part_that_is_gone_or_changed_is_made_again(source: str, inline: mr.Session, out: Callable[[], str]) -> None:
    first, second, third = out(), out(), out()
    result = pairs(source).write_json(first)
    (part, *_), tasks = [p for p in runs(inline.home) if p.suffix != ".spool"], result.tasks_run
    content = part.read_bytes()
    part.unlink()
    assert pairs(source).write_json(second).tasks_run == 1
    part.unlink()
    part.write_bytes(content[:-2] + b"9\n")
    again = pairs(source).write_json(third)
    assert (again.tasks_run, again.tasks_reused) == (1, tasks - 1)
    assert parts(first) == parts(second) == parts(third)


@pytest.mark.parametrize("where", ["middle", "trailer", "cut"])
def test_a_damaged_run_file_makes_only_its_producer_run_again(
    where: str, source: str, inline: mr.Session, out: Callable[[], str]
) -> None:
    groups = pairs(source).group_by("key")
    (maps, _), (reduces, _) = stages(groups.map_groups(largest).write_json(out()))
    damaged = run_files(inline)[1]
    raw = bytearray(damaged.read_bytes())
    at = {"middle": 300, "trailer": len(raw) - 20, "cut": -1}[where]
    if at >= 0:
        raw[at] ^= 1
    damaged.write_bytes(raw if at >= 0 else raw[: len(raw) // 2])
    smallest = groups.map_groups(lambda key, rows: (key, min(row.value for row in rows)))
    broken, whole = out(), out()
    result = smallest.write_json(broken)
    assert result.tasks_run == reduces + 1
    assert stages(result)[0] == (maps, maps - 1), "found first, but its file was damaged"
    assert len(result.troubles) >= 1
    assert all("which runs again" in trouble and damaged.name in trouble for trouble in result.troubles)
    with mr.Session(on="inline", reuse=False):
        smallest.write_json(whole)
    assert parts(broken) == parts(whole)


@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_records_that_were_brought_here_before_are_made_again_when_their_file_is_damaged(
    damage: str, source: str, inline: mr.Session
) -> None:
    data = pairs(source).group_by("key").agg(n=mr.sum("value"))
    wanted = data.take_all()
    assert data.take_all() == wanted
    for path in runs(inline.home):
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 3] ^= 1
        path.unlink() if damage == "gone" else path.write_bytes(raw)
    assert data.take_all() == wanted


def test_a_function_that_is_not_deterministic_is_noticed(
    source: str, inline: mr.Session, out: Callable[[], str]
) -> None:
    def unsure(row: Any) -> tuple[str, float]:
        return row.k, random.random()

    data = mr.read_json(source, schema={"k": str, "n": int}).map(unsure, names=["key", "value"]).group_by("key")
    first = data.map_groups(lambda key, rows: (key, sum(r.value for r in rows))).write_json(out())
    assert first.troubles == ()
    run_files(inline)[0].unlink()
    then = data.map_groups(lambda key, rows: (key, max(r.value for r in rows))).write_json(out())
    assert [t for t in then.troubles if t.startswith("task 0.") and "not deterministic" in t]
    assert then.outputs.popitem()[1].rows == 5


# --- jobs that did not end -------------------------------------------------------------------------------------------

JOB = """
import os
import mr

def slow(n):
    gate = os.environ.get("GATE")
    if gate and n == 3:
        open(gate).read()
    return n % 3, n

def total(k, rows):
    if os.environ.get("KILL"):
        os.kill(os.getpid(), 9)
    return k, sum(row.n for row in rows)

@mr.job
def counts(output: str, *, mode: str = "error"):
    data = mr.from_items(range(10)).map(slow, names=["k", "n"])
    return data.group_by("k").map_groups(total, names=["k", "n"]).write_json(output, mode=mode)
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "counts.py"
    path.write_text(JOB)
    return path


def submit(job: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("mr")), "submit", "--on", "inline", "--json", str(job), *words]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0", **environment},
    )


def result_of(process: subprocess.Popen[str], code: int = 0) -> Any:
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    return json.loads(stdout.splitlines()[-1]) if stdout else stderr


@pytest.mark.parametrize(
    "failure",
    ["killed", "publish.staged=raise", "publish.store=raise", "publish.done=raise", "publish.done=kill"],
)
def test_an_unfinished_job_goes_on_and_appends_once(failure: str, job: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    mr.from_items([(9, 9)], names=["k", "n"]).write_json(str(out))
    words = (str(out), "--mode", "append")
    environment = {"KILL": "1"} if failure == "killed" else {"MR_FAILPOINTS": failure}
    failed = result_of(submit(job, *words, **environment), 1 if failure.endswith("raise") else -9)
    assert failed == "" or "failpoint publish" in failed["error"]
    result = result_of(submit(job, *words))
    assert result["state"] == "done"
    assert result["tasks_run"] == (1 if failure == "killed" else 0)
    assert sorted(mr.read_json(str(out)).take_all()) == [(0, 18), (1, 12), (2, 15), (9, 9)]
    assert json.loads((out / "_SUCCESS").read_text())["rows"] == 4
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".out")] == []
    more = result_of(submit(job, *words))  # now it is another append
    assert (more["state"], mr.read_json(str(out)).count()) == ("done", 7)


def test_a_second_master_of_the_same_job_is_refused(job: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    out = str(tmp_path / "out")
    first = submit(job, out, GATE=str(gate))
    with open(gate, "w"):  # opens when the first one is in its map task
        refused = result_of(submit(job, out), 11)
        assert "running in another process" in refused["error"]
        other = result_of(submit(job, str(tmp_path / "other")))  # another destination is another job
        assert other["state"] == "done"
    assert result_of(first)["state"] == "done"
    assert result_of(submit(job, out))["state"] == "up to date"
