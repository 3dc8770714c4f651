"""What the tests of datasets share: limits so small that few rows make many tasks, and SQL's order in plain Python."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

import mr.assignment
import mr.formats.blocks
import mr.inputs
import mr.operators.group_rows
import mr.operators.partitions
import mr.operators.pygroups
import mr.operators.python
import mr.outlets.base
import mr.shuffle.merge
import mr.shuffle.reader
import mr.shuffle.writer

TINY = {
    mr.inputs: {"LOCAL_SPLIT_BYTES": 40, "ITEMS_PER_SPLIT": 4, "PACKED_FILE_BYTES_MAX": 0},
    mr.outlets.base: {"COMBINE_BLOCK_ROWS": 3, "RUN_BYTES_MAX": 150},
    mr.assignment: {"REDUCE_RANGE_BYTES_MAX": 600},
    mr.shuffle.reader: {"MERGE_BLOCK_BYTES": 300},
    mr.shuffle.writer: {"SORT_BLOCK_BYTES": 150, "SORT_BLOCK_ROWS_MIN": 1},
    mr.shuffle.merge: {"MERGE_BLOCK_BYTES": 300},
    mr.formats.blocks: {"READ_BLOCK_BYTES": 32},
    mr.operators.python: {"PYTHON_BATCH_ROWS": 3},
    mr.operators.pygroups: {"PYTHON_BATCH_ROWS": 3},
    mr.operators.group_rows: {"PYTHON_BATCH_ROWS": 3},
    mr.operators.partitions: {"PYTHON_BATCH_ROWS": 3},
}


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make splits, blocks, runs, ranges and batches hold a few rows each."""
    for module, limits in TINY.items():
        for name, value in limits.items():
            monkeypatch.setattr(module, name, value)


def ident(value: Any) -> Any:
    """A key as something hashable that is equal exactly where the engine's keys are: NaN is one, -0.0 is 0.0."""
    if isinstance(value, tuple):
        return tuple(map(ident, value))
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value + 0.0
    return value


def rank(value: Any) -> tuple[Any, ...]:
    """Where a value that is not null lies in ascending order: NaN above all numbers, strings by their UTF-8."""
    if isinstance(value, float):
        return (math.isnan(value), 0.0 if math.isnan(value) else value)
    return (False, value.encode() if isinstance(value, str) else value)


def in_order(rows: Iterable[Any], by: Sequence[str], descending: Sequence[bool]) -> list[Any]:
    """The rows stably sorted, nulls last in both directions."""
    rows = list(rows)
    for name, down in reversed(list(zip(by, descending, strict=True))):
        filled = sorted((r for r in rows if r[name] is not None), key=lambda r: rank(r[name]), reverse=False)
        if down:
            groups: dict[Any, list[Any]] = {}
            for row in filled:
                groups.setdefault(rank(row[name]), []).append(row)
            filled = [row for key in reversed(groups) for row in groups[key]]
        rows = filled + [r for r in rows if r[name] is None]
    return rows


def idents(rows: Iterable[Any]) -> list[Any]:
    return [ident(tuple(row)) for row in rows]


def write_lines(folder: Path, rows: Sequence[Any], files: int) -> str:
    """The rows as JSON lines over several files (some may be empty), in order; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(rows) // files)
    for i in range(files):
        lines = [json.dumps(row) + "\n" for row in rows[i * size : (i + 1) * size]]
        (folder / f"{i:02d}.json").write_text("".join(lines))
    return str(folder)
