"""`dfs init`: a store comes into being whole, or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from dfs import checkpoint
from dfs.disk import Disk
from dfs.errors import AlreadyExists, DfsError, UsageProblem
from dfs.metadata import Namespace
from dfs.options import CHUNK_BYTES_AVG, ChunkSizes
from dfs.store import DATABASE, Store
from dfs.stores.node import create_node

Durability = Literal["fsync", "none"]


def init_store(
    path: str | os.PathLike[str],
    *,
    nodes: Sequence[str | os.PathLike[str]] = (),
    replicas: int | None = None,
    chunk_bytes_avg: int | None = None,
    durability: Durability = "fsync",
    retention_days: int | None = None,
) -> Store:
    """Make a store at `path` and open it. Without `nodes` it has one node, inside `path`.

    `replicas`: copies of each chunk; by default 3, or as many as there are nodes (nodes can be added later).
    `chunk_bytes_avg` (bytes): by default 16 MiB; min and max are a quarter and four times of it; fixed. `durability`:
    "none" leaves out every fsync, for a store that may be lost with the machine's power; fixed. `retention_days`: how
    long what was replaced or removed can still be read; by default 7, 0 for not at all, -1 for ever.

    Raises AlreadyExists when a store or a node is there, UsageProblem for numbers that cannot be.

    >>> import tempfile
    >>> from dfs import PutFile
    >>> with tempfile.TemporaryDirectory() as folder, init_store(folder + "/s") as store:
    ...     _ = store.publish([PutFile("a.txt", store.write_file(b"one\\ntwo\\n"))], request_id="1")
    ...     store.stat("a.txt").records, store.open("a.txt").read()
    (2, b'one\\ntwo\\n')
    """
    root = Path(os.path.abspath(path))
    if (root / DATABASE).exists():
        raise AlreadyExists(f"{root} is a store already")
    folders = [Path(os.path.abspath(node)) for node in nodes] or [root / "node-1"]
    if len(set(folders)) != len(folders):
        raise UsageProblem("a node folder is given twice")
    if replicas is not None and not 1 <= replicas <= len(folders):
        raise UsageProblem(f"{replicas} replicas need as many nodes; {len(folders)} are given")
    if durability not in ("fsync", "none"):
        raise UsageProblem(f"durability {durability!r}: fsync or none")
    if retention_days is not None and retention_days < 0 and retention_days != -1:
        raise UsageProblem(f"retention of {retention_days} days: 0 or more, or -1 for ever")
    sizes = ChunkSizes.of_average(chunk_bytes_avg or CHUNK_BYTES_AVG)
    for folder in folders:  # before anything is made
        if (folder / "node.json").exists():
            raise AlreadyExists(f"{folder} is a node of a store already; choose another folder")
    settings: dict[str, Any] = {"uuid": str(uuid.uuid4()), "min": sizes.min, "avg": sizes.avg, "max": sizes.max}
    settings["durability"] = durability
    chosen = {"replicas": replicas, "retention_days": retention_days}
    settings |= {name: value for name, value in chosen.items() if value is not None}
    _make(root, folders, settings, Disk(sync=durability == "fsync"))
    store = Store(root)
    checkpoint.write(store)
    return store


def _make(root: Path, folders: Sequence[Path], settings: dict[str, Any], disk: Disk) -> None:
    """The nodes, then the database, which makes it a store."""
    made: list[tuple[str, str]] = []
    try:
        disk.make_folders(root)
        for folder in folders:
            made.append((create_node(folder, settings["uuid"], disk), relative(folder, root)))  # noqa: PERF401 - known after an error
        Namespace.create(root / DATABASE, settings, made)
        disk.sync_folder(root)
    except (DfsError, OSError) as error:
        for _, where in made:  # they are no nodes of any store; a second try may take them
            (root / where / "node.json").unlink(missing_ok=True)
        if isinstance(error, DfsError):
            raise
        raise DfsError(f"a store cannot be made at {root}: {error}") from error


def relative(folder: Path, root: Path) -> str:
    """A node's folder as the namespace keeps it: relative inside the store, so that the store can be moved."""
    return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)
