"""An interrupted job ends what runs, says so, and goes on when it is submitted again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

import mr
from mr.errors import JobCancelled
from mr.executors.base import AttemptEvent
from mr.executors.inline import InlineExecutor
from mr.tasks import AttemptId


class Interrupted(InlineExecutor):
    """The user presses Ctrl-C once, when `after` attempts have run."""

    def __init__(self, home: Path, after: int) -> None:
        super().__init__(home, 1 << 30)
        self.left = after
        self.killed: list[AttemptId] = []

    def wait(self, timeout_seconds: float) -> Sequence[AttemptEvent]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().wait(timeout_seconds)

    def kill(self, attempt: AttemptId) -> None:
        self.killed.append(attempt)
        super().kill(attempt)


def test_an_interrupt_cancels_what_runs_and_keeps_what_is_done(tmp_path: Path) -> None:
    counts = mr.from_items(["a", "b", "a"]).value_counts()
    executor = Interrupted(tmp_path, after=1)
    with mr.Session(on="inline", home=tmp_path, executor=executor) as session:
        with pytest.raises(JobCancelled, match="submit the same job again"):
            counts.write_json(str(tmp_path / "out"))
        assert executor.killed == [AttemptId(1, 0, 1)]
        assert not (tmp_path / "out").exists()
        assert session.journal.jobs(1)[0].state == "cancelled"
    with mr.Session(on="inline", home=tmp_path):
        result = counts.write_json(str(tmp_path / "out"))
    assert (result.tasks_run, result.tasks_reused) == (1, 1)
