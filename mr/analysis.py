"""What a stage really did, from the results of its tasks: the figures of `mr explain --analyze`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from mr.stopwatch import KINDS
from mr.tasks import TaskResult


class Spread(Struct, frozen=True):
    """How evenly something lies over tasks: the smallest, the median, the 95th percentile and the largest."""

    min: int
    median: int
    p95: int
    max: int


def spread(sizes: Sequence[int]) -> Spread:
    """The spread of at least one size, by the nearest rank.

    >>> spread([4, 1, 9])
    Spread(min=1, median=4, p95=9, max=9)
    """
    ordered = sorted(sizes)
    last = len(ordered) - 1
    return Spread(ordered[0], ordered[last // 2], ordered[-(-last * 95 // 100)], ordered[last])


class StageFigures(Struct, frozen=True):
    """A stage that ran: its tasks (`reused`: found recorded; their figures are those of the run that recorded them).

    Records and bytes as read from splits or exchanges, rows and bytes as left at all outlets. `seconds` over all tasks
    by kind of work (`stopwatch.KINDS`). `read` is the spread of the bytes that the tasks read; `slowest` is a task and
    its seconds. `notes`: what was done about skew, and why.
    """

    id: int
    label: str
    total: int
    reused: int
    records: int
    bytes: int
    rows_out: int
    bytes_out: int
    spilled: int
    seconds: tuple[float, ...]
    read: Spread
    slowest: tuple[int, float]
    notes: tuple[str, ...] = ()


def figures(id: int, label: str, results: Sequence[TaskResult], reused: int, notes: tuple[str, ...]) -> StageFigures:
    """The figures of a stage whose tasks gave `results` (at least one)."""
    outputs = [output for result in results for output in result.outputs]
    by_kind = zip(*(result.timing or (0.0,) * len(KINDS) for result in results), strict=True)
    slowest = max(range(len(results)), key=lambda i: results[i].seconds)
    return StageFigures(
        id,
        label,
        len(results),
        reused,
        sum(result.records_in for result in results),
        sum(result.bytes_in for result in results),
        sum(output.rows for output in outputs),
        sum(output.bytes for output in outputs),
        sum(result.spilled for result in results),
        tuple(map(sum, by_kind)),
        spread([result.bytes_in for result in results]),
        (slowest, results[slowest].seconds),
        notes,
    )


def from_report(stage: Mapping[str, Any]) -> StageFigures:
    """The inverse of `msgspec.to_builtins` and JSON, as journals keep figures."""
    values = dict(stage)
    values |= {name: tuple(values[name]) for name in ("seconds", "slowest", "notes")}
    return StageFigures(**(values | {"read": Spread(**values["read"])}))


__all__ = ["Spread", "StageFigures", "figures", "from_report", "spread"]
