"""`dfs rebuild`: the namespace restored from the nodes alone, when `store.db` is lost or damaged
(docs/formats/checkpoint.md).

What to restore is decided in `dfs.chains`. Nothing of the old database is overwritten.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct, field

from dfs import checkpoint, checkpoint_file
from dfs.chains import Base, Choice, Link, choose, enough
from dfs.changes import SetNode, changes_to_json
from dfs.checkpoint_file import Checkpoint
from dfs.disk import Disk
from dfs.errors import DfsError, NodeFailed, NoStore, NotEnoughNodes, StoreDamaged, StoreLocked, UsageProblem
from dfs.failpoints import failpoint
from dfs.metadata import Namespace, StorageNode
from dfs.oplog import MAGIC, Logged, OpLog, parse_segment
from dfs.options import REPLICAS
from dfs.pins import collecting
from dfs.store import DATABASE, open_store
from dfs.stores.node import read_identity
from dfs.transactions import Committer, apply_logged

log = logging.getLogger("dfs")

UNFINISHED = "being rebuilt"


class Rebuilt(Struct, frozen=True):
    """What `rebuild` made: the transaction the namespace is at, the checkpoint it began with, how many records of the
    log it applied, the nodes read and missing (folders), and what a person should know (`told`)."""

    txn: int
    from_checkpoint: int
    replayed: int
    nodes_read: tuple[str, ...]
    nodes_missing: tuple[str, ...]
    told: tuple[str, ...] = ()


def rebuild(path: str | os.PathLike[str], nodes: Sequence[str | os.PathLike[str]] = (), force: bool = False) -> Rebuilt:
    """Restore `store.db` of the store at `path` from its nodes; `nodes` are folders of some of them, needed when they
    lie outside the store and the old database cannot tell. The store is in safe mode then, until `fsck`.

    Raises UsageProblem for a healthy store and for a node of another one, NotEnoughNodes when acknowledged changes may
    lie on nodes that were not read, StoreDamaged when the nodes do not hold enough. `force` goes on in all of these
    cases but for foreign nodes and without a checkpoint. Raises StoreLocked while another rebuild or writer is at it.
    """
    root = Path(os.path.abspath(path))
    given = [Path(os.path.abspath(node)) for node in nodes]
    if not given and not root.is_dir():
        raise NoStore(f"there is no {root}; give a folder of one of its nodes (--node)")
    disk = Disk()
    disk.make_folders(root)
    with _alone(root):
        if not force:
            _refuse_healthy(root)
        with collecting(root / "pins"):
            found = _Found.of_nodes(root, given, disk)
            draft = found.restore()
            if not force:
                draft.refuse_doubts()
            failpoint("rebuild.ready")
            _swap(root, disk)
        failpoint("rebuild.renamed")
        return draft.finish()


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    with open(root / "rebuild.lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreLocked(f"{root} is being rebuilt by another process") from None
        yield


def _refuse_healthy(root: Path) -> None:
    try:
        with open_store(root) as store:
            healthy = store.safe_mode != UNFINISHED and not store.check_namespace()
    except (StoreDamaged, NoStore):
        return
    if healthy:
        raise UsageProblem(f"{root} is healthy: nothing to rebuild (`--force` forgets what its nodes do not know)")


class _Node(Struct, frozen=True):
    """What was read of one node: `links` (chain -> txn, chain of the record before, segment)."""

    id: str
    folder: Path
    checkpoints: tuple[tuple[Checkpoint, Path], ...]
    links: Mapping[str, tuple[int, str, Path]]

    @classmethod
    def read(cls, folder: Path, store: str | None) -> tuple[_Node, str]:
        """The node and the uuid of its store. Raises NodeFailed, Unsupported."""
        identity = read_identity(folder)
        if store is not None and identity["store"] != store:
            raise UsageProblem(f"{folder} is a node of store {identity['store']}, not of {store}; leave it out")
        links: dict[str, tuple[int, str, Path]] = {}
        whole = []
        try:
            for segment in sorted((folder / "oplog").glob("*.log")):
                links.update((r.chain, (r.txn, r.prev, segment)) for r in _records(segment))
            for number, file in checkpoint_file.listed(folder):
                with contextlib.suppress(StoreDamaged):
                    header = checkpoint_file.read_header(file)
                    if header.txn == number and header.store == identity["store"]:
                        whole.append((header, file))
        except OSError as error:
            raise NodeFailed(f"node {folder} cannot be read: {error}") from error
        return cls(str(identity["uuid"]), folder, tuple(whole), links), str(identity["store"])


def _records(segment: Path) -> list[Logged]:
    """Every valid record of a segment, also after a damaged one."""
    data, at, found = segment.read_bytes(), 0, []
    while 0 <= at < len(data):
        records, length = parse_segment(data[at:])
        found += [r for r in records if r.body.endswith(b'"txn":%d}' % r.txn)]  # the header's number has no check
        at = at + length if records else data.find(MAGIC, at + 1)
    return found


class _Found(Struct):
    """The nodes that were read, by id, and why others could not be (folder -> reason)."""

    root: Path
    disk: Disk
    store: str | None = None
    nodes: dict[str, _Node] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    @classmethod
    def of_nodes(cls, root: Path, given: Sequence[Path], disk: Disk) -> _Found:
        """Read the given nodes, those inside the store's folder, and those that the old database knows."""
        found = cls(root, disk)
        for folder in given:
            found.add(folder)
            if folder in found.failed:
                raise NodeFailed(found.failed[folder])
        for file in sorted(root.glob("*/node.json")):
            found.add(file.parent)
        try:
            with contextlib.closing(Namespace(root / DATABASE)) as old:
                paths = [root / node.path for node in old.nodes()]
        except DfsError:
            paths = []
        for folder in paths:
            found.add(folder, learnt=True)
        if not found.nodes:
            raise NoStore(f"{root}: no node of it was found; give the folder of one (--node)")
        return found

    def add(self, folder: Path, learnt: bool = False) -> bool:
        """Read one more node; whether it was new. Raises UsageProblem for a node of another store, but for one that is
        in the place that a namespace told (`learnt`): our node is missing then."""
        if folder in self.failed or any(node.folder == folder for node in self.nodes.values()):
            return False
        try:
            node, self.store = _Node.read(folder, self.store)
        except (NodeFailed, UsageProblem) as error:
            if isinstance(error, UsageProblem) and not learnt:
                raise
            self.failed[folder] = str(error)
            return False
        self.nodes[node.id] = node
        return True

    def restore(self) -> _Draft:
        """Make `store.db.new`, again with the nodes that it names until no more are found."""
        while True:
            draft = self._restore()
            unread = [node for node in draft.members if node.id not in self.nodes]
            more = [self.add(self.root / node.path, learnt=True) for node in unread]
            if not any(more):
                return draft

    def _restore(self) -> _Draft:
        files: dict[Base, list[tuple[Checkpoint, Path]]] = {}
        for node in self.nodes.values():
            for header, file in node.checkpoints:
                files.setdefault(Base(header.txn, header.chain), []).append((header, file))
        links = _links(self.nodes.values())
        while (choice := choose(files, links)) is not None:
            for _, file in files.pop(choice.base):
                try:
                    return self._apply(file, choice)
                except (StoreDamaged, OSError) as error:
                    self._tell(f"passed over: {error}")
        raise StoreDamaged(
            f"{self.root} cannot be rebuilt: no whole checkpoint is on {self._names()}; give more nodes (--node)"
        )

    def _apply(self, file: Path, choice: Choice) -> _Draft:
        new = self.root / f"{DATABASE}.new"
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{new}{suffix}").unlink(missing_ok=True)
        header = checkpoint_file.restore(file, new, self.disk)
        places = {chain: link[2] for node in self.nodes.values() for chain, link in node.links.items()}
        with contextlib.closing(Namespace(new)) as namespace:
            apply_logged(namespace, _bodies(choice.links, places), header.store)
            expected = choice.links[-1].chain if choice.links else header.chain
            if choice.txn and namespace.last() != (choice.txn, expected):
                raise StoreDamaged(f"checkpoint {file} and the log after it do not give transaction {choice.txn}")
            namespace.set_local("safe_mode", UNFINISHED)
            members, settings = namespace.nodes(), namespace.settings()
        active = sum(member.state == "active" for member in members)
        copies = max(1, min(int(settings.get("replicas", REPLICAS)), active))
        return _Draft(self, choice, tuple(members), copies)

    def _names(self) -> str:
        return ", ".join(str(node.folder) for node in self.nodes.values())

    def _tell(self, what: str) -> None:
        log.warning("%s", what)
        if what not in self.told:
            self.told.append(what)


def _links(nodes: Iterable[_Node]) -> list[Link]:
    holders: dict[str, set[str]] = {}
    seen: dict[str, tuple[int, str]] = {}
    for node in nodes:
        for chain, (txn, prev, _) in node.links.items():
            holders.setdefault(chain, set()).add(node.id)
            seen[chain] = (txn, prev)
    return [Link(txn, chain, prev, frozenset(holders[chain])) for chain, (txn, prev) in seen.items()]


def _bodies(links: Sequence[Link], places: Mapping[str, Path]) -> Iterator[Logged]:
    """The records of these links in order, one segment in memory at a time."""
    segment: Mapping[str, Logged] = {}
    for link in links:
        if link.chain not in segment:
            segment = {record.chain: record for record in _records(places[link.chain])}
        if link.chain not in segment:
            raise StoreDamaged(f"{places[link.chain]} changed while it was read; try again")
        yield segment[link.chain]


class _Draft(Struct, frozen=True):
    """A restored database, not yet in its place; `members` are the nodes that it names."""

    found: _Found
    choice: Choice
    members: tuple[StorageNode, ...]
    copies: int

    @property
    def read(self) -> list[_Node]:
        """The members that were read."""
        return [self.found.nodes[member.id] for member in self.members if member.id in self.found.nodes]

    @property
    def missing(self) -> tuple[str, ...]:
        """Folders of the members that were not."""
        return tuple(str(self.found.root / m.path) for m in self.members if m.id not in self.found.nodes)

    def refuse_doubts(self) -> None:
        """Raises NotEnoughNodes, StoreDamaged when something acknowledged may be lost."""
        root, choice = self.found.root, self.choice
        if not enough(len(self.read), len(self.members), self.copies):
            need = len(self.members) - self.copies + 1
            raise NotEnoughNodes(
                f"{root}: {len(self.read)} of {len(self.members)} nodes were read, {need} are needed to be sure that "
                f"no acknowledged change is lost; missing: {', '.join(self.missing)} (give them with --node; "
                "--force does without)"
            )
        if choice.beyond:
            newest = max(link.txn for link in choice.beyond)
            raise StoreDamaged(
                f"{root}: the chain of changes ends at transaction {choice.txn}, but the nodes have seen {newest}: "
                f"what lies between is on none of those that were read (give more with --node, or lose it with --force)"
            )

    def finish(self) -> Rebuilt:
        """With the new database in its place: checkpoint, logs, nodes that moved, safe mode."""
        found, choice = self.found, self.choice
        for link in choice.aside:
            found._tell(f"transaction {link.txn} of another branch ({link.chain[:16]}) is put in quarantine")
        with contextlib.closing(Namespace(found.root / DATABASE)) as namespace:
            with checkpoint.alone(found.root):
                folders = [node.folder for node in self.read]
                _, took = checkpoint.save(found.root, namespace, folders, found.disk, 1)
            logs = [OpLog(node.folder, found.disk) for node in self.read]
            aside = {link.chain for link in choice.aside}
            for node, oplog in zip(self.read, logs, strict=True):
                _set_aside(node, oplog, aside, found.disk)
            for oplog in logs:
                if oplog.folder.parent in took:
                    checkpoint.catch_up(oplog, logs, choice.txn, found.disk)
            self._place_nodes(Committer(namespace, logs, 1, str(found.store)))
            namespace.set_local("safe_mode", f"rebuilt at transaction {choice.txn}")
        if self.missing:
            found._tell(
                f"not read: {', '.join(self.missing)}; if a node that was read had been removed as lost, what the "
                "others did since is not in here: compare before you go on"
            )
        read = tuple(str(node.folder) for node in self.read)
        return Rebuilt(choice.txn, choice.base.txn, len(choice.links), read, self.missing, tuple(found.told))

    def _place_nodes(self, committer: Committer) -> None:
        """Tell the namespace where the nodes lie now."""
        committer.recover()
        moved = []
        for member in self.members:
            node = self.found.nodes.get(member.id)
            if node is not None and self.found.root / member.path != node.folder:
                where = node.folder
                inside = where.is_relative_to(self.found.root)
                path = str(where.relative_to(self.found.root)) if inside else str(where)
                moved.append(SetNode(member.id, path, member.weight, member.capacity, member.state))
        if moved:
            request = f"rebuild after transaction {self.choice.txn}"
            committer.commit(changes_to_json(moved), request, time.time_ns() // 1_000_000)


def _set_aside(node: _Node, oplog: OpLog, aside: Collection[str], disk: Disk) -> None:
    """Move segments with records of another branch into quarantine, and append what else was in them again."""
    segments = sorted({segment for chain, (_, _, segment) in node.links.items() if chain in aside})
    good = [record for segment in segments for record in _records(segment) if record.chain not in aside]
    for segment in segments:
        disk.rename(segment, node.folder / "quarantine" / segment.name)
    if segments:
        disk.sync_folder(node.folder / "quarantine")
        disk.sync_folder(node.folder / "oplog")
        last = oplog.last()
        oplog.extend([record for record in good if last is None or record.txn > last.txn])


def _swap(root: Path, disk: Disk) -> None:
    """Put `store.db.new` in the place of what is there, which is kept. The old -wal goes first: SQLite must never see
    it beside the new database."""
    number = 1
    while (root / f"{DATABASE}.damaged-{number}").exists():
        number += 1
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            disk.rename(root / f"{DATABASE}{suffix}", root / f"{DATABASE}.damaged-{number}{suffix}")
            disk.sync_folder(root)
    disk.rename(root / f"{DATABASE}.new", root / DATABASE)
    disk.sync_folder(root)
