"""Chunks on several nodes: write to W of them, read from the first good one, heal what was found bad on the way."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from dfs.chunk_store import ChunkStore
from dfs.codec import Record, encode
from dfs.errors import ChunkDamaged, ChunkLost, ChunkMissing, DfsError, NodeFailed, NotEnoughNodes, Unsupported
from dfs.ids import ChunkId
from dfs.placement import PlacementNode, place

log = logging.getLogger("dfs")


class ReplicatedChunks:
    """All nodes of a store as one place for chunks. Safe for several threads.

    `members` are all nodes, `nodes` those of them that can be reached. `counts` tells what happened: "damaged",
    "missing" (copies found so while reading), "failover" (reads served by another than the first node), "healed"
    (copies written anew).
    """

    def __init__(self, members: Sequence[PlacementNode], nodes: Mapping[str, ChunkStore], replicas: int) -> None:
        self.members = tuple(members)
        self.nodes = nodes
        self.replicas = replicas
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def order(self, chunk_id: ChunkId) -> list[ChunkStore]:
        """The reachable nodes in the order in which they are read and written."""
        return [self.nodes[node] for node in place(chunk_id, self.members) if node in self.nodes]

    def holders(self, chunk_id: ChunkId) -> tuple[str, ...]:
        """Ids of the nodes that hold it (unverified), in reading order."""
        return tuple(node.node_id for node in self.order(chunk_id) if _holds(node, chunk_id))

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

    def verified(self, chunk_id: ChunkId) -> bool:
        """Whether each of the nodes that should hold it has a good copy: then a put has nothing to do."""
        nodes = self.order(chunk_id)[: self.replicas]
        try:
            return len(nodes) == self.replicas and all(node.get(chunk_id) is not None for node in nodes)
        except DfsError:
            return False

    def put_many(self, records: Sequence[Record]) -> list[bool]:
        """Store each on `replicas` nodes; durable on return. Returns for each whether no node had a good copy of it.

        A node that fails is passed over for the next one in the chunk's order. Raises NotEnoughNodes when too few are
        left.
        """
        old: set[ChunkId] = set()
        written = Counter[ChunkId]()
        failed: dict[str, str] = {}
        done: set[tuple[str, ChunkId]] = set()
        while waiting := self._assign(records, written, failed, done):
            for node_id, batch in waiting.items():
                try:
                    flags = self.nodes[node_id].put_many(batch)
                except NodeFailed as error:
                    log.warning("%s", error)
                    failed[node_id] = str(error)
                    continue
                old.update(record.id for record, new in zip(batch, flags, strict=True) if not new)
                written.update(record.id for record in batch)
                done.update((node_id, record.id) for record in batch)
        flags = []
        for record in records:
            flags.append(record.id not in old)
            old.add(record.id)  # a duplicate within the batch is not new
        return flags

    def _assign(
        self,
        records: Sequence[Record],
        written: Mapping[ChunkId, int],
        failed: Mapping[str, str],
        done: set[tuple[str, ChunkId]],
    ) -> dict[str, list[Record]]:
        """What is still to be written where."""
        waiting: dict[str, list[Record]] = {}
        for record in {record.id: record for record in records}.values():
            lacking = self.replicas - written.get(record.id, 0)
            if lacking == 0:
                continue
            free = [
                n.node_id
                for n in self.order(record.id)
                if n.node_id not in failed and (n.node_id, record.id) not in done
            ]
            if len(free) < lacking:
                absent = {m.id: "absent" for m in self.members if m.id not in self.nodes}
                reasons = "; ".join(f"{node}: {reason}" for node, reason in {**absent, **failed}.items())
                raise NotEnoughNodes(
                    f"chunk {record.id} needs {self.replicas} nodes, too few can be written to ({reasons})"
                )
            for node_id in free[:lacking]:
                waiting.setdefault(node_id, []).append(record)
        return waiting

    def get(self, chunk_id: ChunkId, path: str | None = None) -> bytes:
        """The chunk's bytes, verified. Copies found damaged on the way are quarantined and, like missing ones, written
        anew.

        Raises ChunkLost, naming the file (when `path` is given), the chunk and each node, when no node has a good copy.
        """
        reasons: list[tuple[str, str]] = [(m.id, "absent") for m in self.members if m.id not in self.nodes]
        bad: list[ChunkStore] = []
        for rank, node in enumerate(self.order(chunk_id)):
            try:
                data = node.get(chunk_id)
            except (NodeFailed, Unsupported) as error:
                reasons.append((node.node_id, str(error)))
                continue
            except ChunkMissing:
                reasons.append((node.node_id, "missing"))
                if rank < self.replicas:
                    bad.append(node)
                    self._count("missing")
                continue
            except ChunkDamaged as error:
                reasons.append((node.node_id, str(error)))
                bad.append(node)
                self._count("damaged")
                continue
            if reasons:
                self._count("failover")
                self._heal(chunk_id, data, bad)
            return data
        where = f" of dfs://{path}" if path else ""
        told = "; ".join(f"node {node}: {reason}" for node, reason in reasons)
        raise ChunkLost(f"chunk {chunk_id}{where} has no good copy left ({told}); put the file again to restore it")

    def _heal(self, chunk_id: ChunkId, data: bytes, bad: Sequence[ChunkStore]) -> None:
        """Write good bytes where they were missing or damaged. A failure is logged: the reader has its bytes."""
        record = encode(data, chunk_id) if bad else None
        for node in bad:
            if record is None:
                return
            try:
                node.put_many([record])
            except DfsError as error:
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
