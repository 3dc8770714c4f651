"""Where the sweeps put their stores."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.options import OPLOG_SEGMENT_BYTES_MAX


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of small stores, and fsync does nothing for the test there."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def own_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness of kills makes the log's segments small for all that follows in its process; here, for its test."""
    monkeypatch.setattr("dfs.oplog.OPLOG_SEGMENT_BYTES_MAX", OPLOG_SEGMENT_BYTES_MAX)
