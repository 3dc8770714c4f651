"""Word count with a Python generator over 271 MB of Zipf text, beside Dask Bag with as many processes.

Dask runs twice: with the same generator, and with `str.split`, which spares it the generator.

    python -m benchmarks.word_count [BYTES] [ROUNDS]

The aim: at most 0.7 x Dask's time, in the faster of its two forms.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.generate import WORK, zipf_text
from benchmarks.harness import BenchmarkFailed, Contestant, compare, own_command, report

HERE = Path(__file__).parent
SIZE_BYTES = 271_000_000
PROCESSES = 2


def counts(folder: Path) -> list[tuple[str, int]]:
    """The (word, n) that a contestant wrote as Parquet, by word."""
    import pyarrow.parquet as pq

    rows = pq.read_table(folder, columns=["word", "n"]).sort_by("word")
    return list(zip(rows["word"].to_pylist(), rows["n"].to_pylist(), strict=True))


def main(size_bytes: int = SIZE_BYTES, rounds: int = 5) -> None:
    """Compare and report. Raises BenchmarkFailed where the peers are not installed or a contestant fails."""
    peer = HERE / ".venv" / "bin" / "python"
    if not peer.exists():
        raise BenchmarkFailed("the peers are not installed: run `make bench-peers`")
    text = str(zipf_text(size_bytes))
    ours, theirs = WORK / "word_count-millrace", WORK / "word_count-dask"
    dask = [str(peer), str(HERE / "dask_word_count.py")]
    submit = [own_command("mr"), "submit", str(HERE / "generator_word_count.py"), "--no-reuse", "--overwrite"]
    contestants = [
        Contestant(
            "Millrace, Python generator",
            [*submit, "--on", "local", "--workers", str(PROCESSES), "--input", text, "--output", str(ours)],
            lambda: counts(ours),
            {"MR_HOME": str(WORK / "home")},
        ),
        *(
            Contestant(name, [*dask, kind, text, str(theirs), str(PROCESSES)], lambda: counts(theirs))
            for name, kind in (("Dask Bag, the same generator", "generator"), ("Dask Bag, str.split", "split"))
        ),
    ]
    report(f"Word count, {size_bytes // 1_000_000} MB of text, {PROCESSES} processes", compare(contestants, rounds))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
