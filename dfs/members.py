"""The nodes of a store: adding, listing, draining and removing them.

A node counts from the transaction that names it. Before that it is given a checkpoint, so that the store can be rebuilt
from it; after that, the log. A node is removed only when it holds nothing that is needed, or when it is lost and
nothing is lost with it.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from dfs import checkpoint
from dfs.changes import Change, DropNode, SetNode, changes_to_json
from dfs.chunk_store import Usage
from dfs.creation import relative
from dfs.disk import suspect_reason
from dfs.errors import AlreadyExists, CareRefused, NodeFailed, NotFound, UsageProblem
from dfs.failpoints import failpoint
from dfs.health import Held, look, needed, survey
from dfs.metadata import StorageNode
from dfs.oplog import OpLog
from dfs.pins import Pinned, alone, collecting, living
from dfs.repair import Progress, Repaired, repair
from dfs.stores.node import create_node, read_identity
from dfs.transactions import Committer

if TYPE_CHECKING:
    from dfs.store import Store

_PREFIX_MIN = 4  # digits of a uuid that may stand for it


class NodeReport(Struct, frozen=True):
    """One node. Sizes in bytes; what is not known (the node is absent, or cannot tell) is None.

    `capacity_bytes`: what it may use at most (None: what the disk holds); `fault`: why it cannot be written to, cannot
    tell what it holds, or is not used at all (`absent`); `needed_chunks`: of a draining node, chunks it holds that are
    not all elsewhere yet.
    """

    id: str
    path: str
    weight: float
    state: str  # active, draining
    absent: bool
    fault: str | None
    capacity_bytes: int | None
    used_bytes: int | None
    free_bytes: int | None
    quarantined_bytes: int | None
    chunks: int | None
    needed_chunks: int | None

    @property
    def removable(self) -> bool:
        """Whether it may be removed now: it drains, and holds nothing that is needed."""
        return self.needed_chunks == 0

    def values(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "removable": self.removable}


def node_report(store: Store) -> list[NodeReport]:
    """All nodes, by id."""
    return [_report(store, node) for node in store.namespace.nodes()]


def _report(store: Store, node: StorageNode) -> NodeReport:
    folder = store.path / node.path
    used: Usage | None = None
    free = still_needed = None
    fault = store.absent.get(node.id)
    held = store.replicated.nodes.get(node.id)
    if held is not None:
        fault = suspect_reason(folder)
        try:
            used = held.usage()
            free = shutil.disk_usage(folder).free
            if node.capacity is not None:
                free = max(0, min(free, node.capacity - used.stored_bytes - used.quarantined_bytes))
            if node.state == "draining":
                still_needed = _needed_on(store, node.id, living(store.pins.folder))
        except (NodeFailed, OSError) as error:
            fault = fault or str(error)
    return NodeReport(
        id=node.id,
        path=str(folder),
        weight=node.weight,
        state=node.state,
        absent=held is None,
        fault=fault,
        capacity_bytes=node.capacity,
        used_bytes=None if used is None else used.stored_bytes,
        free_bytes=free,
        quarantined_bytes=None if used is None else used.quarantined_bytes,
        chunks=None if used is None else used.chunks,
        needed_chunks=still_needed,
    )


def _needed_on(store: Store, node: str, pinned: Pinned, read_data: bool = False) -> int:
    """How many chunks a node holds that a file needs, or that are pinned, and of which too few of the nodes that stay
    have a copy (`read_data`: a good one). Raises NodeFailed."""
    chunks = store.replicated
    staying = {member.id for member in chunks.members if not member.draining} & set(chunks.nodes) - {node}
    asked = {name: chunks.nodes[name] for name in (node, *staying)}
    count = 0
    for held in survey(store.namespace.needed(also=pinned.txns), asked):
        wanted = held.replicas is not None or held.chunk.digest in pinned.chunks
        if wanted and (node in held.unlisted or any(name == node for name, _ in held.holders)):
            replicas = held.replicas or store.replicas
            elsewhere = tuple((name, size) for name, size in held.holders if name != node)
            unlisted = tuple(name for name in held.unlisted if name != node)
            copies = look(Held(held.chunk, held.length, replicas, elsewhere, unlisted), asked, read_data)
            count += len(copies.good) < replicas
    return count


def find_node(store: Store, name: str) -> StorageNode:
    """The node that a uuid, the first digits of one (4 or more), or a path names. Raises NotFound, UsageProblem for
    digits of several."""
    nodes = store.namespace.nodes()
    path = os.path.abspath(name)
    for node in nodes:
        if name in (node.id, node.path) or path == os.path.abspath(store.path / node.path):
            return node
    found = [node for node in nodes if len(name) >= _PREFIX_MIN and node.id.startswith(name)]
    if len(found) > 1:
        raise UsageProblem(f"{name} is the beginning of {len(found)} nodes; give more digits")
    if not found:
        raise NotFound(f"the store {store.path} has no node {name}; `dfs nodes list` shows them")
    return found[0]


# -- adding -----------------------------------------------------------------------------------------------------------


def add_node(
    store: Store, path: str | os.PathLike[str], *, weight: float | None = None, capacity: int | None = None
) -> NodeReport:
    """Take the folder `path` as a node; `weight` is its share beside the others' (default 1), `capacity` in bytes
    (default: the disk).

    A folder that is a node of this store already is taken up again where it lies now, and one that drains is active
    again; its weight and capacity stay unless others are given. `repair` moves chunks to it.

    Raises AlreadyExists for a node of another store or one that is in use, UsageProblem for numbers that cannot be,
    NodeFailed when the folder cannot be written to.
    """
    if weight is not None and not 0 < weight < float("inf"):
        raise UsageProblem(f"weight {weight}: it must be above 0")
    if capacity is not None and capacity <= 0:
        raise UsageProblem(f"capacity {capacity} bytes: it must be above 0")
    folder = Path(os.path.abspath(path))
    with alone(store.pins.folder, "repair.lock"):
        store.reload()
        known = {node.id: node for node in store.namespace.nodes()}
        node_id = _take(store, folder, known)
        was = known.get(node_id, StorageNode(node_id, "", 1.0, None, "active"))
        node = replace(
            was,
            path=relative(folder, store.path),
            weight=weight or was.weight,
            capacity=capacity or was.capacity,
            state="active",
        )
        try:
            with checkpoint.alone(store.path):
                checkpoint.save(store.path, store.namespace, [folder], store.disk, 1)
        except OSError as error:
            raise NodeFailed(f"node folder {folder} cannot be written to: {error}") from error
        _publish(store, _set(node))
    return _report(store, find_node(store, node_id))


def _take(store: Store, folder: Path, known: dict[str, StorageNode]) -> str:
    """The id of the node in the folder, which is made one if it is none. Raises AlreadyExists, NodeFailed."""
    for node in known.values():
        if folder == Path(os.path.abspath(store.path / node.path)) and node.id in store.absent:
            found = _identity(folder)
            if found is None or found["uuid"] != node.id:
                raise AlreadyExists(
                    f"{folder} belongs to node {node.id}, which is absent: bring it back, or "
                    f"`dfs nodes remove --lost {node.id}` first"
                )
    found = _identity(folder)
    if found is None:
        try:
            for left in folder.glob("node.json.*.new"):  # by one who was killed when he made it a node
                left.unlink()
            return create_node(folder, store.uuid, store.disk)
        except OSError as error:
            raise NodeFailed(f"no node can be made in {folder}: {error}") from error
    node_id = str(found["uuid"])
    if found["store"] != store.uuid:
        raise AlreadyExists(f"{folder} is a node of another store ({found['store']}); choose another folder")
    if node_id in known and node_id not in store.absent and known[node_id].state == "active":
        raise AlreadyExists(f"{folder} is node {node_id}, which is in use at {store.path / known[node_id].path}")
    return node_id


def _identity(folder: Path) -> dict[str, object] | None:
    return read_identity(folder) if os.path.lexists(folder / "node.json") else None


def _set(node: StorageNode) -> SetNode:
    return SetNode(node.id, node.path, node.weight, node.capacity, node.state)


def _publish(store: Store, change: Change) -> None:
    """Commit a change of the nodes on every log that can be written to, one at least: a store with a node that cannot
    must be able to replace it (docs/decisions/0023). Then take it up, and give a new node the log."""
    gone = change.id if isinstance(change, DropNode) else None
    nodes = [node for node in store.namespace.nodes() if node.id != gone]
    logs = [OpLog(store.path / node.path, store.disk) for node in nodes if node.id in store.replicated.nodes]
    committer = Committer(store.namespace, logs, 1, store.uuid)
    committer.commit(changes_to_json([change]), f"nodes-{uuid.uuid4().hex}", time.time_ns() // 1_000_000)
    store.reload()
    store.committer.recover()


# -- draining and removing --------------------------------------------------------------------------------------------


class Drained(Struct, frozen=True):
    """The node after a drain, and what was moved."""

    node: NodeReport
    repaired: Repaired


def drain_node(
    store: Store,
    name: str,
    *,
    rate: float | None = None,
    progress: Progress = lambda done, of: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Drained:
    """Give a node no more chunks, and move those that it has to the others, at `rate` bytes a second. It may be
    interrupted, and goes on when it is called again; `.node.removable` says when it is done.

    Raises NotFound, CareRefused when the node is absent or the others are too few for the copies, NodeFailed.
    """
    node = find_node(store, name)
    with alone(store.pins.folder, "repair.lock"):
        store.reload()
        if node.id in store.absent:
            raise CareRefused(
                f"node {node.id} is absent ({store.absent[node.id]}): bring it back, or `dfs nodes remove --lost`"
            )
        left = sum(other.state == "active" and other.id != node.id for other in store.namespace.nodes())
        stated = max((replicas for _, _, replicas in needed(store)), default=0)
        copies = max(stated, store.namespace.settings().get("replicas", 1))
        if left < copies:
            raise CareRefused(f"without node {node.id} {left} are left for {copies} copies; add a node first")
        if node.state != "draining":
            _publish(store, _set(replace(node, state="draining")))
            failpoint("drain.marked")
    repaired = repair(store, rate=rate, progress=progress, clock=clock, sleep=sleep)
    return Drained(_report(store, find_node(store, node.id)), repaired)


class Removed(Struct, frozen=True):
    """A node that was removed, and how many chunks lost their last copy with it (`force`)."""

    id: str
    path: str
    lost_chunks: int


def remove_node(store: Store, name: str, *, lost: bool = False, force: bool = False) -> Removed:
    """Forget a node that was drained. `lost`: one that is gone for good (absent, or suspect after a failed fsync);
    refused when it has the last copy of a chunk, unless `force`. What is in its folder is not touched.

    Raises NotFound, CareRefused, StoreLocked, NodeFailed.
    """
    with alone(store.pins.folder, "repair.lock"):
        store.reload()
        node = find_node(store, name)
        if len(store.namespace.nodes()) == 1:
            raise CareRefused(f"{node.id} is the only node of the store")
        if not lost:
            _check_copies(store, node)  # it may take long: while writers are not kept waiting
        with collecting(store.pins.folder) as pinned:
            alone_there = 0
            if lost:
                alone_there = _check_lost(store, node, force, pinned)
            else:
                _check_drained(store, node, pinned)
            _publish(store, DropNode(node.id))
    return Removed(node.id, str(store.path / node.path), alone_there)


def _check_copies(store: Store, node: StorageNode) -> None:
    """What a node still holds though it was drained (it cannot be written to) must be good elsewhere: read it there."""
    pinned = living(store.pins.folder)
    if node.id in store.replicated.nodes and (count := _needed_on(store, node.id, pinned, read_data=True)):
        _check_drained(store, node, pinned)
        raise CareRefused(
            f"the copies of {count} chunks of node {node.id} on the other nodes are damaged; "
            "`dfs fsck --read-data --heal` first"
        )


def _check_drained(store: Store, node: StorageNode, pinned: Pinned) -> None:
    if node.id in store.absent:
        raise CareRefused(f"node {node.id} is absent; bring it back, or remove it with --lost if it is gone for good")
    if node.state != "draining":
        raise CareRefused(f"node {node.id} is in use; `dfs nodes drain {node.id}` first")
    count = _needed_on(store, node.id, pinned)
    if count:
        raise CareRefused(f"node {node.id} holds {count} chunks that are needed; `dfs nodes drain {node.id}` again")


def _check_lost(store: Store, node: StorageNode, force: bool, pinned: Pinned) -> int:
    if node.id not in store.absent and suspect_reason(store.path / node.path) is None:
        raise CareRefused(f"node {node.id} is not lost: it is at {store.path / node.path}; drain it")
    others = {name: other for name, other in store.replicated.nodes.items() if name != node.id}
    held = survey(store.namespace.needed(also=pinned.txns), others)
    count = sum(chunk.replicas is not None and not (chunk.holders or chunk.unlisted) for chunk in held)
    if count and not force:
        raise CareRefused(
            f"{count} chunks have no copy on the other nodes; nothing was changed: bring node {node.id} back, or give "
            "them up with --force"
        )
    return count
