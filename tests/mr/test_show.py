"""`mr show` prints whatever a job wrote, wherever, and says its columns."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import dfs
import mr
from mr.cli import cli
from mr.storage import open_store

ROWS = [(i, "ab"[i % 2], dt.date(2026, 1, 1 + i % 2)) for i in range(50)]


@pytest.fixture
def data(inline: mr.Session) -> mr.Dataset:
    dfs.init_store(dfs.store.default_path()).close()
    open_store.cache_clear()
    return mr.from_items(ROWS, names={"n": int, "s": str, "day": dt.date})


def show(*words: str, code: int = 0) -> str:
    import mr.cli_info  # noqa: F401  # which adds the command

    result = CliRunner().invoke(cli, ["show", *words])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize(
    ("place", "options"), [("one file", {}), ("local", {}), ("dfs", {}), ("dfs", {"partition_by": "day"})]
)
@pytest.mark.parametrize("format", ["parquet", "csv", "json", "arrow"])
def test_rows_of_every_format_are_shown_with_their_columns(
    format: str, place: str, options: Any, data: mr.Dataset, tmp_path: Path
) -> None:
    ending = f".{format}" if place == "one file" else ""
    path = "dfs://shown" if place == "dfs" else str(tmp_path / f"shown{ending}")
    getattr(data, f"write_{format}")(path, **options)
    text = show(path, "-n", "3")
    assert "shape: (3, 3)" in text
    typed = "date" if format != "json" or options else "str"  # JSON has no dates, folders do
    assert all(word in text for word in ("n", "s", "day", "i64", typed, "2026-01-01"))
    lines = [json.loads(line) for line in show(path, "-n", "100", "--json").splitlines()]
    assert sorted(tuple(line.values()) for line in lines) == [(n, s, str(day)) for n, s, day in ROWS]


@pytest.mark.parametrize("name", ["lines", "lines.txt", "lines.txt.gz", "lines.txt.zst"])
def test_lines_are_shown_as_values(name: str, data: mr.Dataset, tmp_path: Path) -> None:
    data.select("s").limit(2).write_text(str(tmp_path / name))
    assert show(str(tmp_path / name), "--json") == '{"value": "a"}\n{"value": "b"}\n'
    assert "value" in show(str(tmp_path / name), "-n", "1")


def test_without_rows_the_columns_are_shown(data: mr.Dataset, tmp_path: Path) -> None:
    data.filter(lambda row: False).write_parquet(str(tmp_path / "out"), partition_by="day")
    text = show(str(tmp_path / "out"))
    assert "shape: (0, 3)" in text
    assert "day" in text
    assert "shape: (0, 3)" in show(str(tmp_path / "out"), "-n", "0")


def test_what_is_not_there_is_said(data: mr.Dataset, tmp_path: Path) -> None:
    assert "nothing" in show(str(tmp_path / "nothing"), code=4)
