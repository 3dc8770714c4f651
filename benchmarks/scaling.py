"""How the cost grows with the input: 1, 4 and 16 times as much, in seconds a gigabyte beyond those of an empty job.

    python -m benchmarks.scaling [--size BYTES] [--rounds N]

The aim: each within 10 % of proportional. `--size` is that of the smallest input. A last column says how far each time
is from a line through all of them, that of the empty job too: what is paid once, and what for each byte.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.contestants import remove
from benchmarks.generate import RECORD_BYTES, WORK, access_log, records, zipf_text
from benchmarks.harness import arguments, compare, machine, millrace, write_section

SIZE_BYTES, ROUNDS = 170_000_000, 3
FACTORS = (1, 4, 16)
WORKLOADS: dict[str, tuple[str, Callable[[int], Path]]] = {
    "word count": ("word_count.py", zipf_text),
    "sort": ("sort_lines.py", lambda size_bytes: records(size_bytes // RECORD_BYTES)),
    "log analytics": ("three_tables.py", access_log),
}


def main(size: int = SIZE_BYTES, rounds: int = ROUNDS) -> None:
    """Measure and report. Raises BenchmarkFailed where a run fails."""
    WORK.mkdir(exist_ok=True)
    nothing = WORK / "one-line.txt"
    nothing.write_text("x\n")
    rows = ["| | input MB | median s | s/GB beyond start | to the largest | off a line |", "|---|---|---|---|---|---|"]
    lines = []
    for name, (job, generate) in WORKLOADS.items():
        inputs = [nothing, *(generate(size * factor) for factor in FACTORS)]
        contestants = [
            millrace(f"{name} {path.stat().st_size:,}", job, lambda _: None, [f"--input={path}"]) for path in inputs
        ]
        seconds = [statistics.median(timing.seconds) for timing in compare(contestants, rounds)]
        sizes_gb = [path.stat().st_size / 1e9 for path in inputs]
        fixed, slope = line_through(sizes_gb, seconds)
        costs = [(s - seconds[0]) / gb for s, gb in zip(seconds, sizes_gb, strict=True)]
        for gb, s, cost in zip(sizes_gb, seconds, costs, strict=True):
            of_size = f"{cost:.2f} | {cost / costs[-1]:.2f}" if gb > 1e-3 else "|"
            rows.append(f"| {name} | {gb * 1e3:,.0f} | {s:.2f} | {of_size} | {s / (fixed + slope * gb) - 1:+.0%} |")
            print(rows[-1], file=sys.stderr)
        lines.append(f"{name} {fixed:.2f} s + {slope:.2f} s/GB")
        for path in inputs[1:]:
            remove(path)
    note = f"Median of {rounds}; what the same job takes on one line is subtracted. The lines: {', '.join(lines)}."
    write_section("Cost of 1, 4 and 16 times the input", "\n".join([*rows, "", note, "", machine()]))


def line_through(sizes_gb: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """What is paid once (s), and for each GB: the line with the least squares of relative errors.

    >>> fixed, slope = line_through([0, 1, 2], [1, 3, 5])
    >>> round(fixed, 6), round(slope, 6)
    (1.0, 2.0)
    """
    taken = np.array(seconds)
    (fixed, slope), *_ = np.linalg.lstsq(np.column_stack([1 / taken, np.array(sizes_gb) / taken]), np.ones(len(taken)))
    return float(fixed), float(slope)


if __name__ == "__main__":
    given = arguments(__doc__, size=(SIZE_BYTES, "bytes of the smallest input"))
    main(given.size, given.rounds)
