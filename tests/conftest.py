"""Every test has a state of its own: MR_HOME, DFS_STORE and the session never outlive it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded results and stored files of one test never answer another."""
    monkeypatch.setenv("MR_HOME", str(tmp_path / "mr-home"))
    monkeypatch.setenv("DFS_STORE", str(tmp_path / "dfs-store"))


@pytest.fixture
def inline(own_state: None) -> Iterator[object]:
    """A session whose tasks run in this thread."""
    import mr

    with mr.Session(on="inline") as session:
        yield session
