"""Sort of lines of 100 bytes beside GNU sort and other peers, text to text.

    python -m benchmarks.sort [--lines N] [--rounds N] [--peers sort,polars,duckdb,...]

The aim: 0.75 of the fastest of GNU sort, Polars and DuckDB at 5 million lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blake3 import blake3

from benchmarks.contestants import peers_of
from benchmarks.generate import records
from benchmarks.harness import ROUNDS, arguments, compare, millrace, report

LINES = 5_000_000


def digest(path: Path) -> tuple[int, str]:
    """Size and hash of a text: a file, or the parts of a folder in order of their names."""
    hasher, size = blake3(), 0
    for part in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.name[0] not in "._"):
        hasher.update_mmap(part)
        size += part.stat().st_size
    return size, hasher.hexdigest()


def main(lines: int = LINES, rounds: int = ROUNDS, peers: Sequence[str] | None = None) -> None:
    """Compare and report. Raises BenchmarkFailed where a contestant fails or disagrees."""
    text = records(lines)
    found, note = peers_of("sort", peers, [text], digest)
    ours = millrace("Millrace", "sort_lines.py", digest, [f"--input={text}"])
    report(f"Sort, {lines:,} lines of 100 bytes", compare([ours, *found], rounds), note)


if __name__ == "__main__":
    given = arguments(__doc__, lines=(LINES, "lines to sort"))
    main(given.lines, given.rounds, given.peers)
