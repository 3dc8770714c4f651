"""Repair: bring every chunk to its number of copies, on the nodes where placement wants them.

`plan_repair` is pure. Chunks with the fewest good copies come first, and all copies are made before the first is
dropped. A copy is dropped only after those that stay have been read and verified, never in safe mode, and never while a
node that should hold the chunk is absent: a node that comes and goes causes no copying back and forth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from dfs.codec import Record, encode
from dfs.disk import suspect_reason
from dfs.errors import ChunkDamaged, ChunkMissing, NodeFailed, Unsupported
from dfs.failpoints import failpoint
from dfs.health import Copies, Finding, Health, examine, fault, still_needed, urgency
from dfs.ids import ChunkId
from dfs.options import BATCH_BYTES_MAX, BATCH_CHUNKS_MAX
from dfs.pins import alone
from dfs.throttle import Throttle

if TYPE_CHECKING:
    from dfs.store import Store

Progress = Callable[[int, int], None]  # told (chunks done, chunks to do)


class Nodes(Struct, frozen=True):
    """What a plan must know of the nodes: `order` gives the active ones for a chunk, best first, absent or not."""

    order: Callable[[ChunkId], Sequence[str]]
    absent: Collection[str]
    writable: Collection[str]


class Action(Struct, frozen=True):
    """For one chunk: write it to `copies`; quarantine what is bad on `bad`; then, if every node of `wanted` has a good
    copy, forget it on `drops`."""

    finding: Finding
    wanted: tuple[str, ...]
    copies: tuple[str, ...]
    bad: tuple[str, ...]
    drops: tuple[str, ...]


def plan_repair(findings: Iterable[Finding], nodes: Nodes, *, now: bool = False, drops: bool = True) -> list[Action]:
    """What to do, in this order. An absent node counts as holding what placement gives it, unless `now`.

    >>> one = ChunkId.of(b"x")
    >>> there = Nodes(lambda chunk: ["a", "b", "c"], absent=[], writable=["a", "b", "c"])
    >>> [action] = plan_repair([Finding(one, 1, 2, Copies(("a", "c")))], there)
    >>> action.copies, action.drops
    (('b',), ('c',))
    """
    actions = []
    for finding in sorted(findings, key=urgency):
        good, bad = finding.copies.good, [node for node, _ in finding.copies.bad]
        if not good:
            continue
        wanted = _wanted(finding, nodes, now)
        copies = [n for n in wanted if n not in good and n not in nodes.absent]
        whole = len(wanted) == finding.replicas and not any(n in nodes.absent for n in wanted)
        surplus = [n for n in good if n not in wanted and n in nodes.writable] if drops and whole else []
        spoilt = [n for n in bad if n not in wanted]
        if copies or surplus or spoilt:
            actions.append(Action(finding, tuple(wanted), tuple(copies), tuple(spoilt), tuple(surplus)))
    return actions


class Left(Struct, frozen=True):
    """How many chunks a plan leaves without their copies: see `Repaired`."""

    missing: int = 0
    waiting: int = 0
    unplaced: int = 0


_NOTHING_LEFT = Left()


def left_over(health: Health, nodes: Nodes, *, now: bool = False) -> Left:
    """What a repair can do nothing about.

    >>> there = Nodes(lambda chunk: ["a", "b"], absent=["b"], writable=["a"])
    >>> too_many = Finding(ChunkId.of(b"x"), 1, 3, Copies(("a",)))
    >>> left_over(Health(1, under_replicated=[too_many]), there)
    Left(missing=0, waiting=1, unplaced=1)
    """
    waiting = unplaced = 0
    for finding in health.under_replicated:
        wanted = _wanted(finding, nodes, now)
        waiting += any(n in nodes.absent and n not in finding.copies.good for n in wanted)
        unplaced += len(wanted) < finding.replicas
    return Left(len(health.missing), waiting + len(health.waiting), unplaced)


def _wanted(finding: Finding, nodes: Nodes, now: bool) -> list[str]:
    """The nodes that shall hold a chunk: of those that have it, can be given it, or are waited for."""
    good, waited_for = finding.copies.good, () if now else nodes.absent
    order = nodes.order(finding.chunk)
    return [n for n in order if n in good or n in nodes.writable or n in waited_for][: finding.replicas]


class Repaired(Struct, frozen=True):
    """What a repair did, or would do (`dry_run`). Bytes are uncompressed; `missing` chunks have no good copy left;
    `waiting` ones lack a copy that an absent node may hold; `unplaced` ones ask for more copies than there are nodes
    that can be written to."""

    copies: int
    copied_bytes: int
    drops: int
    dropped_bytes: int
    missing: int
    waiting: int
    unplaced: int
    failures: tuple[str, ...]
    dry_run: bool = False

    @property
    def complete(self) -> bool:
        """Whether every needed chunk that can be reached has its copies now."""
        return not self.failures and not self.missing


def repair(
    store: Store,
    *,
    dry_run: bool = False,
    now: bool = False,
    rate: float | None = None,
    health: Health | None = None,
    progress: Progress = lambda done, of: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Repaired:
    """Write what lacks copies (also onto absent nodes' successors with `now`), move what is misplaced, drop what is too
    much. `rate`: bytes a second; `health`: judged before, else the nodes are asked what they hold.

    It may be interrupted and begun again at any time. Raises NodeFailed when a node cannot say what it holds,
    StoreLocked when another repair is running.
    """
    with alone(store.pins.folder, "repair.lock"):
        members = store.replicated.members
        store.reload()
        found = examine(store) if health is None or members != store.replicated.members else health
        work = Work(store, Throttle(rate, clock, sleep), progress)
        todo = found.to_repair
        actions = plan_repair(todo, work.nodes(), now=now, drops=store.safe_mode is None)
        left = left_over(found, work.nodes(), now=now)
        if dry_run:
            return work.planned(actions, left)
        drops: list[Action] = []
        while actions:
            unfinished = work.copy(actions)
            again = {finding.chunk for finding in unfinished}
            drops += [action for action in actions if action.drops and action.finding.chunk not in again]
            actions = plan_repair(unfinished, work.nodes(), now=now, drops=store.safe_mode is None)
        failpoint("repair.copied")
        work.drop(drops)
        return work.report(left)


class Work:
    """Carries plans out, batch by batch; nothing is collected during a batch. A node that fails is left out from then
    on."""

    def __init__(self, store: Store, throttle: Throttle, progress: Progress = lambda done, of: None) -> None:
        self._store = store
        self._nodes = store.replicated.nodes
        self._throttle = throttle
        self._progress = progress
        self._failed: dict[str, str] = {}
        self._failures: list[str] = []
        self._unread: dict[ChunkId, tuple[Finding, str]] = {}
        self._copied = _Sum()
        self._dropped = _Sum()

    def nodes(self) -> Nodes:
        """The nodes as they are now."""
        chunks = self._store.replicated
        absent = [member.id for member in chunks.members if member.id not in chunks.nodes]
        paths = self._store.node_paths()
        writable = [node for node in self._nodes if node not in self._failed and not suspect_reason(paths[node])]
        return Nodes(lambda chunk: chunks.targets(chunk, len(chunks.members)), absent, writable)

    def copy(self, actions: Sequence[Action]) -> list[Finding]:
        """Write what is to be written, quarantine what is bad. Returns, with the copies they have now, what could not
        be written because a node failed."""
        todo = [action for action in actions if action.copies or action.bad]
        unfinished: list[Finding] = []
        done = 0
        for batch in _batches(todo):
            self._throttle.spend(sum(action.finding.length * len(action.copies) for action in batch))
            with self._store.pins.writing():
                unfinished += self._copy_batch(batch)
            done += len(batch)
            self._progress(done, len(todo))
        return unfinished

    def _copy_batch(self, batch: Sequence[Action]) -> list[Finding]:
        wanted: dict[str, list[Record]] = {}
        for action in batch:
            record = self._record(action) if action.copies else None
            for node in action.copies if record else ():
                wanted.setdefault(node, []).append(record)  # type: ignore[arg-type]
            for node in action.bad:
                try:
                    self._nodes[node].quarantine(action.finding.chunk)
                except NodeFailed as error:
                    self._failures.append(str(error))
        written: dict[ChunkId, list[str]] = {}
        lacking: set[ChunkId] = set()
        for node, records in wanted.items():
            try:
                if node not in self._failed:
                    flags = self._nodes[node].put_many(records)
            except NodeFailed as error:
                self._failed[node] = str(error)
                self._failures.append(str(error))
            if node in self._failed:
                lacking.update(record.id for record in records)
                continue
            for record, new in zip(records, flags, strict=True):
                written.setdefault(record.id, []).append(node)
                self._copied.add(record.length, new)
                if not new and (reason := self._fault(node, record.id)):  # of a newer release: it is never overwritten
                    self._failures.append(f"node {node}: {reason}")
        return [_with(action.finding, written) for action in batch if action.finding.chunk in lacking]

    def _record(self, action: Action) -> Record | None:
        reasons = []
        for node in action.finding.copies.good:
            try:
                return encode(self._nodes[node].get(action.finding.chunk), action.finding.chunk)
            except (ChunkMissing, ChunkDamaged, Unsupported, NodeFailed) as error:
                reasons.append(str(error))
        self._unread[action.finding.chunk] = (action.finding, "; ".join(reasons))
        return None

    def drop(self, actions: Sequence[Action]) -> None:
        """Forget what is too much, where every copy that stays has been read and is good."""
        done = 0
        for batch in _batches(actions):
            self._throttle.spend(sum(action.finding.length * len(action.wanted) for action in batch))
            drops: dict[str, list[ChunkId]] = {}
            with self._store.pins.writing():
                for action in batch:
                    if self._verified(action):
                        for node in action.drops:
                            drops.setdefault(node, []).append(action.finding.chunk)
                for node, chunks in drops.items():
                    try:
                        count, size = self._nodes[node].delete_many(chunks)
                    except NodeFailed as error:
                        self._failures.append(str(error))
                    else:
                        self._dropped.add(size, count)
            done += len(batch)
            self._progress(done, len(actions))

    def _verified(self, action: Action) -> bool:
        return all(self._fault(node, action.finding.chunk) is None for node in action.wanted)

    def _fault(self, node: str, chunk: ChunkId) -> str | None:
        try:
            return fault(self._nodes[node], chunk)
        except NodeFailed as error:
            return str(error)

    def planned(self, actions: Sequence[Action], left: Left) -> Repaired:
        """What `actions` would do."""
        copies = [action.finding.length for action in actions for _ in action.copies]
        drops = [action.finding.length for action in actions for _ in action.drops]
        done = (len(copies), sum(copies), len(drops), sum(drops))
        return Repaired(*done, left.missing, left.waiting, left.unplaced, (), dry_run=True)

    def report(self, left: Left = _NOTHING_LEFT) -> Repaired:
        """What has been done."""
        copied, dropped = self._copied, self._dropped
        needed = still_needed(self._store, [finding for finding, _ in self._unread.values()])
        unread = [f"chunk {found.chunk} cannot be read: {self._unread[found.chunk][1]}" for found in needed]
        failures = tuple(dict.fromkeys([*self._failures, *unread]))
        done = (copied.count, copied.size, dropped.count, dropped.size)
        return Repaired(*done, left.missing, left.waiting, left.unplaced, failures)


class _Sum(Struct):
    count: int = 0
    size: int = 0

    def add(self, size: int, count: int) -> None:
        self.count += count
        self.size += size if count else 0


def _with(finding: Finding, written: dict[ChunkId, list[str]]) -> Finding:
    """The finding with the copies that were written."""
    new = written.get(finding.chunk, [])
    bad = tuple((node, reason) for node, reason in finding.copies.bad if node not in new)
    good = tuple(dict.fromkeys([*finding.copies.good, *new]))
    return Finding(finding.chunk, finding.length, finding.replicas, Copies(good, bad))


def _batches(actions: Iterable[Action]) -> Iterator[list[Action]]:
    """In order, each of so many chunks and bytes as are written together."""
    batch: list[Action] = []
    size = 0
    for action in actions:
        if batch and (size + action.finding.length > BATCH_BYTES_MAX or len(batch) == BATCH_CHUNKS_MAX):
            yield batch
            batch, size = [], 0
        batch.append(action)
        size += action.finding.length
    if batch:
        yield batch
