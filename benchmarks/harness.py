"""Run contestants side by side and say how they compare.

Whole processes, wall time, one after the other in turn (so that a slow minute of the machine hits all of them), after
one warm-up round that also checks that all of them computed the same; the median counts.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"
LOG = Path(__file__).parent / ".work" / "last-output.txt"


class BenchmarkFailed(Exception):
    """A contestant ended with an error, or with another result than the first."""


@dataclass(frozen=True)
class Contestant:
    """`command` is run in `environment` (added to ours); `result` reads what it wrote, comparable by ==.

    `prepare` is called before each run and not timed: it takes away what the last run left.
    """

    name: str
    command: Sequence[str]
    result: Callable[[], object]
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Timing:
    """Seconds of each measured run."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def run_once(contestant: Contestant) -> float:
    """Run a contestant and return the seconds it took. Raises BenchmarkFailed with the end of what it printed."""
    LOG.parent.mkdir(exist_ok=True)
    contestant.prepare()
    with LOG.open("wb") as log:
        start = time.perf_counter()
        code = subprocess.run(
            list(contestant.command),
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **contestant.environment},
            check=False,
        ).returncode
        seconds = time.perf_counter() - start
    if code != 0:
        raise BenchmarkFailed(f"{contestant.name} ended with code {code}:\n{LOG.read_text(errors='replace')[-2000:]}")
    return seconds


def compare(contestants: Sequence[Contestant], rounds: int = 5) -> list[Timing]:
    """Run all of them `rounds` times in turn. Raises BenchmarkFailed where one fails or disagrees with the first."""
    results = []
    for contestant in contestants:
        run_once(contestant)
        results.append(contestant.result())
        if results[-1] != results[0]:
            raise BenchmarkFailed(f"{contestant.name} and {contestants[0].name} computed different results")
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds):
        for contestant in contestants:
            seconds[contestant.name].append(run_once(contestant))
            print(f"  round {number + 1}: {contestant.name} {seconds[contestant.name][-1]:.2f} s", file=sys.stderr)
    return [Timing(name, tuple(times)) for name, times in seconds.items()]


def table(title: str, timings: Sequence[Timing]) -> str:
    """The timings as a table in Markdown; the ratio is to the last contestant, the peer."""
    lines = [f"### {title}", "", "| | median s | fastest | slowest | ratio |", "|---|---|---|---|---|"]
    lines += [
        f"| {t.name} | {t.median:.2f} | {min(t.seconds):.2f} | {max(t.seconds):.2f} "
        f"| {t.median / timings[-1].median:.2f} |"
        for t in timings
    ]
    return "\n".join(lines)


def report(title: str, timings: Sequence[Timing]) -> None:
    """Print the table and append it, with machine and versions, to RESULTS.md."""
    text = table(title, timings)
    print(f"\n{text}\n")
    machine = f"{date.today()}, {os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}"
    with RESULTS.open("a") as out:
        out.write(f"{text}\n\n{machine}, median of {len(timings[0].seconds)}\n\n")


def own_command(name: str) -> str:
    """The path of the `mr` or `dfs` command that belongs to this Python."""
    return str(Path(sys.executable).with_name(name))
