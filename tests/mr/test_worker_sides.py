"""Broadcast sides that a worker keeps: built once, and no more of them than fit their share of an attempt's memory."""

from __future__ import annotations

from pathlib import Path

import pytest

import mr
from mr.executors.inline import InlineExecutor
from mr.worker import SIDE_COPIES, WorkerEnv

SIZE = 100
SHARE = SIZE * SIDE_COPIES


class Sides:
    """Asks for sides by name and notes which were built."""

    def __init__(self, folder: Path, fit: int) -> None:
        self.env = WorkerEnv(folder, 2 * fit * SHARE)
        self.built: list[str] = []

    def want(self, name: str, size: int = SIZE) -> None:
        def build() -> str:
            self.built.append(name)
            return name

        assert self.env.side(name, "key", size, build) == name


@pytest.mark.parametrize(
    ("fit", "wanted", "built"),
    [(2, "abab", "ab"), (2, "abcb", "abc"), (2, "abca", "abca"), (2, "abacabb", "abcb"), (0, "aab", "ab")],
)
def test_the_least_recently_used_goes_first(tmp_path: Path, fit: int, wanted: str, built: str) -> None:
    sides = Sides(tmp_path, fit)
    for name in wanted:
        sides.want(name)
    assert "".join(sides.built) == built


def test_a_large_side_takes_the_room_of_several(tmp_path: Path) -> None:
    sides = Sides(tmp_path, 3)
    for name, size in (("a", SIZE), ("b", SIZE), ("large", 3 * SIZE), ("a", SIZE)):
        sides.want(name, size)
    assert sides.built == ["a", "b", "large", "a"]


def test_a_task_without_sides_has_the_memory_of_those_before(tmp_path: Path) -> None:
    sides = Sides(tmp_path, 2)
    sides.want("a")
    sides.env.trim_sides(SHARE)
    sides.want("a")
    sides.env.trim_sides(SHARE - 1)
    sides.want("a")
    assert sides.built == ["a", "a"]


def test_joins_of_one_stage_share_the_memory_for_their_sides(tmp_path: Path) -> None:
    """One side fits half of the memory, two of them do not: both are looked at in their files, with the same rows."""
    facts = mr.from_items([(i % 50, i) for i in range(200)], names=["k", "n"])
    first, second = (mr.from_items([(i, "x" * 200) for i in range(50)], names=["k", name]) for name in "ab")
    counts = []
    rows = []
    for memory in (1 << 30, 100_000):
        with mr.Session(executor=InlineExecutor(tmp_path / str(memory), memory), home=tmp_path / str(memory)):
            one = facts.join(first, on="k", strategy="broadcast")
            both = one.join(second, on="k", strategy="broadcast")
            results = [data.write_json(str(tmp_path / f"{memory}-{i}")) for i, data in enumerate((one, both))]
            counts.append(["broadcast sides too large for memory" in result.counters for result in results])
            rows.append(both.take_all())
    assert counts == [[False, False], [False, True]]
    assert rows[0] == rows[1]
