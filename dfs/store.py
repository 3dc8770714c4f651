"""Store: the library API of the embedded store. It composes namespace, nodes and operation log; the rules live in those
rooms.

init_store(path, *, nodes=(), replicas=None, chunk_bytes_avg=None) -> Store
open_store(path=None) -> Store                        # path > DFS_STORE > default; NoStore
store.path, .uuid, .sizes, .replicas, .close()        # a context manager; safe for threads; pickles as its path
store.txn() -> int
store.stat(path, at=None) -> FileInfo                 # NotFound
store.exists(path, at=None) -> bool
store.find(path, at=None) / .ls(path, at=None) -> list[FileInfo]
store.version(path, at=None) -> int | None
store.chunks(path, at=None) -> list[ChunkRef]
store.manifest(path, at=None) -> FileManifest         # to publish a stored file under another path too
store.nodes_of(chunk_id) -> tuple[str, ...]           # node ids, in reading order
store.node_paths() -> dict[str, Path]
store.read_chunk(chunk_id, *, path=None) -> bytes     # verified, failover, heal; ChunkLost
store.open(path, at=None) -> StoredFile           # a seekable BufferedReader
store.write_file(stream_or_bytes, *, records="auto", name_hint=None) -> FileManifest
store.writer(*, records="auto", name_hint=None) -> FileWriter     # write(block) ... finish() -> FileManifest
store.write_files([(name_hint, stream or bytes), ...], *, records="auto") -> Iterator[FileManifest]   # fast for many
store.publish(changes, *, request_id) -> int          # PutFile, PutFolder, Remove, Move, MakeDir; all or nothing
store.counts -> Counter                               # of reads: "damaged", "missing", "failover", "healed"
"""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Literal

from dfs.changes import Change, ChunkRef, FileManifest, PutFile, PutFolder, build_manifest, changes_to_json
from dfs.chunk_store import ChunkStore
from dfs.chunking import RecordsMode
from dfs.errors import AlreadyExists, DfsError, NodeFailed, NoStore, NotEnoughNodes, UsageProblem
from dfs.ids import ChunkId
from dfs.metadata import FileInfo, Namespace
from dfs.oplog import OpLog, sync_folder
from dfs.options import CHUNK_BYTES_AVG, REPLICAS, ChunkSizes
from dfs.paths import normalise
from dfs.placement import PlacementNode
from dfs.reading import StoredFile
from dfs.replication import ReplicatedChunks, log
from dfs.stores.local import LocalChunkStore
from dfs.stores.node import create_node
from dfs.transactions import Committer
from dfs.writing import FileWriter, WritePool, write_batched

Records = Literal["auto", "lines", "none"]
DATABASE = "store.db"


def default_path() -> Path:
    """$DFS_STORE, else millrace/store under $XDG_DATA_HOME or ~/.local/share."""
    chosen = os.environ.get("DFS_STORE")
    if chosen:
        return Path(chosen)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "millrace" / "store"


def init_store(
    path: str | os.PathLike[str],
    *,
    nodes: Sequence[str | os.PathLike[str]] = (),
    replicas: int | None = None,
    chunk_bytes_avg: int | None = None,
) -> Store:
    """Make a store at `path` and open it. Without `nodes` it has one node, inside `path`.

    `replicas` defaults to min(3, nodes); `chunk_bytes_avg` (bytes) to 16 MiB, min and max are a quarter and four times
    of it. All three are fixed. Raises AlreadyExists when a store or a node is there, UsageProblem for numbers that
    cannot be.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, init_store(folder + "/s") as store:
    ...     _ = store.publish([PutFile("a.txt", store.write_file(b"one\\ntwo\\n"))], request_id="1")
    ...     store.stat("a.txt").records, store.open("a.txt").read()
    (2, b'one\\ntwo\\n')
    """
    root = Path(path)
    if (root / DATABASE).exists():
        raise AlreadyExists(f"{root} is a store already")
    folders = [Path(os.path.abspath(node)) for node in nodes] or [Path(os.path.abspath(root)) / "node-1"]
    if len(set(folders)) != len(folders):
        raise UsageProblem("a node folder is given twice")
    copies = min(REPLICAS, len(folders)) if replicas is None else replicas
    if not 1 <= copies <= len(folders):
        raise UsageProblem(f"{copies} replicas need as many nodes; {len(folders)} are given")
    sizes = ChunkSizes.of_average(chunk_bytes_avg or CHUNK_BYTES_AVG)
    for folder in folders:  # before anything is made
        if (folder / "node.json").exists():
            raise AlreadyExists(f"{folder} is a node of a store already; choose another folder")
    store_uuid = str(uuid.uuid4())
    made: list[tuple[str, str]] = []
    try:
        root.mkdir(parents=True, exist_ok=True)
        for folder in folders:
            made.append((create_node(folder, store_uuid), _relative(folder, root)))  # noqa: PERF401 - known after an error
        settings = {"uuid": store_uuid, "replicas": copies, "min": sizes.min, "avg": sizes.avg, "max": sizes.max}
        Namespace.create(root / DATABASE, settings, made)
        sync_folder(root)
    except (DfsError, OSError) as error:
        for _, where in made:  # they are no nodes of any store; a second try may take them
            (root / where / "node.json").unlink(missing_ok=True)
        if isinstance(error, DfsError):
            raise
        raise DfsError(f"a store cannot be made at {root}: {error}") from error
    return Store(root)


def open_store(path: str | os.PathLike[str] | None = None) -> Store:
    """Open the store at `path`, else at $DFS_STORE, else at the default under the user's data folder.

    Raises NoStore when none is there, StoreDamaged when its namespace is damaged or not the newest its nodes have seen.
    """
    return Store(Path(path) if path is not None else default_path())


class Store:
    """An open store. Several processes may have it open; one commits at a time, readers see whole transactions only."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))
        self._namespace = Namespace(self.path / DATABASE)
        settings = self._namespace.settings()
        self.uuid: str = settings["uuid"]
        self.replicas: int = settings["replicas"]
        self.sizes = ChunkSizes(settings["min"], settings["avg"], settings["max"])
        rows = self._namespace.nodes()
        self._node_paths = {node: self.path / where for node, where, _ in rows}
        self.absent: dict[str, str] = {}  # node id -> why it cannot be used
        self.replicated = ReplicatedChunks(
            [PlacementNode(node, weight) for node, _, weight in rows], self._open_nodes(), self.replicas
        )
        if not self.replicated.nodes:
            self.close()
            raise NotEnoughNodes(f"no node of the store {self.path} can be used: {'; '.join(self.absent.values())}")
        logs = [OpLog(self._node_paths[node]) for node in self.replicated.nodes]
        self._committer = Committer(self._namespace, logs, self.replicas, self.uuid)
        self._committer.recover()
        self._pool = WritePool(self.replicated)

    def _open_nodes(self) -> dict[str, ChunkStore]:
        nodes: dict[str, ChunkStore] = {}
        for node, where in self._node_paths.items():
            try:
                nodes[node] = LocalChunkStore(where, node)
            except (NodeFailed, OSError) as error:
                log.warning("node %s is absent: %s", node, error)
                self.absent[node] = str(error)
        return nodes

    def close(self) -> None:
        """Release files and threads. Idempotent."""
        if hasattr(self, "_pool"):
            self._pool.close()
        for node in self.replicated.nodes.values():
            node.close()
        self._namespace.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        return open_store, (str(self.path),)

    @property
    def counts(self) -> Counter[str]:
        """How many copies were met "damaged" or "missing", reads that went to another node ("failover"), and copies
        "healed"."""
        return self.replicated.counts

    # -- the namespace -----------------------------------------------------------------------------

    def txn(self) -> int:
        """Number of the newest transaction; 0 for a new store."""
        return self._namespace.last()[0]

    def _at(self, at: int | None) -> int:
        newest = self.txn()
        if at is not None and not 0 <= at <= newest:
            raise UsageProblem(f"there is no transaction {at}; the newest is {newest}")
        return newest if at is None else at

    def stat(self, path: str, at: int | None = None) -> FileInfo:
        """What is at `path`, now or after transaction `at`. Raises NotFound, InvalidPath."""
        return self._namespace.stat(normalise(path), self._at(at))

    def exists(self, path: str, at: int | None = None) -> bool:
        """Whether a file or folder is at `path`. Raises InvalidPath."""
        return self._namespace.resolve(normalise(path), self._at(at)) is not None

    def find(self, path: str, at: int | None = None) -> list[FileInfo]:
        """Every file at or below `path`, in bytewise order of paths. Raises NotFound."""
        return self._namespace.find(normalise(path), self._at(at))

    def ls(self, path: str, at: int | None = None) -> list[FileInfo]:
        """The entries of a folder by name; of a file, itself. Raises NotFound."""
        return self._namespace.ls(normalise(path), self._at(at))

    def version(self, path: str, at: int | None = None) -> int | None:
        """Transaction since which `path` holds what it holds (a folder: newest change at or below); None when nothing
        is there."""
        return self._namespace.version(normalise(path), self._at(at))

    def time_ms(self, txn: int) -> int:
        """When a transaction was committed, in ms since the epoch by its writer's clock; 0 for the empty store."""
        return self._namespace.time_ms(txn)

    def chunks(self, path: str, at: int | None = None) -> list[ChunkRef]:
        """The chunks of a file, in order. Raises NotFound, WrongKind for a folder."""
        return self._namespace.chunks(normalise(path), self._at(at))

    def manifest(self, path: str, at: int | None = None) -> FileManifest:
        """The manifest of a stored file, to publish it under another path too. Raises NotFound, WrongKind."""
        info, refs = self.stat(path, at), self.chunks(path, at)
        mode: RecordsMode = "lines" if info.records_mode == "lines" else "none"
        return build_manifest([(ref.id, ref.length, ref.records, ref.continues) for ref in refs], mode, 0)

    def files_of(self, chunk_id: ChunkId) -> list[str]:
        """Paths of the files that a chunk belongs to."""
        return self._namespace.files_of(chunk_id, self.txn())

    def referenced(self) -> dict[ChunkId, int]:
        """Every chunk that some retained version of a file needs -> its length in bytes."""
        return self._namespace.referenced()

    def check_namespace(self) -> list[str]:
        """Faults of the namespace's database; empty when it is whole."""
        return self._namespace.check()

    def publish(self, changes: Sequence[Change], *, request_id: str) -> int:
        """Make all changes in one transaction and return its number; on an error nothing has changed.

        The same `request_id` with the same changes again returns the same number without doing anything. Raises
        Conflict (a version is not the expected one), AlreadyExists, NotFound, WrongKind, UsageProblem (a manifest of
        chunks that the store does not hold), StoreLocked.
        """
        if not request_id or not request_id.isprintable():
            raise UsageProblem(f"request id {request_id!r}: a printable text is needed")
        values = changes_to_json(changes)
        wanted = {ref.id for manifest in _manifests(changes) for ref in manifest.chunks}
        lacking = wanted - self.replicated.held(wanted)
        if lacking:
            raise UsageProblem(
                f"{len(lacking)} chunks of a manifest are not in this store, the first is {min(lacking)}"
            )
        return self._committer.commit(values, request_id, time.time_ns() // 1_000_000)

    # -- bytes -------------------------------------------------------------------------------------

    def nodes_of(self, chunk_id: str) -> tuple[str, ...]:
        """Ids of the nodes that hold a chunk, the one that is read first before the others."""
        return self.replicated.holders(ChunkId.parse(chunk_id))

    def node_paths(self) -> dict[str, Path]:
        """Folder of every node, by node id."""
        return dict(self._node_paths)

    def read_chunk(self, chunk_id: str, *, path: str | None = None) -> bytes:
        """A chunk's bytes, verified; from the first node that has a good copy, healing the others. Raises ChunkLost,
        InvalidChunkId.

        `path` is for the message of the error only.
        """
        return self.replicated.get(ChunkId.parse(chunk_id), path)

    def open(self, path: str, at: int | None = None) -> StoredFile:
        """A seekable binary file that holds one chunk at a time. Raises NotFound, WrongKind; reading raises
        ChunkLost."""
        name = normalise(path)
        return StoredFile(self.replicated, name, self.chunks(name, at))

    def writer(self, *, records: Records = "auto", name_hint: str | None = None) -> FileWriter:
        """A file to push blocks into: `write(block)`, then `finish()` for its manifest."""
        return FileWriter(self._pool, self.sizes, records, name_hint)

    def write_file(
        self,
        source: IO[bytes] | bytes | bytearray | memoryview,
        *,
        records: Records = "auto",
        name_hint: str | None = None,
    ) -> FileManifest:
        """Store a file's chunks durably, invisible until `publish`. Memory is bounded whatever its size.

        `records`: "lines" cuts at line ends and counts lines, "none" does neither, "auto" decides by the first 64 KiB
        and `name_hint`. Raises NotEnoughNodes when too few nodes can be written to.
        """
        with self.writer(records=records, name_hint=name_hint) as writer:
            writer.write_from(source)
            return writer.finish()

    def write_files(
        self, sources: Iterable[tuple[str, IO[bytes] | bytes]], *, records: Records = "auto"
    ) -> Iterator[FileManifest]:
        """Like `write_file` for each (name_hint, source), in order; the small ones are made durable together, which is
        much faster."""
        return write_batched(self._pool, self.sizes, sources, records)


def _manifests(changes: Sequence[Change]) -> Iterator[FileManifest]:
    for change in changes:
        if isinstance(change, PutFile):
            yield change.manifest
        elif isinstance(change, PutFolder):
            yield from change.files.values()


def _relative(folder: Path, root: Path) -> str:
    base = Path(os.path.abspath(root))
    return str(folder.relative_to(base)) if folder.is_relative_to(base) else str(folder)


__all__ = ["ChunkRef", "FileInfo", "FileManifest", "NoStore", "Store", "default_path", "init_store", "open_store"]
