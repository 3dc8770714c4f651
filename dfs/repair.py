"""The health of a store's chunks: what is missing, damaged, too few, or not needed; and what to do about it.

`plan_*` are pure: values in, values out. `survey` and `run_heal` act. Chunks with the fewest good copies come first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dfs.chunk_store import ChunkStore
from dfs.codec import encode
from dfs.errors import ChunkDamaged, ChunkMissing, DfsError, Unsupported
from dfs.ids import ChunkId
from dfs.replication import ReplicatedChunks


@dataclass(frozen=True)
class Copies:
    """What the nodes hold of one chunk: node ids with a good copy (or one not read), and (node id, reason) of the
    bad."""

    good: tuple[str, ...]
    bad: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Finding:
    """One chunk that is not as it should be."""

    chunk: ChunkId
    copies: Copies


@dataclass(frozen=True)
class Health:
    """Each unhealthy chunk is in one list: no good copy; a bad copy beside good ones; only too few; held but not
    needed."""

    chunks: int
    missing: tuple[Finding, ...]
    corrupt: tuple[Finding, ...]
    under_replicated: tuple[Finding, ...]
    orphaned: tuple[Finding, ...]

    @property
    def damaged(self) -> bool:
        """Whether a copy that should be there is not. Orphans are no damage: they wait for garbage collection."""
        return bool(self.missing or self.corrupt or self.under_replicated)


@dataclass(frozen=True)
class Heal:
    """Write the chunk, read from a good copy, to these nodes."""

    chunk: ChunkId
    targets: tuple[str, ...]


def plan_health(needed: frozenset[ChunkId], held: Mapping[ChunkId, Copies], replicas: int) -> Health:
    """Judge a survey.

    >>> chunk = ChunkId.of(b"x")
    >>> plan_health(frozenset({chunk}), {chunk: Copies(("a",), (("b", "hash"),))}, 2).corrupt[0].copies.good
    ('a',)
    """
    none = Copies(())
    findings = sorted((Finding(chunk, held.get(chunk, none)) for chunk in needed), key=_urgency)
    return Health(
        len(needed),
        tuple(f for f in findings if not f.copies.good),
        tuple(f for f in findings if f.copies.good and f.copies.bad),
        tuple(f for f in findings if 0 < len(f.copies.good) < replicas and not f.copies.bad),
        tuple(Finding(chunk, copies) for chunk, copies in sorted(held.items()) if chunk not in needed),
    )


def _urgency(finding: Finding) -> tuple[int, ChunkId]:
    return len(finding.copies.good), finding.chunk


def plan_heal(health: Health, order: Callable[[ChunkId], Sequence[str]], replicas: int) -> list[Heal]:
    """What to write where so that every chunk with a good copy has `replicas` of them; `order` gives a chunk's nodes,
    best first."""
    heals = []
    for finding in sorted([*health.corrupt, *health.under_replicated], key=_urgency):
        good, bad = finding.copies.good, [node for node, _ in finding.copies.bad]
        free = [node for node in order(finding.chunk) if node not in good and node not in bad]
        lacking = max(replicas - len(good), len(bad))
        heals.append(Heal(finding.chunk, tuple([*bad, *free][:lacking])))
    return [heal for heal in heals if heal.targets]


def survey(
    chunks: ReplicatedChunks, needed: frozenset[ChunkId], read_data: bool, progress: Callable[[int], None]
) -> dict[ChunkId, Copies]:
    """Ask every node what it holds; with `read_data`, read and verify each copy of a needed chunk.

    A node that cannot answer (out of file descriptors, no permission) raises NodeFailed: that is not corruption.
    """
    good: dict[ChunkId, list[str]] = {}
    bad: dict[ChunkId, list[tuple[str, str]]] = {}
    done = 0
    for node_id, node in sorted(chunks.nodes.items()):
        read = read_data
        try:
            ids = list(node.ids())
        except ChunkDamaged:  # its small chunks are damaged in places: ask for every chunk that is needed
            ids, read = sorted(needed), True
        for chunk in ids:
            reason = _fault(node, chunk) if read and chunk in needed else None
            if reason is None:
                good.setdefault(chunk, []).append(node_id)
            elif reason:
                bad.setdefault(chunk, []).append((node_id, reason))
            done += 1
            progress(done)
    return {chunk: Copies(tuple(good.get(chunk, ())), tuple(bad.get(chunk, ()))) for chunk in {*good, *bad}}


def _fault(node: ChunkStore, chunk: ChunkId) -> str | None:
    """Why a copy is bad; None when it is good, "" when it is not there."""
    try:
        node.get(chunk)
    except ChunkMissing:
        return ""
    except (ChunkDamaged, Unsupported) as error:
        return str(error)
    return None


def run_heal(chunks: ReplicatedChunks, heals: Sequence[Heal]) -> tuple[int, list[str]]:
    """Do it. Returns how many copies were written, and the failures; it goes on after one."""
    written, failures = 0, []
    for heal in heals:
        try:
            record = encode(chunks.get(heal.chunk), heal.chunk)
            for target in heal.targets:
                chunks.nodes[target].put_many([record])
                written += 1
        except DfsError as error:
            failures.append(str(error))
    return written, failures
