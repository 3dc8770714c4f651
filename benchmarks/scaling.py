"""How the cost grows with the input: 1, 4 and 16 times as much, in seconds a gigabyte beyond those of an empty job.

    python -m benchmarks.scaling [--size BYTES] [--rounds N]

The aim: each within 10 % of proportional. `--size` is that of the smallest input.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

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
    rows = ["| | input MB | median s | s/GB beyond start | to the largest |", "|---|---|---|---|---|"]
    for name, (job, generate) in WORKLOADS.items():
        inputs = [nothing, *(generate(size * factor) for factor in FACTORS)]
        contestants = [
            millrace(f"{name} {path.stat().st_size:,}", job, lambda _: None, [f"--input={path}"]) for path in inputs
        ]
        start, *seconds = (statistics.median(timing.seconds) for timing in compare(contestants, rounds))
        sizes_gb = [path.stat().st_size / 1e9 for path in inputs[1:]]
        costs = [(s - start) / gb for s, gb in zip(seconds, sizes_gb, strict=True)]
        for path, gb, s, cost in zip(inputs[1:], sizes_gb, seconds, costs, strict=True):
            rows.append(f"| {name} | {gb * 1e3:,.0f} | {s:.2f} | {cost:.2f} | {cost / costs[-1]:.2f} |")
            print(rows[-1], file=sys.stderr)
            remove(path)
    note = f"Median of {rounds}; what the same job takes on one line is subtracted."
    write_section("Cost of 1, 4 and 16 times the input", "\n".join([*rows, "", note, "", machine()]))


if __name__ == "__main__":
    given = arguments(__doc__, size=(SIZE_BYTES, "bytes of the smallest input"))
    main(given.size, given.rounds)
