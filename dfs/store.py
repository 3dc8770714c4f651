"""Store: the library API of the embedded store. It composes namespace, nodes and operation log; the rules live in those
rooms.

open_store(path=None) -> Store                        # path > DFS_STORE > default; NoStore
store.path, .uuid, .sizes, .replicas, .durability     # a context manager; safe for threads; pickles as its path
store.txn() -> int;  store.at(moment) -> int          # every `at=`: a number, a snapshot's name, a time; None: now
store.stat(path, at=None) -> FileInfo;  store.exists(path, at=None) -> bool               # NotFound
store.find(path, at=None) / .ls(path, at=None) -> list[FileInfo]
store.version(path, at=None) -> int | None
store.versions(path) -> list[PathVersion];  store.diff(a, b, path="") -> Iterator[Difference]
store.snapshots() -> list[Snapshot]                   # TakeSnapshot and DropSnapshot are changes
store.chunks(path, at=None) -> list[ChunkRef];  .chunks_below(path, at=None) -> dict[str, list[ChunkRef]]
store.manifest(path, at=None) -> FileManifest         # to publish a stored file under another path too
store.replicas_of(path, at=None) -> int
store.nodes_of(chunk_id) -> tuple[str, ...];  store.node_paths() -> dict[str, Path]      # node ids, in reading order
store.read_chunk(chunk_id, *, path=None) -> bytes     # verified, failover, heal; ChunkLost
store.read_blocks(chunk_id, block_bytes, *, path=None) -> list[bytes]     # the same in blocks
store.open(path, at=None) -> StoredFile               # a seekable BufferedReader
store.write_file(stream_or_bytes, *, records="auto", name_hint=None, replicas=None) -> FileManifest
store.writer(*, records="auto", name_hint=None, replicas=None) -> FileWriter     # write(block) ... finish()
store.write_files([(name_hint, stream or bytes), ...], *, records="auto", replicas=None) -> Iterator[FileManifest]
store.publish(changes, *, request_id) -> int          # the changes of `dfs.changes`; all or nothing
store.pin(manifests), store.hold(txn)                 # kept from garbage collection until the store is closed
store.counts -> Counter                               # of reads: "damaged", "missing", "failover", "healed"

Care is in rooms of its own: `creation`, `gc`, `scrub`, `repair`, `members`, `checkpoint`, `rebuild`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Literal

from dfs import checkpoint
from dfs.changes import (
    Change,
    ChunkRef,
    DropNode,
    FileManifest,
    PutFile,
    PutFolder,
    SetNode,
    build_manifest,
    changes_to_json,
)
from dfs.chunk_store import ChunkStore
from dfs.chunking import RecordsMode
from dfs.disk import Disk
from dfs.errors import MembersChanged, NodeFailed, NoStore, NotEnoughNodes, StoreDamaged, UsageProblem
from dfs.history import Difference, PathVersion
from dfs.ids import ChunkId
from dfs.metadata import FileInfo, Namespace, Snapshot, StorageNode
from dfs.moments import Moment, time_ms, transaction_number
from dfs.oplog import OpLog
from dfs.options import ChunkSizes
from dfs.paths import normalise
from dfs.pins import Pins
from dfs.placement import PlacementNode
from dfs.reading import StoredFile
from dfs.replication import ReplicatedChunks, log
from dfs.stores.local import LocalChunkStore
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


def open_store(path: str | os.PathLike[str] | None = None) -> Store:
    """Open the store at `path`, else at $DFS_STORE, else at the default under the user's data folder.

    Raises NoStore when none is there, StoreDamaged when its namespace is damaged or not the newest its nodes have seen.
    """
    root = Path(path) if path is not None else default_path()
    try:
        return Store(root)
    except (StoreDamaged, NoStore) as error:
        if isinstance(error, NoStore) and not (root / "checkpoint.lock").exists():
            raise  # there never was one
        raise type(error)(f"{error}; `dfs rebuild` restores it from its nodes") from error


class Store:
    """An open store. Several processes may have it open; one commits at a time, readers see whole transactions only."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))
        self.namespace = Namespace(self.path / DATABASE)
        settings = self.namespace.settings()
        self.uuid: str = settings["uuid"]
        self.durability: str = settings["durability"]
        self.sizes = ChunkSizes(settings["min"], settings["avg"], settings["max"])
        self.disk = Disk(sync=self.durability == "fsync")
        self.pins = Pins(self.path / "pins")
        self._held: set[int] = set()
        self._opened: dict[tuple[str, Path, int | None], LocalChunkStore] = {}
        self._attaching = threading.Lock()
        self.replicated = ReplicatedChunks((), {}, 1, refresh=self.reload)
        self._pool = WritePool(self.replicated, self.pins)
        self._attach(self.namespace.nodes())
        self.committer.recover()
        checkpoint.sweep(self.path)
        if self.committer.behind():  # what their logs lack is on no other node any more
            checkpoint.write_now(self)

    def _attach(self, members: Sequence[StorageNode]) -> None:
        """Take up these nodes as the store's. Nothing that is under way is disturbed."""
        paths = {node.id: self.path / node.path for node in members}
        nodes, absent = self._open_nodes(members, paths)
        if not nodes:
            self.close()
            raise NotEnoughNodes(f"no node of the store {self.path} can be used: {'; '.join(absent.values())}")
        self.replicas: int = self.namespace.default_replicas()
        active = sum(node.state == "active" for node in members)
        placed = [PlacementNode(node.id, node.weight, node.state == "draining") for node in members]
        self.replicated.take(placed, nodes, self.replicas)
        self._members, self._node_paths = members, paths
        self.absent: dict[str, str] = absent  # node id -> why it cannot be used
        self._logs = [OpLog(paths[node], self.disk) for node in nodes]
        self.committer = self._committer_of(active)

    def _open_nodes(
        self, members: Sequence[StorageNode], paths: Mapping[str, Path]
    ) -> tuple[dict[str, ChunkStore], dict[str, str]]:
        nodes: dict[str, ChunkStore] = {}
        absent: dict[str, str] = {}
        for node in members:
            key = (node.id, paths[node.id], node.capacity)
            try:
                if key not in self._opened:
                    self._opened[key] = LocalChunkStore(paths[node.id], node.id, self.disk, node.capacity)
                nodes[node.id] = self._opened[key]
            except (NodeFailed, OSError) as error:
                log.warning("node %s is absent: %s", node.id, error)
                absent[node.id] = str(error)
        return nodes, absent

    def _committer_of(self, active: int) -> Committer:
        """One whose records need as many logs as there are replicas, of `active` nodes."""
        copies = min(self.replicas, max(1, active))
        return Committer(self.namespace, self._logs, copies, self.uuid, self._members)

    def reload(self) -> bool:
        """Take up nodes that were added, drained or removed meanwhile, by anybody; returns whether there were any."""
        members = self.namespace.nodes()
        with self._attaching:
            if members == self._members:
                return False
            self._attach(members)
            return True

    def close(self) -> None:
        """Release files, threads and pins. Idempotent."""
        self._pool.close()
        self.replicated.close()
        for node in self._opened.values():
            node.close()
        self.pins.close()
        self.namespace.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        return open_store, (str(self.path),)

    @property
    def counts(self) -> Counter[str]:
        """Of reads: "damaged", "missing", "failover", "healed" (`ReplicatedChunks`)."""
        return self.replicated.counts

    # -- the namespace -----------------------------------------------------------------------------

    def txn(self) -> int:
        """Number of the newest transaction; 0 for a new store."""
        return self.namespace.last()[0]

    def at(self, moment: Moment | None) -> int:
        """The transaction that a moment names: a number, a snapshot's name, a time (ISO text or datetime; the newest
        transaction until then), None for now. Raises NotFound when it is no longer kept, UsageProblem when it never
        was."""
        if moment is None:
            return self.txn()
        number = transaction_number(moment)
        if number is None:
            named = {snapshot.name: snapshot.txn for snapshot in self.namespace.snapshots()}
            number = named.get(str(moment))
        if number is None:
            number = self.namespace.txn_at_time(time_ms(moment))
        return number if number in self._held else self.namespace.check_kept(number)

    def stat(self, path: str, at: Moment | None = None) -> FileInfo:
        """What is at `path`, now or after transaction `at`. Raises NotFound, InvalidPath."""
        return self.namespace.stat(normalise(path), self.at(at))

    def exists(self, path: str, at: Moment | None = None) -> bool:
        """Whether a file or folder is at `path`. Raises InvalidPath."""
        return self.namespace.resolve(normalise(path), self.at(at)) is not None

    def find(self, path: str, at: Moment | None = None) -> list[FileInfo]:
        """Every file at or below `path`, in bytewise order of paths. Raises NotFound."""
        return self.namespace.find(normalise(path), self.at(at))

    def ls(self, path: str, at: Moment | None = None) -> list[FileInfo]:
        """The entries of a folder by name; of a file, itself. Raises NotFound."""
        return self.namespace.ls(normalise(path), self.at(at))

    def version(self, path: str, at: Moment | None = None) -> int | None:
        """Transaction since which `path` holds what it holds (a folder: the newest change below); None for nothing."""
        return self.namespace.version(normalise(path), self.at(at))

    def time_ms(self, txn: int) -> int:
        """When a transaction was committed, in ms since the epoch by its writer's clock; 0 for the empty store."""
        return self.namespace.time_ms(txn)

    def chunks(self, path: str, at: Moment | None = None) -> list[ChunkRef]:
        """The chunks of a file, in order. Raises NotFound, WrongKind for a folder."""
        return self.namespace.chunks(normalise(path), self.at(at))

    def chunks_below(self, path: str, at: Moment | None = None) -> dict[str, list[ChunkRef]]:
        """The chunks of every file at or below `path` that has any, by its path. Raises NotFound."""
        return self.namespace.chunks_below(normalise(path), self.at(at))

    def manifest(self, path: str, at: Moment | None = None) -> FileManifest:
        """The manifest of a stored file, to publish it under another path too. Raises NotFound, WrongKind."""
        info, refs = self.stat(path, at), self.chunks(path, at)
        mode: RecordsMode = "lines" if info.records_mode == "lines" else "none"
        return build_manifest([(ref.id, ref.length, ref.records, ref.continues) for ref in refs], mode, 0)

    def versions(self, path: str) -> list[PathVersion]:
        """What `path` held over the time that is kept, newest first. Raises NotFound when it never was."""
        return self.namespace.versions(normalise(path))

    def diff(self, a: Moment | None, b: Moment | None = None, path: str = "") -> Iterator[Difference]:
        """What differs at or below `path` between two moments; the cost follows the differences."""
        return self.namespace.diff(self.at(a), self.at(b), normalise(path))

    def snapshots(self) -> list[Snapshot]:
        """Names of transactions, by name."""
        return self.namespace.snapshots()

    def replicas_of(self, path: str, at: Moment | None = None) -> int:
        """Copies of a file at `path`: its own number, the nearest folder's, or the store's. It need not exist."""
        name, txn = normalise(path), self.at(at)
        while name and self.namespace.resolve(name, txn) is None:
            name = name.rpartition("/")[0]
        return self.namespace.replicas_of(name, txn) or self.replicas

    @property
    def safe_mode(self) -> str | None:
        """Why nothing may be collected or dropped until `fsck` has run; None when it may."""
        reason: str | None = self.namespace.settings().get("safe_mode")
        return reason

    def check_namespace(self) -> list[str]:
        """Faults of the namespace's database; empty when it is whole."""
        return self.namespace.check()

    # -- changing it -------------------------------------------------------------------------------

    def publish(self, changes: Sequence[Change], *, request_id: str) -> int:
        """Make all changes in one transaction and return its number; on an error nothing has changed.

        The same `request_id` with the same changes again returns the same number without doing anything. Raises
        Conflict (a version is not the expected one), AlreadyExists, NotFound, WrongKind, UsageProblem (a manifest of
        chunks that the store does not hold), StoreLocked.
        """
        if not request_id or not request_id.isprintable():
            raise UsageProblem(f"request id {request_id!r}: a printable text is needed")
        values = changes_to_json(changes)
        now_ms = time.time_ns() // 1_000_000
        txn = None
        with self.pins.writing():  # nothing is collected between the look and the commit
            while txn is None:
                self.reload()
                if self.namespace.txn_of(request_id) is None:
                    self._require(changes)
                with contextlib.suppress(MembersChanged):
                    txn = self._committer_for(changes).commit(values, request_id, now_ms)
            self.reload()
        checkpoint.write_if_due(self)
        return txn

    def _committer_for(self, changes: Sequence[Change]) -> Committer:
        """The log needs as many nodes as there are replicas; fewer, when these changes leave fewer (a lost node's
        removal must not wait for that node)."""
        left = {node.id for node in self._members if node.state == "active"}
        for change in changes:
            if isinstance(change, DropNode) or (isinstance(change, SetNode) and change.state != "active"):
                left.discard(change.id)
        return self._committer_of(len(left))

    def _require(self, changes: Sequence[Change]) -> None:
        """All chunks of what is published must be here."""
        wanted = {ref.id for manifest in _manifests(changes) for ref in manifest.chunks}
        lacking = wanted - self.replicated.held(wanted)
        if lacking:
            raise UsageProblem(
                f"{len(lacking)} chunks of a manifest are not in this store, the first is {min(lacking)}; store the "
                "file again (chunks that nothing pins are collected)"
            )

    def pin(self, manifests: Iterable[FileManifest]) -> bool:
        """Keep the chunks of these from garbage collection until the store is closed, also if whoever stored them ends.
        Returns whether all of them are here."""
        wanted = {ref.id for manifest in manifests for ref in manifest.chunks}
        with self.pins.writing():
            self.pins.add(wanted)
            return self.replicated.held(wanted) == wanted

    def hold(self, moment: Moment | None) -> int:
        """Keep a moment readable, whatever is removed, until the store is closed; its number. Raises as `at`."""
        with self.pins.writing():
            txn = self.at(moment)
            self._held.add(txn)
            self.pins.hold(txn)
        return txn

    # -- bytes -------------------------------------------------------------------------------------

    def nodes_of(self, chunk_id: str) -> tuple[str, ...]:
        """Ids of the nodes that hold a chunk, the one that is read first before the others."""
        return self.replicated.holders(ChunkId.parse(chunk_id))

    def node_paths(self) -> dict[str, Path]:
        """Folder of every node, by node id."""
        return dict(self._node_paths)

    def read_chunk(self, chunk_id: str, *, path: str | None = None) -> bytes:
        """A chunk's verified bytes, from the first good copy; bad ones are healed. Raises ChunkLost, InvalidChunkId."""
        return self.replicated.get(ChunkId.parse(chunk_id), path)

    def read_blocks(self, chunk_id: str, block_bytes: int, *, path: str | None = None) -> list[bytes]:
        """The same in blocks of `block_bytes`, the last one shorter: no raw chunk is copied once it is read."""
        return self.replicated.get_blocks(ChunkId.parse(chunk_id), block_bytes, path)

    def open(self, path: str, at: Moment | None = None) -> StoredFile:
        """A seekable binary file that holds one chunk at a time. Raises NotFound, WrongKind; when read, ChunkLost."""
        name = normalise(path)
        return StoredFile(self.replicated, name, self.chunks(name, at))

    def writer(
        self, *, records: Records = "auto", name_hint: str | None = None, replicas: int | None = None
    ) -> FileWriter:
        """A file to push blocks into: `write(block)`, then `finish()` for its manifest."""
        return FileWriter(self._pool, self.sizes, records, name_hint, replicas)

    def write_file(
        self,
        source: IO[bytes] | bytes | bytearray | memoryview,
        *,
        records: Records = "auto",
        name_hint: str | None = None,
        replicas: int | None = None,
    ) -> FileManifest:
        """Store a file's chunks durably, invisible until `publish`. Memory is bounded whatever its size.

        `records`: "lines" cuts at line ends and counts lines, "none" does neither, "auto" decides by the first 64 KiB
        and `name_hint`. `replicas`: how many copies (default: the store's). Raises NotEnoughNodes.
        """
        with self.writer(records=records, name_hint=name_hint, replicas=replicas) as writer:
            writer.write_from(source)
            return writer.finish()

    def write_files(
        self,
        sources: Iterable[tuple[str, IO[bytes] | bytes]],
        *,
        records: Records = "auto",
        replicas: int | None = None,
    ) -> Iterator[FileManifest]:
        """Like `write_file` for each (name_hint, source), in order; small ones are made durable together: faster."""
        return write_batched(self._pool, self.sizes, sources, records, replicas)


def _manifests(changes: Sequence[Change]) -> Iterator[FileManifest]:
    for change in changes:
        if isinstance(change, PutFile):
            yield change.manifest
        elif isinstance(change, PutFolder):
            yield from change.files.values()
