"""What every test has: its own MR_HOME and its own (not yet made) default store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import mr
from mr.storage import open_store


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Recorded results and stores of one test never answer another."""
    for name in ("MR_ON", "MR_WORKERS", "MR_MEMORY", "MR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MR_HOME", str(tmp_path / "mr-home"))
    monkeypatch.setenv("DFS_STORE", str(tmp_path / "store"))
    open_store.cache_clear()
    yield
    open_store.cache_clear()


@pytest.fixture
def inline() -> Iterator[mr.Session]:
    """A session that runs everything in this thread."""
    with mr.Session(on="inline") as session:
        yield session
