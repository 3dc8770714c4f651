"""Word count of Zipf text beside all peers: `str.split` as a kernel, and words out of a Python generator.

    python -m benchmarks.word_count [--size BYTES] [--rounds N] [--peers duckdb,polars,...]

Aims: `str.split` 1.0 of the faster of DuckDB and Polars (0.85 at 2.7 GB: --size 2700000000 --peers duckdb,polars); the
generator 0.45 of Dask Bag and 0.2 of the Spark RDD.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.contestants import peers_of
from benchmarks.generate import zipf_text
from benchmarks.harness import ROUNDS, arguments, compare, millrace, report

SIZE_BYTES = 271_000_000


def counts(path: Path) -> dict[str, int]:
    """How often each word occurs, of what a contestant wrote: Parquet, or text of "word<tab>n" (mrjob, awk)."""
    import pyarrow.csv
    import pyarrow.parquet as pq

    files = [path] if path.is_file() else sorted(path.glob("part*"))
    if files and not files[0].read_bytes().startswith(b"PAR1"):
        options = pyarrow.csv.ReadOptions(column_names=["word", "n"])
        tabs = pyarrow.csv.ParseOptions(delimiter="\t", quote_char='"')
        found = [pyarrow.csv.read_csv(text, options, tabs).to_pydict() for text in files]
    else:
        found = [pq.read_table(path, columns=["word", "n"]).to_pydict()]
    return {word: n for table in found for word, n in zip(table["word"], table["n"], strict=True)}


def main(size: int = SIZE_BYTES, rounds: int = ROUNDS, peers: Sequence[str] | None = None) -> None:
    """Compare and report. Raises BenchmarkFailed where a contestant fails or disagrees."""
    text = zipf_text(size)
    found, note = peers_of("word_count", peers, [text], counts)
    jobs = {"Millrace, str.split": "word_count.py"}
    if size <= SIZE_BYTES:
        jobs["Millrace, Python generator"] = "generator_word_count.py"
    ours = [millrace(name, job, counts, [f"--input={text}"]) for name, job in jobs.items()]
    report(f"Word count, {size // 1_000_000:,} MB of text", compare([*ours, *found], rounds), note)


if __name__ == "__main__":
    given = arguments(__doc__, size=(SIZE_BYTES, "bytes of text"))
    main(given.size, given.rounds, given.peers)
