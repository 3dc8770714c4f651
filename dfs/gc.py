"""Garbage collection: history that is too old is forgotten, and what nothing needs any more is deleted.

The rule, after DESIGN section 6: writers hold a shared lock and pins; a collection holds the lock exclusively, marks
from every retained transaction and every pin, forgets metadata rows first (a transaction of the log), then deletes the
files. Killed anywhere, the next one finds the rest. It never runs while a node is absent or the store is in safe mode,
and stops at a tenth of all bytes unless it is forced.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from msgspec import Struct, field
from msgspec.structs import replace

from dfs.changes import Expire, changes_to_json
from dfs.errors import CareRefused, NodeFailed, NotFound
from dfs.failpoints import failpoint
from dfs.health import Held, fault, needed, survey
from dfs.ids import ChunkId
from dfs.options import BATCH_CHUNKS_MAX, COLLECTED_SHARE_MAX, DAY_MS, RETENTION_DAYS, SMALL_CHUNK_BYTES
from dfs.pins import alone, collecting
from dfs.scrub import sweep

if TYPE_CHECKING:
    from dfs.store import Store

Progress = Callable[[int, int], None]  # told (copies deleted, copies to delete)


# -- deciding ---------------------------------------------------------------------------------------------------------


class History(Struct, frozen=True):
    """What decides how much of it is kept. Times in ms since the epoch; `seen_ms`: this clock at the collection before
    (None: there was none); `pinned`: numbers that open stores read; `snapshots`: numbers that have a name."""

    last: int
    last_ms: int
    horizon: int
    retention_days: int
    seen_ms: int | None
    pinned: Collection[int] = ()
    snapshots: Collection[int] = ()


def trusted_now_ms(now_ms: int, seen_ms: int | None, last_ms: int) -> int:
    """A time that is not later than it is, as far as that can be told: at most a day after the collection before (or
    after the newest transaction, for the first one). A clock that has jumped ahead is believed by the second
    collection that sees it so.

    >>> trusted_now_ms(30 * DAY_MS, DAY_MS, 0) // DAY_MS, trusted_now_ms(2 * DAY_MS, 9 * DAY_MS, 0) // DAY_MS
    (2, 2)
    """
    return min(now_ms, (last_ms if seen_ms is None else seen_ms) + DAY_MS)


def plan_horizon(history: History, now_ms: int, txn_at_time: Callable[[int], int]) -> int | None:
    """The new oldest number to keep; None to forget nothing, also no rows of dropped snapshots.

    A day is kept beyond the retention: a transaction's time may be wrong by that. `txn_at_time` gives the newest
    transaction that is not later than a time. What an open store reads stays readable.
    """
    readable = {number for number in history.pinned if number >= history.horizon}
    if any(n not in readable and n not in history.snapshots for n in history.pinned):
        return None  # somebody still reads what had a name until just now
    horizon = history.horizon
    if history.retention_days == 0:
        horizon = history.last
    elif history.retention_days > 0:
        now = trusted_now_ms(now_ms, history.seen_ms, history.last_ms)
        horizon = txn_at_time(now - (history.retention_days + 1) * DAY_MS)
    return max(history.horizon, min([horizon, *readable]))


class Garbage(Struct):
    """What a collection would delete. Bytes as they are stored; `copies` by node."""

    held_copies: int = 0
    held_bytes: int = 0
    chunks: int = 0
    bytes: int = 0
    copies: dict[str, list[ChunkId]] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Of all stored bytes, 0 to 1."""
        return self.bytes / self.held_bytes if self.held_bytes else 0.0


def plan_collection(held: Iterable[Held], pinned: Collection[bytes]) -> Garbage:
    """All copies of chunks that no file needs and nobody pins (`pinned`: their digests); of each node, files before
    rows: SQLite needs space to delete rows, and on a full disk the files give it.

    >>> one, two = sorted([ChunkId.of(b"1"), ChunkId.of(b"2")])
    >>> plan_collection([Held(one, 0, None, (("a", 40),), ()), Held(two, 1, 0, (("a", 60),), ())], set()).share
    0.4
    """
    found = Garbage()
    rows: dict[str, list[ChunkId]] = {}
    for chunk in held:
        size = sum(stored for _, stored in chunk.holders)
        found.held_copies += len(chunk.holders)
        found.held_bytes += size
        if chunk.replicas is None and chunk.chunk.digest not in pinned:
            found.chunks += 1
            found.bytes += size
            for node, stored in chunk.holders:
                (found.copies if stored >= SMALL_CHUNK_BYTES else rows).setdefault(node, []).append(chunk.chunk)
    for node, chunks in rows.items():
        found.copies.setdefault(node, []).extend(chunks)
    return found


# -- acting -----------------------------------------------------------------------------------------------------------


class Collected(Struct, frozen=True):
    """What a collection did, or would do (`dry_run`). Bytes as they are stored, over all copies.

    `expired_before`: the oldest number that can be read now besides snapshots; `share` of all bytes; `braked`: without
    force it would be refused; `failures`: nodes that could not delete all (the next collection goes on there).
    """

    expired_before: int
    history_from: int  # the oldest number before
    chunks: int
    copies: int
    bytes: int
    held_bytes: int
    share: float
    braked: bool
    temp_files: int = 0
    dead_pins: int = 0
    quarantined_copies: int = 0
    quarantined_bytes: int = 0
    failures: tuple[str, ...] = ()
    dry_run: bool = False


def collect(
    store: Store,
    *,
    dry_run: bool = False,
    force: bool = False,
    quarantine: bool = False,
    clock_ms: int | None = None,
    progress: Progress = lambda done, of: None,
) -> Collected:
    """Collect garbage. `force`: also more than a tenth of all bytes; `quarantine`: also records found damaged, of
    chunks that have all their good copies; `clock_ms`: the time, for tests.

    Raises CareRefused (a node is absent, safe mode, more than a tenth: nothing has changed), StoreLocked (a
    writer or a repair does not end), NodeFailed.
    """
    now_ms = time.time_ns() // 1_000_000 if clock_ms is None else clock_ms
    with alone(store.pins.folder, "repair.lock"), collecting(store.pins.folder, sweep=not dry_run) as pinned:
        store.reload()
        _check_ready(store)
        history = _history(store, pinned.txns)
        horizon = plan_horizon(history, now_ms, lambda time_ms: _txn_at_time(store, time_ms))
        garbage = plan_collection(
            _complete(survey(store.namespace.needed(horizon, pinned.txns), store.replicated.nodes)), pinned.chunks
        )
        if horizon == history.horizon + 1 and not garbage.chunks:
            horizon = history.horizon  # only our own last transaction could be forgotten: that would go on for ever
        report = _report(garbage, history, horizon, pinned.dead)
        if dry_run:
            return replace(report, dry_run=True)
        if report.braked and not force:
            raise CareRefused(
                f"garbage collection would delete {garbage.bytes:,} of {garbage.held_bytes:,} stored bytes "
                f"({garbage.share:.0%}, {garbage.chunks:,} chunks), more than {COLLECTED_SHARE_MAX:.0%} at once; "
                "nothing was deleted: look at `dfs gc --dry-run`, then use --force"
            )
        if horizon is not None and (horizon > history.horizon or garbage.chunks):
            store.committer.commit(changes_to_json([Expire(horizon)]), f"gc-{uuid.uuid4().hex}", now_ms)
        failpoint("gc.expired")
        store.namespace.set_local("clock_ms", now_ms)
        return _delete(store, garbage, report, quarantine, progress)


def _check_ready(store: Store) -> None:
    if store.safe_mode is not None:
        raise CareRefused(f"the store is in safe mode ({store.safe_mode}); run `dfs fsck` first")
    if store.absent:
        told = "; ".join(f"{node}: {why}" for node, why in store.absent.items())
        raise CareRefused(
            f"nothing is collected while nodes are absent ({told}); bring them back, or `dfs nodes remove --lost`"
        )


def _history(store: Store, pinned: Collection[int]) -> History:
    settings = store.namespace.settings()
    last, _ = store.namespace.last()
    return History(
        last,
        store.namespace.time_ms(last),
        settings.get("horizon", 0),
        settings.get("retention_days", RETENTION_DAYS),
        settings.get("clock_ms"),
        pinned,
        [snapshot.txn for snapshot in store.namespace.snapshots()],
    )


def _txn_at_time(store: Store, time_ms: int) -> int:
    try:
        return store.namespace.txn_at_time(time_ms)
    except NotFound:  # before the oldest number that is kept
        return 0


def _complete(held: Iterable[Held]) -> Iterable[Held]:
    for chunk in held:
        if chunk.unlisted:
            raise CareRefused(
                f"nodes {', '.join(chunk.unlisted)} cannot say what they hold (damaged pages); "
                "run `dfs fsck --heal` first"
            )
        yield chunk


def _report(garbage: Garbage, history: History, horizon: int | None, dead: int) -> Collected:
    copies = sum(map(len, garbage.copies.values()))
    return Collected(
        expired_before=history.horizon if horizon is None else horizon,
        history_from=history.horizon,
        chunks=garbage.chunks,
        copies=copies,
        bytes=garbage.bytes,
        held_bytes=garbage.held_bytes,
        share=garbage.share,
        braked=garbage.share > COLLECTED_SHARE_MAX,
        dead_pins=dead,
    )


def _delete(store: Store, garbage: Garbage, report: Collected, quarantine: bool, progress: Progress) -> Collected:
    """The files, after their metadata. A node that fails is left to the next collection."""
    copies = size = temp_files = kept = kept_bytes = 0
    failures = []
    spare = _spare(store) if quarantine else set()
    for name, node in sorted(store.replicated.nodes.items()):
        chunks = garbage.copies.get(name, [])
        try:
            for at in range(0, len(chunks), BATCH_CHUNKS_MAX):
                count, freed = node.delete_many(chunks[at : at + BATCH_CHUNKS_MAX])
                copies, size = copies + count, size + freed
                failpoint("gc.deleting")
                progress(copies, report.copies)
            temp_files += node.sweep()
            if quarantine:
                count, freed = node.discard_quarantined(spare)
                kept, kept_bytes = kept + count, kept_bytes + freed
        except NodeFailed as error:
            failures.append(str(error))
    return replace(
        report,
        copies=copies,
        bytes=size,
        temp_files=temp_files + sweep(store),
        quarantined_copies=kept,
        quarantined_bytes=kept_bytes,
        failures=tuple(failures),
    )


def _spare(store: Store) -> set[ChunkId]:
    """Chunks with records in quarantine that nothing can be gained from: not needed, or with all their good copies."""
    nodes = store.replicated.nodes
    spare = {chunk for node in nodes.values() for chunk in node.quarantined()}
    for chunk, _, replicas in needed(store):
        if chunk in spare:
            holders = store.replicated.holders(chunk)
            good = sum(fault(nodes[node], chunk) is None for node in holders)
            if good < (replicas or store.replicas):
                spare.remove(chunk)
    return spare
