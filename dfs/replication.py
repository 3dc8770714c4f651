"""Chunks on several nodes: write to W of them, read from the first good one, heal what was found bad on the way."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from dfs.chunk_store import ChunkStore
from dfs.codec import Record, encode
from dfs.errors import ChunkDamaged, ChunkLost, ChunkMissing, DfsError, NodeFailed, NotEnoughNodes, Unsupported
from dfs.ids import ChunkId
from dfs.options import NODE_REST_S
from dfs.placement import PlacementNode, place

log = logging.getLogger("dfs")


class ReplicatedChunks:
    """All nodes of a store as one place for chunks. Safe for several threads.

    `members` are all nodes, `nodes` those of them that can be reached. A node that failed to write takes no chunks for
    NODE_REST_S by `clock` (s). `refresh` gives the nodes of now to `take`, and says whether they are others. `counts`
    tells what happened: "damaged", "missing" (copies found so while reading), "failover" (reads that the first
    reachable node could not serve), "healed" (copies written anew).
    """

    def __init__(
        self,
        members: Sequence[PlacementNode],
        nodes: Mapping[str, ChunkStore],
        replicas: int,
        clock: Callable[[], float] = time.monotonic,
        refresh: Callable[[], bool] = lambda: False,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._refresh = refresh
        self.take(members, nodes, replicas)
        self._rests: dict[str, tuple[float, str]] = {}  # node -> until when, why
        self._lock = threading.Lock()
        self._writers: ThreadPoolExecutor | None = None

    def take(self, members: Sequence[PlacementNode], nodes: Mapping[str, ChunkStore], replicas: int) -> None:
        """These are the nodes from now on; what is under way ends with those it began with."""
        self.replicas = replicas
        self.nodes = nodes
        self.members = tuple(members)
        self._active = [member for member in self.members if not member.draining]
        self._draining = [member for member in self.members if member.draining]

    def close(self) -> None:
        """End the threads. Idempotent; the nodes are not closed."""
        with self._lock:
            writers, self._writers = self._writers, None
        if writers is not None:
            writers.shutdown()

    # -- which nodes ---------------------------------------------------------------------------------------------------

    def targets(self, chunk_id: ChunkId, replicas: int | None = None) -> tuple[str, ...]:
        """Ids of the nodes that should hold it, by placement alone: also absent and resting ones, none that drains."""
        return place(chunk_id, self._active)[: self.replicas if replicas is None else replicas]

    def order(self, chunk_id: ChunkId) -> list[ChunkStore]:
        """The nodes to write to, best first: reachable, not draining, not resting."""
        resting = self.resting()
        return [self.nodes[n] for n in place(chunk_id, self._active) if n in self.nodes and n not in resting]

    def reading_order(self, chunk_id: ChunkId) -> list[ChunkStore]:
        """The reachable nodes in the order in which they are read: those that drain come last."""
        ids = (*place(chunk_id, self._active), *place(chunk_id, self._draining))
        return [self.nodes[node] for node in ids if node in self.nodes]

    def resting(self) -> dict[str, str]:
        """The nodes that take no chunks for now -> why."""
        with self._lock:
            now = self._clock()
            self._rests = {node: rest for node, rest in self._rests.items() if rest[0] > now}
            return {node: reason for node, (_, reason) in self._rests.items()}

    def _rest(self, node: str, reason: str) -> None:
        with self._lock:
            self._rests[node] = (self._clock() + NODE_REST_S, reason)

    # -- what they hold ------------------------------------------------------------------------------------------------

    def holders(self, chunk_id: ChunkId) -> tuple[str, ...]:
        """Ids of the nodes that hold it (unverified), in reading order."""
        return tuple(node.node_id for node in self.reading_order(chunk_id) if _holds(node, chunk_id))

    def held(self, chunk_ids: Iterable[ChunkId]) -> set[ChunkId]:
        """Which of these at least one node holds (unverified)."""
        rest = set(chunk_ids)
        found: set[ChunkId] = set()
        for node in self.nodes.values():
            try:
                found |= node.held(rest - found)
            except (NodeFailed, ChunkDamaged) as error:
                log.warning("%s", error)
            if found == rest:
                break
        return found

    def intact(self, chunk_ids: Iterable[ChunkId], replicas: int | None = None) -> set[ChunkId]:
        """Those of these that lie intact on every node that a put would choose: it has nothing to do for them."""
        wanted = self.replicas if replicas is None else replicas
        found = set(chunk_ids)
        asked: dict[str, list[ChunkId]] = {}
        for chunk in sorted(found):
            nodes = self.order(chunk)[:wanted]
            if len(nodes) < wanted:
                found.discard(chunk)
            for node in nodes:
                asked.setdefault(node.node_id, []).append(chunk)
        for node_id, chunks in asked.items():
            try:
                found.difference_update(set(chunks) - self.nodes[node_id].intact(chunks))
            except DfsError as error:
                log.warning("%s", error)
                found.difference_update(chunks)
        return found

    # -- writing -------------------------------------------------------------------------------------------------------

    def put_many(self, records: Sequence[Record], replicas: int | None = None) -> list[bool]:
        """Store each on `replicas` nodes (default: the store's); durable on return. Returns for each whether no node
        had a good copy of it.

        A node that fails is passed over for the next one in the chunk's order. Raises NotEnoughNodes when too few are
        left.
        """
        wanted = self.replicas if replicas is None else replicas
        unique = {record.id: record for record in records}
        old: set[ChunkId] = set()
        done: dict[ChunkId, set[str]] = {chunk: set() for chunk in unique}
        failed: dict[str, str] = {}
        while waiting := self._assign(unique, done, failed, wanted):
            for node_id, outcome in self._write(waiting).items():
                if isinstance(outcome, NodeFailed):
                    log.warning("%s", outcome)
                    failed[node_id] = str(outcome)
                    self._rest(node_id, str(outcome))
                    continue
                for record, new in zip(waiting[node_id], outcome, strict=True):
                    done[record.id].add(node_id)
                    if not new:
                        old.add(record.id)
        flags = []
        for record in records:
            flags.append(record.id not in old)
            old.add(record.id)  # a duplicate within the batch is not new
        return flags

    def _assign(
        self,
        records: Mapping[ChunkId, Record],
        done: Mapping[ChunkId, set[str]],
        failed: Mapping[str, str],
        wanted: int,
    ) -> dict[str, list[Record]]:
        """What is still to be written where. A resting node is tried before the write is given up."""
        waiting: dict[str, list[Record]] = {}
        resting = self.resting()
        for record in records.values():
            lacking = wanted - len(done[record.id])
            if lacking == 0:
                continue
            free = [
                node
                for node in place(record.id, self._active)
                if node in self.nodes and node not in failed and node not in done[record.id]
            ]
            free.sort(key=lambda node: node in resting)
            if len(free) < lacking:
                absent = {m.id: "absent" for m in self._active if m.id not in self.nodes}
                reasons = "; ".join(f"{node}: {reason}" for node, reason in {**absent, **failed}.items())
                raise NotEnoughNodes(
                    f"chunk {record.id} needs {wanted} nodes, too few can be written to ({reasons or 'no others'})"
                )
            for node_id in free[:lacking]:
                waiting.setdefault(node_id, []).append(record)
        return waiting

    def _write(self, waiting: Mapping[str, list[Record]]) -> dict[str, list[bool] | NodeFailed]:
        """Every node's batch, side by side."""

        def write(node_id: str) -> list[bool] | NodeFailed:
            try:
                return self.nodes[node_id].put_many(waiting[node_id])
            except NodeFailed as error:
                return error

        first, *others = waiting
        if not others:
            return {first: write(first)}
        futures = {node_id: self._pool().submit(write, node_id) for node_id in others}
        return {first: write(first), **{node_id: future.result() for node_id, future in futures.items()}}

    def _pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._writers is None:
                self._writers = ThreadPoolExecutor(2 * len(self.nodes), "dfs-node")
            return self._writers

    # -- reading -------------------------------------------------------------------------------------------------------

    def get(self, chunk_id: ChunkId, path: str | None = None) -> bytes:
        """The chunk's bytes, verified. Copies found damaged on the way are quarantined and, like missing ones, written
        anew.

        Raises ChunkLost, naming the file (when `path` is given), the chunk and each node, when no node has a good copy.
        """
        return b"".join(self._get(chunk_id, path, lambda node: [node.get(chunk_id)]))

    def get_blocks(self, chunk_id: ChunkId, block_bytes: int, path: str | None = None) -> list[bytes]:
        """The same bytes as `ChunkStore.get_blocks` gives them. Raises as `get`."""
        return self._get(chunk_id, path, lambda node: node.get_blocks(chunk_id, block_bytes))

    def _get(self, chunk_id: ChunkId, path: str | None, read: Callable[[ChunkStore], list[bytes]]) -> list[bytes]:
        while True:
            known = self.members
            try:
                return self._try_each(chunk_id, path, read)
            except ChunkLost:
                if not self._refresh() and self.members is known:  # else it was moved to nodes that we did not know
                    raise

    def _try_each(self, chunk_id: ChunkId, path: str | None, read: Callable[[ChunkStore], list[bytes]]) -> list[bytes]:
        reasons: list[tuple[str, str]] = [(m.id, "absent") for m in self.members if m.id not in self.nodes]
        bad: list[ChunkStore] = []
        failover = False
        for node in self.reading_order(chunk_id):
            try:
                data = read(node)
            except (NodeFailed, Unsupported) as error:
                reasons.append((node.node_id, str(error)))
                failover = True
            except ChunkMissing:
                reasons.append((node.node_id, "missing"))
                if node.node_id in self.targets(chunk_id):
                    bad.append(node)
                    self._count("missing")
            except ChunkDamaged as error:
                reasons.append((node.node_id, str(error)))
                bad.append(node)
                self._count("damaged")
            else:
                if bad or failover:
                    self._count("failover")
                    self._heal(chunk_id, b"".join(data), bad)
                return data
        where = f" of dfs://{path}" if path else ""
        told = "; ".join(f"node {node}: {reason}" for node, reason in reasons)
        absent = [member.id for member in self.members if member.id not in self.nodes]
        if absent:
            raise ChunkLost(
                f"chunk {chunk_id}{where} has no good copy on the nodes that are there ({told}); it may be on "
                f"{', '.join(absent)}: bring that back"
            )
        raise ChunkLost(f"chunk {chunk_id}{where} has no good copy left ({told}); put the file again to restore it")

    def _heal(self, chunk_id: ChunkId, data: bytes, bad: Sequence[ChunkStore]) -> None:
        """Write good bytes where they were missing or damaged. A failure is logged: the reader has its bytes."""
        resting = self.resting()
        nodes = [node for node in bad if node.node_id not in resting]
        if not nodes:
            return
        record = encode(data, chunk_id)
        for node in nodes:
            try:
                node.put_many([record])
            except NodeFailed as error:
                self._rest(node.node_id, str(error))
                log.warning("chunk %s could not be healed on node %s: %s", chunk_id, node.node_id, error)
            else:
                self._count("healed")
                log.warning("healed chunk %s on node %s", chunk_id, node.node_id)

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1


def _holds(node: ChunkStore, chunk_id: ChunkId) -> bool:
    try:
        return bool(node.held([chunk_id]))
    except (NodeFailed, ChunkDamaged):
        return False
