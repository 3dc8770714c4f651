"""Run contestants side by side and say how they compare.

Whole processes, wall time, one after the other in turn (so that a slow minute of the machine hits all of them), after
one warm-up round that also checks that all of them computed the same; the median counts.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from benchmarks.generate import WORK

RESULTS = Path(__file__).parent / "RESULTS.md"
LOG = Path(__file__).parent / ".work" / "last-output.txt"
JOBS = Path(__file__).parent / "jobs"
CORES = 2
ROUNDS = 5


class BenchmarkFailed(Exception):
    """A contestant ended with an error, or with another result than the first."""


@dataclass(frozen=True)
class Contestant:
    """`command` is run in `environment` (added to ours); `result` reads what it wrote, comparable by ==.

    Of results that are dicts only the keys that both have are compared, for contestants that write less than others.
    `prepare` is called before each run and not timed: it takes away what the last run left. `rounds_max`: a slow one
    runs less often. `ours`: what the others are compared with.
    """

    name: str
    command: Sequence[str]
    result: Callable[[], object]
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None
    rounds_max: int = 1_000
    ours: bool = False


@dataclass(frozen=True)
class Timing:
    """Seconds of each measured run."""

    name: str
    seconds: tuple[float, ...]
    ours: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def warm(contestant: Contestant) -> None:
    """Read the files that a contestant's command names, and its store: all begin with what they read in memory.

    A virtual machine may give pages of files back that nobody has read for a minute. Whoever came behind a slow peer
    would read from the disk.
    """
    store = contestant.environment.get("DFS_STORE")
    named = [Path(word.rpartition("=")[2]) for word in contestant.command]
    for path in [*named, *(Path(store).rglob("*") if store else ())]:
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 22):
                    pass


def run_once(contestant: Contestant) -> float:
    """Run a contestant and return the seconds it took. Raises BenchmarkFailed with the end of what it printed."""
    LOG.parent.mkdir(exist_ok=True)
    contestant.prepare()
    os.sync()  # nobody waits for what the one before him wrote
    warm(contestant)
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


def agree(one: object, other: object) -> bool:
    """Whether two results are equal, dicts in what both of them have (which must be something)."""
    if isinstance(one, dict) and isinstance(other, dict):
        common = one.keys() & other.keys()
        return bool(common) and all(one[key] == other[key] for key in common)
    return one == other


def compare(contestants: Sequence[Contestant], rounds: int = ROUNDS) -> list[Timing]:
    """Run all of them `rounds` times in turn. Raises BenchmarkFailed where one fails or disagrees with the first."""
    first: object = None
    for number, contestant in enumerate(contestants):
        print(f"  warm-up: {contestant.name} {run_once(contestant):.2f} s", file=sys.stderr)
        result = contestant.result()
        if number == 0:
            first = result
        elif not agree(first, result):
            raise BenchmarkFailed(f"{contestant.name} and {contestants[0].name} computed different results")
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds):
        for contestant in contestants:
            if number < contestant.rounds_max:
                seconds[contestant.name].append(run_once(contestant))
                print(f"  round {number + 1}: {contestant.name} {seconds[contestant.name][-1]:.2f} s", file=sys.stderr)
    return [Timing(c.name, tuple(seconds[c.name]), c.ours) for c in contestants]


def table(title: str, timings: Sequence[Timing]) -> str:
    """The timings as a table in Markdown.

    A column for each contestant of ours has what it takes in proportion to each of the others (below 1: we are faster);
    where none is marked as ours, the ratio is to the last one, the peer.
    """
    ours = [timing for timing in timings if timing.ours]
    heads = [f"{timing.name} / this" for timing in ours] or ["ratio"]
    columns = ["", "median s", "fastest", "slowest", "rounds", *heads]
    lines = [f"### {title}", "", "| " + " | ".join(columns).strip() + " |", "|" + "---|" * len(columns)]
    for t in timings:
        ratios = [one.median / t.median for one in ours] or [t.median / timings[-1].median]
        cells = [t.name, *(f"{value:.2f}" for value in (t.median, min(t.seconds), max(t.seconds)))]
        lines.append("| " + " | ".join([*cells, str(len(t.seconds)), *(f"{ratio:.2f}" for ratio in ratios)]) + " |")
    return "\n".join(lines)


def machine() -> str:
    """Date, cores, memory, kernel and Python."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    system = (
        f"{os.cpu_count()} cores {platform.machine()}, {memory_bytes / (1 << 30):.0f} GiB, Linux {platform.release()}"
    )
    return f"{date.today()}, {system}, Python {platform.python_version()}"


def write_section(title: str, text: str) -> None:
    """Put `text`, Markdown below a heading, into RESULTS.md: instead of the section of that title, or at the end."""
    section = f"### {title}\n\n{text.strip()}\n\n"
    before = RESULTS.read_text() if RESULTS.exists() else "# Results\n\n"
    old = re.compile(rf"^### {re.escape(title)}\n.*?(?=^#{{1,3}} |\Z)", re.MULTILINE | re.DOTALL)
    after, replaced = old.subn(lambda _: section, before, count=1)
    RESULTS.write_text(after if replaced else before.rstrip("\n") + "\n\n" + section)


def report(title: str, timings: Sequence[Timing], note: str = "") -> None:
    """Print the table and put it, with machine and versions, into RESULTS.md; without rounds there is nothing to say.

    `note`: versions, and who was not run.
    """
    if not all(timing.seconds for timing in timings):
        print(f"{title}: all agree")
        return
    text = table(title, timings)
    print(f"\n{text}\n")
    heading, _, body = text.partition("\n\n")
    write_section(heading.removeprefix("### "), "\n\n".join(filter(None, [body, note, machine()])))


def own_command(name: str) -> str:
    """The path of the `mr` or `dfs` command that belongs to this Python."""
    return str(Path(sys.executable).with_name(name))


def millrace(
    name: str, job: str, result: Callable[[Path], object], options: Sequence[str], output: str = "", **flags: str
) -> Contestant:
    """Millrace running `jobs/<job>` (FILE or FILE:JOB) with its `options`, on `local` unless `flags` say else.

    `flags` are options of `mr submit`: on, workers, memory. `output`: other than a folder of its own. Each round is a
    first run: what the last left in MR_HOME is taken away before it, as the outputs of all contestants are.
    """
    target = WORK / ("out-" + re.sub(r"\W+", "-", name))
    engine = {"on": "local", "workers": str(CORES), **flags}
    command = [own_command("mr"), "submit", str(JOBS / job), "--no-reuse", "--overwrite", "--quiet"]
    command += [f"--{flag}={value}" for flag, value in engine.items()]
    command += ["--output", output or str(target), *options]
    home = {"MR_HOME": str(WORK / "home")}

    def clear() -> None:
        remove(target)
        remove(WORK / "home" / "runs")

    return Contestant(name, command, lambda: result(target), home, clear, ours=True)


def remove(path: Path) -> None:
    """Take a file or folder away, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def arguments(description: str | None, **sizes: tuple[int, str]) -> argparse.Namespace:
    """The command line that all comparisons share: --rounds, --peers, and a whole number for each of `sizes`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help="measured runs of each (5); 0: only see that all agree"
    )
    parser.add_argument(
        "--peers", type=lambda text: text.split(","), help="only these, as duckdb,polars; none: no peer"
    )
    for name, (default, meaning) in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"{meaning} ({default:,})")
    return parser.parse_args()
