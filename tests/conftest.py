"""Every test has a state of its own: MR_HOME, DFS_STORE and the session never outlive it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from mr.storage import open_store


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded results and stored files of one test never answer another."""
    monkeypatch.setenv("MR_HOME", str(tmp_path / "mr-home"))
    monkeypatch.setenv("DFS_STORE", str(tmp_path / "dfs-store"))
    open_store.cache_clear()  # a process keeps the default store that it opened first


@pytest.fixture
def inline(own_state: None) -> Iterator[object]:
    """A session whose tasks run in this thread."""
    import mr

    with mr.Session(on="inline") as session:
        yield session


hypothesis.settings.register_profile("same", derandomize=True)  # the same examples in every run
hypothesis.settings.load_profile("same")
