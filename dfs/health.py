"""The health of a store's chunks: what is needed, beside what the nodes hold.

`judge` is pure. `survey` walks over all nodes and the namespace in one ascending pass, so a million chunks take no more
memory than one; only findings are kept.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

from dfs.chunk_store import ChunkStore
from dfs.errors import ChunkDamaged, ChunkMissing, Unsupported
from dfs.ids import ChunkId
from dfs.pins import living

if TYPE_CHECKING:
    from dfs.store import Store

Kind = Literal["missing", "waiting", "corrupt", "under_replicated", "over_replicated", "misplaced", "orphaned"]
_LACKING: tuple[Kind, ...] = ("missing", "waiting", "under_replicated")
Progress = Callable[[int], None]  # told how many copies have been looked at


class Copies(Struct, frozen=True):
    """What the nodes hold of one chunk: node ids with a good copy (or one not read), and (node id, reason) of the
    bad."""

    good: tuple[str, ...]
    bad: tuple[tuple[str, str], ...] = ()


class Finding(Struct, frozen=True):
    """One chunk, its length in bytes (0: unknown), how many copies of it are needed (0: none), and those that are
    there."""

    chunk: ChunkId
    length: int
    replicas: int
    copies: Copies


class Health(Struct, frozen=True):
    """Each unhealthy chunk is in one list, fewest good copies first.

    Missing: no good copy; waiting: none, but a node is absent that may have one; corrupt: a bad one beside good ones;
    under-replicated: only too few; misplaced: enough, but not where placement wants them; over-replicated: too many;
    orphaned: held but not needed.
    """

    chunks: int
    missing: Sequence[Finding] = ()
    waiting: Sequence[Finding] = ()
    corrupt: Sequence[Finding] = ()
    under_replicated: Sequence[Finding] = ()
    over_replicated: Sequence[Finding] = ()
    misplaced: Sequence[Finding] = ()
    orphaned: Sequence[Finding] = ()

    @property
    def damaged(self) -> bool:
        """Whether a copy that should be there is not. The other kinds are no damage: no byte is at risk."""
        return bool(self.missing or self.waiting or self.corrupt or self.under_replicated)

    @property
    def to_repair(self) -> list[Finding]:
        """What a repair can do something about."""
        return [*self.corrupt, *self.under_replicated, *self.misplaced, *self.over_replicated]


class Held(Struct, frozen=True):
    """One chunk of a survey: `replicas` None: no file needs it; `holders` (node, stored bytes); `unlisted` nodes could
    not say what they hold."""

    chunk: ChunkId
    length: int
    replicas: int | None
    holders: tuple[tuple[str, int], ...]
    unlisted: tuple[str, ...]


def judge(finding: Finding, targets: Sequence[str], some_absent: bool = False) -> Kind | None:
    """What is wrong with a chunk; `targets` are the nodes that can be reached and should hold it. None: nothing.

    `some_absent`: there are nodes that cannot be reached, and may have a copy.

    >>> one = ChunkId.of(b"x")
    >>> judge(Finding(one, 1, 2, Copies(("a",), (("b", "hash"),))), ["a", "b"])
    'corrupt'
    """
    good = finding.copies.good
    if finding.replicas == 0:
        return "orphaned"
    if not good:
        return "waiting" if some_absent else "missing"
    if finding.copies.bad:
        return "corrupt"
    if len(good) < finding.replicas:
        return "under_replicated"
    if not set(targets) <= set(good):
        return "misplaced"
    return "over_replicated" if len(good) > finding.replicas else None


def survey(needed: Iterable[tuple[ChunkId, int, int]], nodes: Mapping[str, ChunkStore]) -> Iterator[Held]:
    """Every chunk that is needed (ascending: id, length, replicas) or held, ascending. Raises NodeFailed: a node that
    cannot answer (out of file descriptors, no permission) is no reason to call a chunk missing."""
    unlisted: list[str] = []

    def listing(rank: int, name: str, node: ChunkStore) -> Iterator[tuple[ChunkId, int, tuple[int, int]]]:
        try:
            for chunk, size in node.listing():
                yield chunk, rank, (size, 0)
        except ChunkDamaged:  # its small chunks are damaged in places: from here on it must be asked for each
            unlisted.append(name)

    names = sorted(nodes)
    streams = [listing(rank, name, nodes[name]) for rank, name in enumerate(names)]
    wanted = ((chunk, -1, (length, replicas)) for chunk, length, replicas in needed)
    for chunk, group in groupby(heapq.merge(wanted, *streams), key=itemgetter(0)):
        length, replicas, holders = 0, None, []
        for _, rank, (size, copies) in group:
            if rank < 0:
                length, replicas = size, copies
            else:
                holders.append((names[rank], size))
        lost = tuple(unlisted) if unlisted else ()
        yield Held(chunk, length, replicas, tuple(holders), lost)


def needed(store: Store) -> Iterator[tuple[ChunkId, int, int]]:
    """What `Namespace.needed` gives, also for the transactions that open stores hold: nobody may take them for
    orphaned, though the name by which they were reached is gone."""
    return store.namespace.needed(also=living(store.pins.folder).txns)


def fault(node: ChunkStore, chunk: ChunkId) -> str | None:
    """Why a node's copy is bad, by reading it; None when it is good, "" when it is not there. Raises NodeFailed."""
    try:
        node.get(chunk)
    except ChunkMissing:
        return ""
    except (ChunkDamaged, Unsupported) as error:
        return str(error)
    return None


def look(held: Held, nodes: Mapping[str, ChunkStore], read_data: bool) -> Copies:
    """The copies of one chunk; with `read_data` each is read and verified. Raises NodeFailed."""
    listed = [name for name, _ in held.holders]
    asked = [name for name in held.unlisted if name not in listed and held.replicas is not None]
    good, bad = [], []
    for name in [*listed, *asked]:
        reason = fault(nodes[name], held.chunk) if read_data or name in asked else None
        if reason is None:
            good.append(name)
        elif reason:
            bad.append((name, reason))
    return Copies(tuple(good), tuple(bad))


class _Lists(Struct):
    """Health being made; equal tuples of nodes are kept once."""

    chunks: int = 0
    kinds: dict[Kind, list[Finding]] = field(default_factory=dict)
    known: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)

    def add(self, kind: Kind, found: Finding) -> None:
        good = self.known.setdefault(found.copies.good, found.copies.good)
        finding = Finding(found.chunk, found.length, found.replicas, Copies(good, found.copies.bad))
        self.kinds.setdefault(kind, []).append(finding)

    def health(self) -> Health:
        ordered = {kind: tuple(sorted(found, key=urgency)) for kind, found in self.kinds.items()}
        return Health(self.chunks, **ordered)


def urgency(finding: Finding) -> tuple[int, ChunkId]:
    """Fewest good copies first."""
    return len(finding.copies.good), finding.chunk


def examine(store: Store, *, read_data: bool = False, progress: Progress = lambda copies: None) -> Health:
    """Survey the store and judge every chunk; with `read_data` every copy is read and verified. Raises NodeFailed."""
    lists = _Lists()
    looked = 0
    for held in survey(needed(store), store.replicated.nodes):
        looked += len(held.holders)
        progress(looked)
        lists.chunks += held.replicas is not None
        found = finding_of(store, held, read_data)
        if found is not None:
            lists.add(*found)
    for kind in _LACKING:
        lists.kinds[kind] = still_needed(store, lists.kinds.get(kind, []))
    return lists.health()


def finding_of(store: Store, held: Held, read_data: bool) -> tuple[Kind, Finding] | None:
    """What is wrong with one chunk of a survey of the store."""
    finding = _look_at(store, held, read_data)
    kind = judge(finding, _targets(store, finding), bool(store.absent))
    if kind in _LACKING:  # a repair may have moved it since it was listed
        holders = tuple((name, 0) for name in store.replicated.holders(finding.chunk))
        finding = _look_at(store, Held(held.chunk, held.length, held.replicas, holders, held.unlisted), read_data)
        kind = judge(finding, _targets(store, finding), bool(store.absent))
    return None if kind is None else (kind, finding)


def still_needed(store: Store, findings: list[Finding]) -> list[Finding]:
    """Those whose chunk has not been collected since the survey began."""
    if not findings:
        return []
    asked = {finding.chunk for finding in findings}
    found = {chunk for chunk, _, _ in needed(store) if chunk in asked}
    return [finding for finding in findings if finding.chunk in found]


def _look_at(store: Store, held: Held, read_data: bool) -> Finding:
    replicas = 0 if held.replicas is None else held.replicas or store.replicas
    return Finding(held.chunk, held.length, replicas, look(held, store.replicated.nodes, read_data))


def _targets(store: Store, finding: Finding) -> list[str]:
    """The nodes that should hold it, of those that can be reached."""
    chunks = store.replicated
    return [node for node in chunks.targets(finding.chunk, finding.replicas) if node in chunks.nodes]
