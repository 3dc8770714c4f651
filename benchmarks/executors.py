"""The same jobs on Ray and on local processes, and from `dfs://` and from a local path.

    python -m benchmarks.executors [--size BYTES] [--rounds N] [--peers ray|dfs]

Aims: Ray at most 4 s slower than `local`; from `dfs://` 1.15 of the time from a path for chunks stored raw, 1.35 for
zstd. A store of its own holds the inputs; the raw one is made by telling the codec that compression never pays.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.generate import RECORD_BYTES, WORK, access_log, records, zipf_text
from benchmarks.harness import (
    CORES,
    ROUNDS,
    BenchmarkFailed,
    Contestant,
    arguments,
    compare,
    millrace,
    own_command,
    report,
)
from benchmarks.log_analytics import tables
from benchmarks.sort import digest
from benchmarks.word_count import counts

SIZE_BYTES = 271_000_000
RAW = "import dfs.codec\ndfs.codec.TRIAL_SAVING_MIN = 2.0\nfrom dfs.cli import main\nmain()"
READERS = {"word_count.py": counts, "sort_lines.py": digest, "three_tables.py": tables}


def inputs(size: int) -> dict[str, Path]:
    """The input of each job."""
    return {
        "word_count.py": zipf_text(size),
        "sort_lines.py": records(size // RECORD_BYTES),
        "three_tables.py": access_log(size),
    }


def contestant(name: str, job: str, source: str, on: str = "local", store: Path | None = None) -> Contestant:
    """Our job on its input at `source`, a path or URL."""
    found = millrace(f"{name}, {job.removesuffix('.py')}", job, READERS[job], [f"--input={source}"], on=on)
    return found if store is None else replace(found, environment={**found.environment, "DFS_STORE": str(store)})


def stored(text: Path, codec: str) -> Path:
    """A new store that holds `text` as /input, its chunks "raw" or "zstd". Raises BenchmarkFailed."""
    store = WORK / f"store-{codec}"
    shutil.rmtree(store, ignore_errors=True)
    put = [sys.executable, "-c", RAW] if codec == "raw" else [own_command("dfs")]
    for command in ([own_command("dfs"), "init", str(store)], [*put, "put", "--store", str(store), str(text), "input"]):
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode != 0:
            raise BenchmarkFailed(f"{' '.join(command)}: {done.stderr.decode(errors='replace')[-500:]}")
    return store


def on_ray(size: int, rounds: int) -> None:
    """Each job on both executors."""
    for job, path in inputs(size).items():
        pair = [contestant(on, job, str(path), on) for on in ("ray", "local")]
        timings = compare(pair, rounds)
        slower = timings[0].median - timings[1].median if rounds else 0.0
        title = f"Ray and local: {job.removesuffix('.py')}, {size // 1_000_000:,} MB"
        report(title, timings, f"Ray is {slower:.2f} s slower; {CORES} workers each.")


def from_dfs(size: int, rounds: int) -> None:
    """Each job from a path and from stores of both codecs."""
    for job, path in inputs(size).items():
        stores = [stored(path, codec) for codec in ("raw", "zstd")]
        found = [contestant(f"dfs://, {store.name}", job, "dfs://input", store=store) for store in stores]
        found.append(contestant("a local path", job, str(path)))
        timings = [replace(timing, ours=False) for timing in compare(found, rounds)]  # the ratio is to the path
        report(f"From dfs:// and from a path: {job.removesuffix('.py')}, {size // 1_000_000:,} MB", timings)
        for store in stores:
            shutil.rmtree(store)


def main(size: int = SIZE_BYTES, rounds: int = ROUNDS, what: Sequence[str] = ("ray", "dfs")) -> None:
    """Compare and report. Raises BenchmarkFailed where a run fails or two disagree."""
    for name, part in {"ray": on_ray, "dfs": from_dfs}.items():
        if name in what:
            part(size, rounds)


if __name__ == "__main__":
    given = arguments(__doc__, size=(SIZE_BYTES, "bytes of input"))
    main(given.size, given.rounds, given.peers or ("ray", "dfs"))
