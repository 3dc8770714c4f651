"""The scratch root: what is swept and what is pruned."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import mr
from mr.journal import Journal
from mr.scratch import attempt_tag, prune, sweep, used

DEAD = 2**22 + 1  # beyond the largest process id


def test_only_what_dead_processes_left_is_swept(tmp_path: Path) -> None:
    for folder in ("tmp", "runs"):
        (tmp_path / folder).mkdir()
    mine = attempt_tag("0.1#2")
    kept = [tmp_path / "tmp" / mine, tmp_path / "runs" / f".abc.0.{mine}", tmp_path / "runs" / "abc.0"]
    left = [tmp_path / "runs" / f".abc.0.{DEAD}-0.1#2", tmp_path / "runs" / f"abc.1.{DEAD}-0.1#2.spool0"]
    for path in (*kept, *left):
        path.write_bytes(b"x")
    (tmp_path / "tmp" / f"{DEAD}-1.0#1").mkdir()
    (tmp_path / "tmp" / f"{DEAD}-1.0#1" / "merge-0-0.arrow").write_bytes(b"x")
    sweep(tmp_path)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)


def test_the_oldest_results_go_first(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for age, name in enumerate(("new", "old", "older")):
        (tmp_path / "runs" / name).write_bytes(b"x" * 10)
        os.utime(tmp_path / "runs" / name, (1000 - age, 1000 - age))
    assert prune(tmp_path, 15) == (2, 20)
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["new"]
    assert prune(tmp_path / "nothing", 0) == (0, 0)


def test_what_a_running_job_uses_stays(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("found", "unused", "written"):
        (tmp_path / "runs" / name).write_bytes(b"x" * 10)
        os.utime(tmp_path / "runs" / name, (1000, 1000))
    with journal.job_lock("k" * 64):
        assert used(tmp_path / "runs" / "found")
        assert not used(tmp_path / "runs" / "gone")
        (tmp_path / "runs" / "written").write_bytes(b"new")
        assert prune(tmp_path, 0) == (1, 10)
        assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["found", "written"]
    assert prune(tmp_path, 0) == (2, 13), "the job has ended"
    journal.close()


def test_what_cannot_be_marked_as_used_is_there_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **given: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "run").write_bytes(b"x")
    monkeypatch.setattr(os, "utime", refused)  # as for a file of somebody else
    assert used(tmp_path / "run")
    assert not used(tmp_path / "gone")


def test_what_an_action_uses_stays_until_it_is_over(inline: mr.Session, tmp_path: Path) -> None:
    home, seen = inline.home, tmp_path / "seen"

    def counted(key: Any, rows: Any) -> Any:
        with seen.open("a") as file:
            print(*prune(home, 0), file=file)
        return key, len(list(rows))

    with mr.Session(on="inline", home=home, reuse=False):
        data = mr.from_items([1, 2, 2]).map(str, names="k").group_by("k").map_groups(counted, names=["k", "n"])
        uses: list[Any] = [data.take_all, lambda: data.materialize().take_all()]
        for use in uses:
            assert sorted(use()) == [("1", 1), ("2", 2)]
            assert seen.read_text() == "0 0\n" * 2
            assert list((home / "locks").iterdir()) == []
            assert prune(home, 0)[0] > 0, "the action is over"
            seen.unlink()


def test_what_a_job_function_has_made_stays_until_it_returns(inline: mr.Session, tmp_path: Path) -> None:
    seen = []

    @mr.job
    def rounds(output: str) -> Any:
        made = mr.from_items([1, 2]).map(lambda n: n + 1).materialize()
        seen.append(prune(inline.home, 0))
        return made.write_json(output)

    assert rounds(output=str(tmp_path / "out")).outputs["out"].rows == 2
    assert seen == [(0, 0)]


def test_the_lock_of_a_dead_action_holds_nothing(tmp_path: Path) -> None:
    for folder in ("locks", "runs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "locks" / "action-1-x").touch()
    (tmp_path / "runs" / "old").write_bytes(b"x")
    assert prune(tmp_path, 0) == (1, 1)


def test_results_that_a_job_found_count_as_used(inline: mr.Session, tmp_path: Path) -> None:
    @mr.job
    def counts(output: str) -> Any:
        return mr.from_items(["a", "b", "a"]).value_counts().write_json(output)

    counts(output=str(tmp_path / "one"))
    runs = list((inline.home / "runs").iterdir())
    for path in runs:
        os.utime(path, (1000, 1000))
    assert counts(output=str(tmp_path / "two")).tasks_run == 0
    found = [path.stat() for path in runs if path.exists()]
    assert min(stat.st_atime for stat in found) > 1000
    assert {stat.st_mtime for stat in found} == {1000}, "an output may be the same file: it has not changed"
