"""Where the jobs' tests find the real data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import mr

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real input data; the test is skipped where it is absent, as in a plain checkout."""
    if not DATA.is_dir():
        pytest.skip(f"the real data of {DATA} is not here")
    return DATA


@pytest.fixture(autouse=True)
def _fresh_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded results of one test never answer another."""
    monkeypatch.setenv("MR_HOME", str(tmp_path / "mr-home"))


@pytest.fixture
def rows() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads a dataset of Parquet parts as a list of dicts, in order."""

    def read(folder: Path) -> list[dict[str, Any]]:
        parts = sorted(folder.glob("part-*.parquet"))
        assert parts, f"{folder} has no parts"
        return [row for part in parts for row in pq.read_table(part).to_pylist()]

    return read


@pytest.fixture(autouse=True)
def _inline(_fresh_home: None) -> Iterator[None]:
    """Jobs that are called run in this thread."""
    with mr.Session(on="inline"):
        yield
