"""Power cuts at random operations: what was acknowledged is there, whole, whatever was not synced is lost or torn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

OPERATIONS = 800  # about as many as a run has: some runs end before their cut, which comes at the end then


def run(folder: Path, first: int, last: int, **options: Any) -> list[dict[str, Any]]:
    """What the seeds from `first` to before `last` lost."""
    program = str(Path(__file__).with_name("power_cut.py"))
    options = {"operations": OPERATIONS} | options
    done = subprocess.run(
        [sys.executable, program, str(folder), str(first), str(last), json.dumps(options)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["seed"] for result in results] == list(range(first, last)), done.stderr
    return results


def lost(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [result for result in results if result["faults"]]


@pytest.mark.parametrize("first", range(0, 60, 15))
def test_a_power_cut_loses_nothing_acknowledged(memory_path: Path, first: int) -> None:  # F12, F13
    results = run(memory_path, first, first + 15)
    assert lost(results) == []
    assert sum(result["acknowledged"] for result in results) > 15  # it is not always cut at the very beginning


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(1000, 2000, 125))
def test_a_thousand_power_cuts_lose_nothing_acknowledged(memory_path: Path, first: int) -> None:  # F12, F13
    assert lost(run(memory_path, first, first + 125)) == []


def test_without_fsync_a_power_cut_loses_something(memory_path: Path) -> None:
    """The harness bites."""
    assert len(lost(run(memory_path, 0, 8, durability="none"))) >= 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "sync",
    [
        *("chunk", "chunk folder", "log", "log folder", "checkpoint", "checkpoint folder"),
        *("small wal", "small database", "store wal", "store database"),
    ],
)
def test_each_sync_is_needed(memory_path: Path, sync: str) -> None:
    """Without any one of them some power cut loses something: the harness would see it if it were left out."""
    for first in range(0, 400, 40):
        if lost(run(memory_path / str(first), first, first + 40, forgets=[sync])):
            return
    raise AssertionError(f"400 power cuts lose nothing without the sync of: {sync}")
