"""Workers that die in the middle of a task, and news that is lost, late or told twice: the same rows as ever."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import mr
from mr.dataset import Dataset
from mr.executors.base import Executor
from mr.executors.zygote import Zygote
from mr.session import On
from mr.testing import FaultyExecutor, run_inline

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
LINES = [f"{word} {number}" for number in range(400) for word in ("to", "be", "or", "not")]


def die_once(marker: Path) -> None:
    """Kill this process, the first time that anybody comes here."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def words(marker: Path | None, line: str) -> Iterator[tuple[str, int]]:
    if marker is not None and line == "or 200":
        die_once(marker)
    for word in line.split():
        yield word, 1


def total(marker: Path | None, word: str, ones: Any) -> tuple[str, int]:
    n = sum(ones)
    if marker is not None and word == "be":
        die_once(marker)
    return word, n


def counted(text: Path, in_map: Path | None = None, in_reduce: Path | None = None) -> Dataset:
    return mr.read_text(str(text)).map_reduce(
        partial(words, in_map), partial(total, in_reduce), names={"word": str, "n": int}
    )


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES))
    return path


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[mr.Session]:
    """One session for all kills: the cluster must outlive them."""
    on: On = request.param
    with mr.Session(on, workers=2, memory="1GB", reuse=False, home=tmp_path_factory.mktemp(on)) as session:
        yield session


@pytest.mark.parametrize("phase", ["in_map", "in_reduce"])
def test_a_worker_killed_in_a_task_costs_nothing_and_is_reported(
    session: mr.Session, text: Path, tmp_path: Path, phase: str
) -> None:
    expected, _ = run_inline(counted(text))
    assert {row.word: row.n for row in expected}["be"] == 400
    marker, output = tmp_path / "killed", tmp_path / "out"
    killed = counted(text, **{phase: marker})
    result = killed.write_json(str(output))
    assert marker.exists()
    (trouble,) = result.troubles
    stage = {"in_map": 0, "in_reduce": 1}[phase]
    why = {
        "local": r"worker \d+ ended with signal SIGKILL; peak memory [\d,]+ MiB; ",
        "ray": r"worker \d+ ended: Worker unexpectedly exits.*; ",
    }[session.on]
    seen = r"(nothing reported yet|.*[\d,]+ records \([\d,]+ bytes\) read)"
    assert re.fullmatch(rf"attempt {stage}\.\d+#1 lost: {why}{seen}", trouble), trouble
    assert mr.read_json(str(output)).take_all() == expected
    assert counted(text).take_all() == expected  # the workers that are left, and the new one, go on


def test_the_part_files_are_the_same_after_a_kill(session: mr.Session, text: Path, tmp_path: Path) -> None:
    clean = counted(text).write_parquet(str(tmp_path / "clean"))
    killed = counted(text, tmp_path / "m", tmp_path / "r").write_parquet(str(tmp_path / "killed"))
    assert len(killed.troubles) == 2
    assert killed.outputs["killed"].digest == clean.outputs["clean"].digest


class Unlucky(mr.Session):
    """A session whose executor loses, repeats and delays news."""

    def __init__(self, seed: int, home: Path) -> None:
        super().__init__("inline", reuse=False, home=home)
        self._seed = seed
        self.faults: FaultyExecutor | None = None

    def _make(self) -> Executor:
        self.faults = FaultyExecutor(super()._make(), self._seed, lose=0.3, repeat=0.2, delay=0.2)
        return self.faults


def test_lost_late_and_repeated_news_changes_nothing(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mr.inputs.LOCAL_SPLIT_BYTES", 1000)
    monkeypatch.setattr("mr.inputs.PACKED_FILE_BYTES_MAX", 0)
    expected, result = run_inline(counted(text))
    assert result.tasks_run > 10
    seen: set[str] = set()
    for seed in range(5):
        session = Unlucky(seed, tmp_path / str(seed))
        with session:
            out = str(tmp_path / f"out-{seed}")
            unlucky = counted(text).write_json(out)
            assert mr.read_json(out).take_all() == expected
            assert session.faults is not None
            seen |= set(session.faults.faults)
        assert unlucky.tasks_run == result.tasks_run
        assert [stage["total"] for stage in unlucky.stages] == [stage["total"] for stage in result.stages]
        assert not any("deterministic" in trouble for trouble in unlucky.troubles)
    assert seen == {"lose", "repeat", "delay"}


def test_workers_end_with_the_process_they_were_forked_from(tmp_path: Path) -> None:
    zygote = Zygote(tmp_path, 1 << 28, fork=False)
    owners_end, workers_end = socket.socketpair()
    socket.send_fds(zygote.control, [f"fork {1:>32}".encode()], [workers_end.fileno()])
    worker = int(zygote.control.recv(100).split()[2])
    ended = select.poll()
    ended.register(os.pidfd_open(worker), select.POLLIN)
    os.kill(zygote.pid, signal.SIGKILL)  # as what kills a terminal's process group does
    assert ended.poll(60_000), "it lives on, as the owner has not closed its end"
    zygote.close()
    owners_end.close()
    workers_end.close()
