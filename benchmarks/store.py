"""The store beside restic, borg and cp: one replica, fsync where the peer has it, whole processes in turn.

    python -m benchmarks.store [TEXT_BYTES] [SMALL_FILES] [ROUNDS]

restic and borg are Debian's packages `restic` and `borgbackup`. Aims (ratios of medians): put of two text files 0.5 of
restic and 1.0 of borg; get 1.5 of cp; many small files 1.0 of restic; a second put of unchanged data 1.0 of restic; two
new chunks for 1 KB inserted at the front of 500 MB.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from blake3 import blake3

from benchmarks.generate import WORK, zipf_text
from benchmarks.harness import BenchmarkFailed, Contestant, compare, machine, own_command, report, write_section

TEXT_BYTES = 771_000_000
SMALL_FILES = 12_313
STORE = WORK / "store"
RESTIC, BORG = WORK / "restic", WORK / "borg"
CRAWL = Path(os.environ.get("MILLRACE_CRAWL", "../shared/data/crawl"))
ENVIRONMENT = {
    "DFS_STORE": str(STORE),
    "RESTIC_REPOSITORY": str(RESTIC),
    "RESTIC_PASSWORD": "benchmark",
    "RESTIC_CACHE_DIR": str(WORK / "restic-cache"),
    "BORG_REPO": str(BORG),
    "BORG_BASE_DIR": str(WORK / "borg-base"),
    "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
}


def run(*command: str, folder: Path | None = None) -> bytes:
    """A step that is not timed. Raises BenchmarkFailed."""
    done = subprocess.run(command, cwd=folder, env={**os.environ, **ENVIRONMENT}, capture_output=True, check=False)
    if done.returncode != 0:
        raise BenchmarkFailed(f"{' '.join(command)}: {done.stderr.decode(errors='replace')[-500:]}")
    return done.stdout


def empty(*folders: Path) -> None:
    """Take away what was there, and let the disk finish with it."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    os.sync()


def fresh_store() -> None:
    """A new store of one node."""
    empty(STORE)
    run(own_command("dfs"), "init", str(STORE))
    os.sync()


def fresh_restic() -> None:
    """A new repository, without what restic remembers of the one before."""
    empty(RESTIC, WORK / "restic-cache")
    run("restic", "init")
    os.sync()


def fresh_borg() -> None:
    """A new repository without encryption."""
    empty(BORG, WORK / "borg-base")
    run("borg", "init", "--encryption=none")
    os.sync()


def digest_of_folder(folder: Path) -> str:
    """One hash over names and bytes of all files below."""
    hasher = blake3()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        hasher.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return hasher.hexdigest()


def got_back(folder: Path, *command: str) -> Callable[[], str]:
    """Digest of what `command`, run in an empty folder, brings back of `folder`."""

    def look() -> str:
        target = WORK / "got"
        empty(target)
        target.mkdir()
        run(*command, folder=target)
        found = next(path for path in target.rglob(folder.name) if path.is_dir())
        digest = digest_of_folder(found)
        empty(target)
        return digest

    return look


def putters(folder: Path, prepared: bool) -> list[Contestant]:
    """Each tool taking in a folder: into a new store, or (`prepared`) once more into the one that has it."""
    nothing: Callable[[], None] = lambda: None  # noqa: E731
    name = folder.name
    return [
        Contestant(
            "dfs put",
            [own_command("dfs"), "put", str(folder), "/"],
            got_back(folder, own_command("dfs"), "get", name, "."),
            ENVIRONMENT,
            nothing if prepared else fresh_store,
        ),
        Contestant(
            "borg create",
            ["borg", "create", "::{now:%H%M%S%f}", str(folder)],
            got_back(folder, "sh", "-c", "borg extract ::$(borg list --short | tail -1)"),
            ENVIRONMENT,
            nothing if prepared else fresh_borg,
        ),
        Contestant(
            "restic backup",
            ["restic", "backup", "-q", str(folder)],
            got_back(folder, "restic", "restore", "-q", "latest", "--target", "."),
            ENVIRONMENT,
            nothing if prepared else fresh_restic,
        ),
    ]


def getters(folder: Path, synced: bool) -> list[Contestant]:
    """`dfs get` and `cp -r`, each into a folder that is not there; `synced`: until the bytes are on the disk."""
    ours, theirs = WORK / "got-dfs", WORK / "got-cp"
    contestants = []
    for name, command, target in (
        ("dfs get", [own_command("dfs"), "get", folder.name, str(ours)], ours),
        ("cp -r", ["cp", "-r", str(folder), str(theirs)], theirs),
    ):
        contestants.append(
            Contestant(
                f"{name}, sync" if synced else name,
                ["sh", "-c", '"$@" && sync', "sh", *command] if synced else command,
                partial(digest_of_folder, target),
                ENVIRONMENT,
                partial(empty, target),
            )
        )
    return contestants


def texts(size_bytes: int) -> Path:
    """A folder with two text files of `size_bytes` in all."""
    folder = WORK / f"texts-{size_bytes}"
    folder.mkdir(parents=True, exist_ok=True)
    for seed in (1, 2):
        target = folder / f"{seed}.txt"
        if not target.exists():
            os.link(zipf_text(size_bytes // 2, seed=seed), target)
    return folder


def small_files(count: int) -> Path:
    """A folder with up to `count` crawled pages; none is made up."""
    folder = WORK / f"pages-{count}"
    if folder.exists():
        return folder
    unpacked = folder.with_suffix(".unfinished")
    empty(unpacked)
    taken = 0
    for archive in sorted(CRAWL.glob("*.html.tar.zst")):
        import pyarrow as pa

        with (
            pa.CompressedInputStream(pa.OSFile(str(archive)), "zstd") as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            for member in tar:
                if member.isfile() and taken < count:
                    tar.extract(member, unpacked, filter="data")
                    taken += 1
    if not taken:
        raise BenchmarkFailed(f"there are no crawled pages in {CRAWL} (MILLRACE_CRAWL says where)")
    copies = 0
    pages = [path for path in sorted(unpacked.rglob("*")) if path.is_file()]
    while taken < count:  # more of them: each page again with a line of its own, so that no two are equal
        copies += 1
        for page in pages[: count - taken]:
            target = unpacked / f"copy-{copies}" / page.relative_to(unpacked)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"<!-- copy %d of %d bytes -->\n" % (copies, page.stat().st_size) + page.read_bytes())
            taken += 1
    os.replace(unpacked, folder)
    return folder


def inserted(size_bytes: int = 500_000_000) -> int:
    """How many new chunks 1 KB at the front of a large file makes."""
    text = zipf_text(size_bytes, seed=3)
    changed = WORK / "inserted.txt"
    with changed.open("wb") as out, text.open("rb") as source:
        out.write(b"x" * 1023 + b"\n")
        shutil.copyfileobj(source, out, 1 << 22)
    fresh_store()
    run(own_command("dfs"), "put", str(text), "a.txt")
    told = run(own_command("dfs"), "--json", "put", str(changed), "b.txt").splitlines()
    changed.unlink()
    return int(json.loads(told[-1])["new_chunks"])


def main(text_bytes: int = TEXT_BYTES, count: int = SMALL_FILES, rounds: int = 5) -> None:
    """Compare and report. Raises BenchmarkFailed where a peer is missing or fails."""
    lacking = [tool for tool in ("restic", "borg") if shutil.which(tool) is None]
    if lacking:
        raise BenchmarkFailed(f"{' and '.join(lacking)} are not installed (packages restic, borgbackup)")
    WORK.mkdir(exist_ok=True)
    text, pages = texts(text_bytes), small_files(count)
    size = sum(path.stat().st_size for path in pages.rglob("*") if path.is_file())
    kinds: Sequence[tuple[str, Path]] = (
        (f"{text_bytes // 1_000_000} MB in two text files", text),
        (f"{count:,} crawled pages, {size // 1_000_000} MB", pages),
    )
    for what, folder in kinds:
        report(f"put: {what}", compare(putters(folder, prepared=False), rounds))
        report(f"put again, unchanged: {what}", compare(putters(folder, prepared=True), rounds))
        report(f"get: {what}", compare(getters(folder, synced=False), rounds))
        report(f"get, until it is on the disk: {what}", compare(getters(folder, synced=True), rounds))
    write_section("1 KB inserted at the front of 500 MB", f"{inserted()} new chunks\n\n{machine()}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
