"""Three tables from one parse of a combined access log, beside peers.

    python -m benchmarks.log_analytics [--size BYTES] [--rounds N] [--peers polars,duckdb,...]

Tables: requests and bytes by hour and status; the 100 most requested URLs; the 100 most frequent hosts. GoAccess writes
its own report instead, of which the hosts are checked. The aim: 0.7 of Polars.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestants import peers_of
from benchmarks.generate import access_log
from benchmarks.harness import ROUNDS, arguments, compare, millrace, report

SIZE_BYTES = 711_000_000
TABLES = {"hours": ["hour", "status", "requests", "bytes"], "urls": ["url", "requests"], "hosts": ["host", "requests"]}


class Nearly(tuple[int, ...]):
    """Counts that equal others within a thousandth: GoAccess also counts a few lines that do not parse."""

    __hash__ = tuple.__hash__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, tuple) or len(self) != len(other):
            return False
        return all(abs(one - another) * 1000 <= another for one, another in zip(self, other, strict=True))

    def __ne__(self, other: object) -> bool:
        return not self == other


def tables(path: Path) -> dict[str, Any]:
    """The rows of each table, sorted; of GoAccess's report in JSON only how often each of 100 hosts occurs."""
    import pyarrow.parquet as pq

    if path.suffix == ".json" or path.is_file():
        hosts = json.loads(path.read_text())["hosts"]["data"]
        return {"requests_of_hosts": Nearly(sorted(host["hits"]["count"] for host in hosts)[-100:])}
    found: dict[str, Any] = {}
    for name, columns in TABLES.items():
        rows = pq.read_table(path / name, columns=columns).to_pylist()
        for row in rows:
            if "hour" in row:
                row["hour"] = row["hour"].replace(tzinfo=None)
        found[name] = sorted(tuple(row.values()) for row in rows)
    return {**found, "requests_of_hosts": Nearly(sorted(row[1] for row in found["hosts"])[-100:])}


def main(size: int = SIZE_BYTES, rounds: int = ROUNDS, peers: Sequence[str] | None = None) -> None:
    """Compare and report. Raises BenchmarkFailed where a contestant fails or disagrees."""
    log = access_log(size)
    found, note = peers_of("log_analytics", peers, [log], tables)
    ours = millrace("Millrace", "three_tables.py", tables, [f"--input={log}"])
    report(f"Log analytics, {size // 1_000_000:,} MB", compare([ours, *found], rounds), note)


if __name__ == "__main__":
    given = arguments(__doc__, size=(SIZE_BYTES, "bytes of log"))
    main(given.size, given.rounds, given.peers)
