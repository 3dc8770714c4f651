"""What user code reads beside its records: a result counts only while that is what it was."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dataset_kit import shrink

import mr
from mr.purity import FileDigests, watching, why_stale
from mr.tasks import TaskResult


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, inline: mr.Session) -> None:
    shrink(monkeypatch)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.txt"
    path.write_text("1")
    return path


def labelled(fn: Callable[[int], Any]) -> mr.Dataset:
    """Eight records in two tasks through `fn`."""
    return mr.from_items(range(8)).map(fn, names="value")


def write(fn: Callable[[int], Any], out: Path) -> mr.JobResult:
    """The same job every time: its destination is always `out`."""

    @mr.job
    def label(output: str) -> Any:
        return labelled(fn).write_json(output)

    return label(str(out))


def reads(path: Path) -> Callable[[int], int]:
    def fn(n: int) -> int:
        with open(path) as file:
            return n + int(file.read())

    return fn


@functools.cache
def kept(path: Path) -> int:
    return int(path.read_text())


def reads_once(path: Path) -> Callable[[int], int]:
    """Reads the file for the first record of a process only."""
    return lambda n: n + kept(path)


def in_a_thread(path: Path) -> Callable[[int], int]:
    def fn(n: int) -> int:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(int(path.read_text())))
        thread.start()
        thread.join()
        return n + found[0]

    return fn


def by_descriptor(path: Path) -> Callable[[int], int]:
    def fn(n: int) -> int:
        handle = os.open(path, os.O_RDONLY)
        try:
            return n + int(os.read(handle, 9))
        finally:
            os.close(handle)

    return fn


@pytest.mark.parametrize("make", [reads, reads_once, in_a_thread, by_descriptor])
def test_a_result_is_reused_while_the_files_that_its_functions_opened_are_the_same(
    table: Path, tmp_path: Path, make: Callable[[Path], Callable[[int], int]]
) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    fn = make(table)
    assert (write(fn, first).tasks_run, write(fn, second).tasks_run) == (2, 0)
    os.utime(table, ns=(1, 1))
    assert write(fn, tmp_path / "c").tasks_run == 0, "another date, the same bytes"
    table.write_text("5")
    kept.cache_clear()
    changed = write(fn, tmp_path / "d")
    assert (changed.tasks_run, changed.notes) == (2, ())
    assert mr.read_json(str(tmp_path / "d")).take(2) == [(5,), (6,)]
    table.write_text("1")
    kept.cache_clear()
    assert write(fn, tmp_path / "e").tasks_run == 2, "what was recorded last is what was read last"


def test_a_job_is_up_to_date_only_while_the_files_that_its_functions_opened_are_the_same(
    table: Path, tmp_path: Path
) -> None:
    fn, out = reads(table), tmp_path / "out"
    assert [write(fn, out).state for _ in range(2)] == ["done", "up to date"]
    table.write_text("5")
    with pytest.raises(mr.OutputError, match="out"):
        write(fn, out)


def test_a_library_function_that_is_given_as_the_function_counts_as_the_users(table: Path, tmp_path: Path) -> None:
    def run() -> list[Any]:
        return mr.from_items([str(table)]).map(Path).map(Path.read_text, names="value").take_all()

    assert run() == ["1"]
    table.write_text("2")
    assert run() == ["2"]


def test_a_file_that_was_not_there_counts_as_absent(tmp_path: Path) -> None:
    def fn(n: int) -> bool:
        try:
            return bool((tmp_path / "flag").read_text())
        except FileNotFoundError:
            return False

    assert labelled(fn).distinct().take_all() == [False]
    (tmp_path / "flag").write_text("x")
    assert labelled(fn).distinct().take_all() == [True]


def test_what_the_engine_opens_and_what_functions_wrote_themselves_is_no_dependency(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("1\n2\n3\n" * 20)

    def fn(line: str) -> int:
        with tempfile.NamedTemporaryFile("w+") as file:
            file.write(line)
            file.flush()
            return int(Path(file.name).read_text())

    def run(name: str) -> mr.JobResult:
        @mr.job
        def sums(output: str) -> Any:
            lines = mr.read_text(str(tmp_path / "in.txt")).map(fn, names="n")
            return lines.group_by("n").agg(count=mr.count()).sort("n").write_parquet(output)

        return sums(str(tmp_path / name))

    assert (run("a").notes, run("b").tasks_run) == ((), 0)


def connects(n: int) -> int:
    with socket.socket(socket.AF_UNIX) as own:
        own.connect_ex("/nothing/there")
    return n


def starts(n: int) -> int:
    return n + subprocess.call(["true"])


@pytest.mark.parametrize(("fn", "why"), [(connects, "opened a socket"), (starts, "started a process")])
def test_a_task_that_does_more_than_read_is_not_reused(fn: Callable[[int], int], why: str, tmp_path: Path) -> None:
    first = write(fn, tmp_path / "a")
    assert [note for note in first.notes if why in note] == [f"stage 0 always runs: a function in it {why}"]
    again = write(fn, tmp_path / "b")
    assert (again.tasks_run, again.notes) == (2, first.notes)
    with pytest.raises(mr.OutputError):
        write(fn, tmp_path / "a")


def test_a_file_that_a_function_leaves_makes_it_impure(tmp_path: Path) -> None:
    def fn(n: int) -> int:
        (tmp_path / f"{n}.txt").write_text("x")
        return n

    assert f"wrote {tmp_path / '0.txt'}" in write(fn, tmp_path / "a").notes[0]
    (tmp_path / "0.txt").unlink()
    assert write(fn, tmp_path / "b").tasks_run == 2
    assert (tmp_path / "0.txt").exists()


def test_explain_says_which_file_has_changed(table: Path, inline: mr.Session, tmp_path: Path) -> None:
    from mr.explain import explain_reuse

    def told(fn: Callable[[int], Any]) -> str:
        graph = inline.compile((mr.plan.Collect(None, labelled(fn)._node),))
        return explain_reuse(graph, inline.splits(graph), inline.journal)

    fn = reads(table)
    labelled(fn).take_all()
    assert "2 of 2 tasks have results" in told(fn)
    table.write_text("7")
    assert "0 of 2 tasks have results" in told(fn)
    assert f"stage 0: {table}, which a function in it reads, has changed" in told(fn)
    labelled(connects).take_all()
    assert "a function in it opened a socket" in told(connects)


def test_files_that_change_while_they_are_read_make_a_task_impure(table: Path, tmp_path: Path) -> None:
    with watching("p", tmp_path / "home", ()) as watch:
        watch.opens(str(table), writes=False)
        table.write_text("22")
    assert watch.finish(FileDigests())[1] == f"read {table}, which changed meanwhile"


def test_what_a_function_may_have_kept_of_a_file_that_changed_is_not_reused(table: Path, tmp_path: Path) -> None:
    fn = reads_once(table)
    write(fn, tmp_path / "a")
    table.write_text("5")
    stale = write(fn, tmp_path / "b")
    assert mr.read_json(str(tmp_path / "b")).take(1) == [(1,)], "the function's own cache"
    assert f"read {table}, which changed meanwhile" in stale.notes[0]
    kept.cache_clear()
    fresh = write(fn, tmp_path / "c")
    assert (fresh.tasks_run, fresh.notes, mr.read_json(str(tmp_path / "c")).take(1)) == (2, (), [(5,)])


def test_what_is_not_watched(table: Path, tmp_path: Path) -> None:
    """Inputs of the task, MR_HOME, modules, devices, threads that were there before, and what runs between tasks."""
    gate, opened = threading.Event(), threading.Event()

    def outsider() -> None:
        gate.wait()
        table.read_text()
        opened.set()

    thread = threading.Thread(target=outsider)
    thread.start()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "x").write_text("x")
    (tmp_path / "in").write_text("x")
    with watching("q", tmp_path / "home", [str(tmp_path / "in")]) as watch:
        gate.set()
        opened.wait()
        for path in (tmp_path / "home" / "x", tmp_path / "in", Path("/dev/null"), Path(os.__file__)):
            path.read_bytes()
    thread.join()
    table.read_text()
    assert watch.finish(FileDigests()) == ((), "")


def test_digests_are_remembered_only_for_files_that_have_settled(tmp_path: Path) -> None:
    files, path = FileDigests(), tmp_path / "x"
    path.write_text("1")
    first = files.digest(str(path))
    info = path.stat()
    path.write_text("2")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert files.digest(str(path)) != first, "written within the clock's grain"
    assert files.digest(str(tmp_path / "no")) == files.digest(str(tmp_path)) == ""
    assert why_stale(TaskResult((), opened=((str(path), files.digest(str(path))),)), files) == ""
