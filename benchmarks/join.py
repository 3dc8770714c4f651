"""Join of a Zipf-keyed fact table with its dimension on strings, summed by segment, Parquet to Parquet, beside peers.

    python -m benchmarks.join [--rows N] [--customers N] [--rounds N] [--peers duckdb,polars,...]

Aims: 1.2 of the faster of Polars and DuckDB; sort_merge and broadcast 0.15 of Spark's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.contestants import peers_of
from benchmarks.generate import dimension, facts
from benchmarks.harness import ROUNDS, arguments, compare, millrace, report

ROWS, CUSTOMERS = 10_000_000, 1_000_000


def sums(path: Path) -> list[tuple[str, int, int]]:
    """(segment, n, amount), sorted."""
    import pyarrow.parquet as pq

    rows = pq.read_table(path, columns=["segment", "n", "amount"]).to_pydict()
    return sorted(zip(*rows.values(), strict=True))


def main(
    rows: int = ROWS, customers: int = CUSTOMERS, rounds: int = ROUNDS, peers: Sequence[str] | None = None
) -> None:
    """Compare and report. Raises BenchmarkFailed where a contestant fails or disagrees."""
    left, right = facts(rows, customers), dimension(customers)
    found, note = peers_of("join", peers, [left, right], sums)
    inputs = [f"--facts={left}", f"--dimension={right}"]
    ours = [
        millrace(f"Millrace, {strategy}", "segments.py", sums, [*inputs, f"--strategy={strategy}"])
        for strategy in ("auto", "sort_merge", "broadcast")
    ]
    report(f"Join, {rows:,} x {customers:,} on strings", compare([*ours, *found], rounds), note)


if __name__ == "__main__":
    given = arguments(__doc__, rows=(ROWS, "facts"), customers=(CUSTOMERS, "rows of the dimension"))
    main(given.rows, given.customers, given.rounds, given.peers)
