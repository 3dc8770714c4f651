"""What `--memory 1GB` promises: peak memory of the whole process tree, and what the bound costs in time.

    python -m benchmarks.memory [--lines N] [--rows N] [--only sort,distinct,hot_rows,hot_join]

Jobs: sort of 6 GB (beside `sort -S 1G --parallel=2`); a group-by with 50 million distinct keys; 99 % of 50 million rows
on one key through `map_groups` and through a sort-merge join. Aims: at most 1.2 GB; the sort in the time of GNU sort.
One run each: the inputs do not fit into memory twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.contestants import ENVIRONMENT, remove
from benchmarks.generate import WORK, dimension, distinct_keys, hot_key, records
from benchmarks.harness import BenchmarkFailed, Contestant, machine, millrace, write_section
from benchmarks.sort import digest

LINES, ROWS = 60_000_000, 50_000_000
MEMORY, MEMORY_SORT = "1GB", "1000000K"
BOUND_MB = 1_200
FIGURES = WORK / "figures.json"


@dataclass(frozen=True)
class Run:
    """What a command took, and what it wrote; `result` is None if it failed."""

    name: str
    result: object
    peak_mb: float
    wall_seconds: float
    user_seconds: float
    system_seconds: float


def measured(contestant: Contestant, outputs: Sequence[Path]) -> Run:
    """Run a contestant under `peak_memory`, read its result, take its output away. Raises BenchmarkFailed."""
    contestant.prepare()
    command = [sys.executable, "-m", "benchmarks.peak_memory", "--json", str(FIGURES), "--", *contestant.command]
    done = subprocess.run(command, env={**os.environ, **contestant.environment}, capture_output=True, check=False)
    if done.returncode != 0:
        end = done.stderr.decode(errors="replace")[-2000:]
        raise BenchmarkFailed(f"{contestant.name} ended with code {done.returncode}:\n{end}")
    found = json.loads(FIGURES.read_text())
    result = contestant.result()
    for output in outputs:
        remove(output)
    figures = (found[name] for name in ("peak_mb", "wall_seconds", "user_seconds", "system_seconds"))
    run = Run(contestant.name, result, *figures)
    print(f"  {run.name}: {run.peak_mb:,.0f} MB, {run.wall_seconds:.1f} s", file=sys.stderr)
    return run


def limited(name: str, job: str, result: Callable[[Path], object], *options: str) -> Run:
    """A job of ours under the bound."""
    output = WORK / "out-memory"
    ours = millrace(name, job, lambda _: result(output), options, str(output), memory=MEMORY)
    return measured(ours, [output])


def sums(folder: Path) -> tuple[int, int, int]:
    """Rows, sum of n and sum of amount of what a grouping wrote, part by part."""
    rows = n = amount = 0
    for part in sorted(folder.glob("part-*.parquet")):
        table = pq.read_table(part, columns=["n", "amount"])
        rows += len(table)
        n += pc.sum(table["n"]).as_py() or 0
        amount += pc.sum(table["amount"]).as_py() or 0
    return rows, n, amount


def expected(path: Path) -> tuple[int, int]:
    """Rows and sum of amount of an input, row group by row group."""
    file = pq.ParquetFile(path)
    amounts = (file.read_row_group(i, columns=["amount"])["amount"] for i in range(file.num_row_groups))
    return file.metadata.num_rows, sum(pc.sum(column).as_py() for column in amounts)


def sort(lines: int) -> list[Run]:
    """The sort, and GNU sort of the same size of buffer."""
    text, target = records(lines), WORK / "out-memory-sort.txt"
    command = ["sort", "-S", MEMORY_SORT, "--parallel=2", "-T", str(WORK), "-o", str(target), str(text)]
    peer = Contestant("sort -S 1G --parallel=2", command, lambda: digest(target), ENVIRONMENT)
    title = f"sort of {lines / 1e7:.1f} GB"
    runs = [limited(title, "sort_lines.py", digest, f"--input={text}"), measured(peer, [target])]
    remove(text)
    _same(runs[0].name, runs[0].result, runs[1].result)
    return runs


def distinct(rows: int) -> list[Run]:
    """A group-by in which no key comes twice."""
    path = distinct_keys(rows)
    run = limited(f"group-by, {rows:,} keys", "customers.py:totals", sums, f"--input={path}")
    _same(run.name, run.result, (rows, *expected(path)))
    remove(path)
    return [run]


def hot_rows(rows: int) -> list[Run]:
    """A function that sees 99 % of the rows as one group."""
    path = hot_key(rows)
    name = f"map_groups, 99 % of {rows:,} rows one key"
    run = limited(name, "customers.py:totals_by_rows", sums, f"--input={path}")
    column = pq.read_table(path, columns=["customer"])["customer"]
    _same(run.name, run.result, (len(column.combine_chunks().unique()), *expected(path)))
    return [run]


def hot_join(rows: int) -> list[Run]:
    """A sort-merge join in which 99 % of one side's rows have one key; every customer has a dimension."""
    path, right = hot_key(rows), dimension(max(2, rows // 100))
    name = f"sort_merge join, 99 % of {rows:,} rows one key"
    options = (f"--facts={path}", f"--dimension={right}", "--strategy=sort_merge")
    run = limited(name, "segments.py", lambda folder: sums(folder)[1:], *options)
    _same(run.name, run.result, expected(path))
    return [run]


def _same(name: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise BenchmarkFailed(f"{name}: {found}, but {wanted} is right")


def main(
    lines: int = LINES, rows: int = ROWS, only: Sequence[str] = ("sort", "distinct", "hot_rows", "hot_join")
) -> None:
    """Measure and report. Raises BenchmarkFailed where a job fails, is wrong, or takes more memory than the bound."""
    WORK.mkdir(exist_ok=True)
    jobs = {"distinct": distinct, "hot_rows": hot_rows, "hot_join": hot_join}
    runs = [run for name in only for run in (sort(lines) if name == "sort" else jobs[name](rows))]
    head = ["| | peak MB | wall s | user s | system s |", "|---|---|---|---|---|"]
    lines_of_table = [
        f"| {r.name} | {r.peak_mb:,.0f} | {r.wall_seconds:.1f} | {r.user_seconds:.1f} | {r.system_seconds:.1f} |"
        for r in runs
    ]
    note = "Sum of Pss_Anon and Pss_Shmem over the process tree, sampled every 50 ms; one run each."
    text = "\n".join([*head, *lines_of_table, "", note, "", machine()])
    print(text)
    write_section(f"Memory under --memory {MEMORY}, 2 workers", text)
    over = [run.name for run in runs if run.peak_mb > BOUND_MB and not run.name.startswith("sort -S")]
    if over:
        raise BenchmarkFailed(f"more than {BOUND_MB} MB: {', '.join(over)}")


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=LINES, help="lines of 100 bytes to sort")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of the groupings and the join")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=["sort", "distinct", "hot_rows", "hot_join"]
    )
    given = parser.parse_args()
    main(given.lines, given.rows, given.only)
