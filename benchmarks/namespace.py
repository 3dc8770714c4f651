"""The namespace with a million files: batch commits through one node's operation log, and how long questions take.

    python -m benchmarks.namespace [FILES] [folder|files]

`folder`: a transaction publishes a folder of 10,000 files (PutFolder); `files`: it puts them one by one (PutFile).
Aims: commits of 50,000 files/s with fsync on; `stat` 1 ms; `ls` of 10,000 entries 50 ms; memory that does not grow with
the number of files.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.generate import WORK
from dfs.changes import Change, Expire, FileManifest, PutFile, PutFolder, Remove, build_manifest, changes_to_json
from dfs.ids import ChunkId
from dfs.metadata import Namespace
from dfs.oplog import OpLog
from dfs.transactions import Committer

BATCH_FILES = 10_000
PLACE = WORK / "namespace"


@contextlib.contextmanager
def fresh() -> Iterator[tuple[Namespace, Committer]]:
    """An empty namespace, and the committer of a store with one node."""
    shutil.rmtree(PLACE, ignore_errors=True)
    (PLACE / "node" / "oplog").mkdir(parents=True)
    path = PLACE / "store.db"
    Namespace.create(path, {"uuid": "benchmark"}, [("node", "node")])
    with contextlib.closing(Namespace(path)) as namespace:
        yield namespace, Committer(namespace, [OpLog(PLACE / "node")], 1, "benchmark")


def manifests(batch: int) -> dict[str, FileManifest]:
    """Files of one small chunk each; no chunk occurs twice."""
    found = {}
    for number in range(batch * BATCH_FILES, (batch + 1) * BATCH_FILES):
        data = b"page %d" % number
        found[f"page-{number % BATCH_FILES:05}.html"] = build_manifest(
            [(ChunkId.of(data), 20_000, 300, False)], "lines", 1
        )
    return found


def changes_of(batch: int, kind: str) -> list[Change]:
    """One transaction's changes."""
    folder, files = f"crawl/2026/part-{batch:04}", manifests(batch)
    if kind == "folder":
        return [PutFolder(folder, files)]
    return [PutFile(f"{folder}/{name}", manifest) for name, manifest in files.items()]


def milliseconds(question: Callable[[], object], times: int = 20) -> float:
    """Median time of a question."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        question()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1000


def peak_mib() -> float:
    """Most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def size_mib(folder: Path) -> float:
    """Bytes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / (1 << 20)


def fill(committer: Committer, files: int, kind: str) -> None:
    """Commit all batches and say how fast."""
    rates, total, busy = [], 0.0, 0.0
    for batch in range(files // BATCH_FILES):
        changes = changes_of(batch, kind)
        start, busy_before = time.perf_counter(), time.process_time()
        committer.commit(changes_to_json(changes), f"batch-{batch}", batch)
        taken = time.perf_counter() - start
        total += taken
        busy += time.process_time() - busy_before
        rates.append(BATCH_FILES / taken)
        if batch % 10 == 9:
            print(f"  {(batch + 1) * BATCH_FILES:,} files, {peak_mib():,.0f} MiB at most", file=sys.stderr)
    print(f"commit by {kind}: {files / total:,.0f} files/s (slowest batch {min(rates):,.0f}, last {rates[-1]:,.0f})")
    print(f"  of the time, {busy / files * 1e6:.1f} us a file on the processor")


def ask(namespace: Namespace) -> None:
    """Time the questions."""
    at = namespace.last()[0]
    folder = f"crawl/2026/part-{at // 2:04}"
    asked = {
        "stat of a file": lambda: namespace.stat(f"{folder}/page-07000.html", at),
        "stat of a folder": lambda: namespace.stat(folder, at),
        "stat of the root": lambda: namespace.stat("", at),
        "ls of 10,000 entries": lambda: namespace.ls(folder, at),
        "last()": lambda: namespace.last(),
    }
    for name, question in asked.items():
        print(f"{name}: {milliseconds(question):.3f} ms")
    before = peak_mib()
    for name, long in {
        "walk of all": lambda: sum(1 for _ in namespace.walk("", at)),
        "needed": lambda: sum(1 for _ in namespace.needed()),
        "diff of the last two": lambda: sum(1 for _ in namespace.diff(at - 1, at)),
        "totals": lambda: namespace.totals("", at),
        "files of a chunk": lambda: namespace.files_of(ChunkId.of(b"page 1"), at),
        "check": lambda: namespace.check(),
    }.items():
        print(f"{name}: {milliseconds(long, 1) / 1000:.2f} s")
    print(f"memory at most: {before:,.0f} MiB after the commits, {peak_mib():,.0f} MiB after the questions")


def expire(namespace: Namespace, committer: Committer) -> None:
    """Remove a tenth, then forget it."""
    at = namespace.last()[0]
    folders = [f"crawl/2026/part-{batch:04}" for batch in range(0, at, 10)]
    committer.commit(changes_to_json([Remove(folder, recursive=True) for folder in folders]), "remove", at)
    start = time.perf_counter()
    committer.commit(changes_to_json([Expire(at + 1)]), "expire", at)
    print(f"expiry of {len(folders) * BATCH_FILES:,} files: {time.perf_counter() - start:.2f} s")


def main() -> None:
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    kind = sys.argv[2] if len(sys.argv) > 2 else "folder"
    with fresh() as (namespace, committer):
        fill(committer, files, kind)
        print(f"on disk: {size_mib(PLACE):,.0f} MiB, of it log {size_mib(PLACE / 'node'):,.0f}")
        ask(namespace)
        expire(namespace, committer)
    shutil.rmtree(PLACE)


if __name__ == "__main__":
    main()
