"""A job keeps what it reads and what its tasks stored, whatever is removed and collected while it runs (F35, F38)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dfs
import dfs.store
import mr
from dfs.gc import collect

pytestmark = pytest.mark.usefixtures("inline")
LINES = 20_000
REMOVED: list[int] = []  # how many chunks each collection deleted


@pytest.fixture(autouse=True)
def log(own_state: None) -> None:
    """A file of many chunks in a store that keeps no history."""
    REMOVED.clear()
    with dfs.init_store(dfs.store.default_path(), chunk_bytes_avg=1 << 14, retention_days=0) as store:
        data = b"".join(b"%d some words that differ from line to line\n" % i for i in range(LINES))
        store.publish([dfs.PutFile("in/log.txt", store.write_file(data))], request_id="log")


def remove_and_collect() -> None:
    """What somebody else might do at the worst time."""
    with dfs.open_store() as store:
        if store.exists("in"):
            store.publish([dfs.Remove("in", recursive=True)], request_id="rm")
        REMOVED.append(collect(store, force=True).chunks)


def saboteur(line: str) -> str:
    if line.startswith("0 "):
        remove_and_collect()
    return line.split()[0]


@mr.job
def numbers(input: str, output: str) -> Any:
    """The first word of each line."""
    return mr.read_text(input).map(saboteur, names="n").write_csv(output)


def test_input_that_is_removed_and_collected_while_the_job_runs_is_read_to_its_end(tmp_path: Path) -> None:  # F38
    numbers(input="dfs://in/log.txt", output=str(tmp_path / "out"))
    read = [line for part in sorted((tmp_path / "out").glob("part-*")) for line in part.read_text().splitlines()[1:]]
    assert sorted(map(int, read)) == list(range(LINES))
    assert REMOVED == [0]


def sort_then_collect(line: str) -> str:
    if line.startswith(f"{LINES - 1} "):  # the last task of the map: parts of the tasks before are stored by now
        with dfs.open_store() as store:
            REMOVED.append(collect(store, force=True).chunks)
    return line.split()[0]


@mr.job
def to_store(input: str, output: str) -> Any:
    """The first word of each line, into the store."""
    return mr.read_text(input).map(sort_then_collect, names="n").write_csv(output)


def test_parts_that_are_not_published_yet_are_not_collected() -> None:  # F35
    to_store(input="dfs://in/log.txt", output="dfs://out")
    with dfs.open_store() as store:
        parts = [info.path for info in store.find("out") if "part-" in info.path]
        lines = [line for path in parts for line in store.open(path).read().decode().splitlines()[1:]]
    assert sorted(map(int, lines)) == list(range(LINES))
    assert REMOVED == [0]
