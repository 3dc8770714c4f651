"""Scrub: read every copy of every chunk, slowly, and heal what is damaged or gone from another node.

It goes through the chunks of all nodes in ascending order and saves how far it came, so it may be stopped at any time
and goes on there. A node that does not answer (no file descriptors left, no permission) stops it with NodeFailed: that
is not corruption.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import asdict

from dfs.errors import DfsError, Unsupported
from dfs.failpoints import failpoint
from dfs.health import Finding, Held, finding_of, needed, still_needed, survey
from dfs.ids import ChunkId
from dfs.options import BATCH_BYTES_MAX, SCRUB_SAVE_BYTES
from dfs.pins import alone
from dfs.repair import Action, Work, plan_repair
from dfs.throttle import Throttle
from dfs.witness import log_faults

if TYPE_CHECKING:
    from dfs.store import Store

Progress = Callable[[int, int], None]  # told (copies read, their stored bytes) of this pass
log = logging.getLogger("dfs")
CURSOR = "scrub.json"
FORMAT = 1


class Cursor(Struct, frozen=True):
    """How far a pass over all chunks has come: `after` this id ("": at the beginning); copies and stored bytes read,
    and bad copies found, since its beginning."""

    after: str = ""
    copies: int = 0
    bytes: int = 0
    found: int = 0


class Scrubbed(Struct, frozen=True):
    """What one run did. `done`: the pass has come to its end (the next one begins anew).

    `damaged` are chunks with bad copies, `lacking` those with too few, `lost` those without a good copy; `waiting` ones
    have none either, but an absent node may; `healed` copies were written; `spoilt` damaged copies that no file needs
    were put in quarantine; `failures` are copies that could not be written and, at the end of a pass, faults of logs
    and checkpoints.
    """

    copies: int
    bytes: int
    damaged: tuple[Finding, ...]
    lacking: tuple[Finding, ...]
    lost: tuple[Finding, ...]
    waiting: tuple[Finding, ...]
    healed: int
    spoilt: int
    failures: tuple[str, ...]
    done: bool
    cursor: Cursor

    @property
    def clean(self) -> bool:
        """Whether nothing was found wrong."""
        return not (self.damaged or self.lacking or self.lost or self.waiting or self.spoilt or self.failures)


def scrub(
    store: Store,
    *,
    rate: float | None = None,
    restart: bool = False,
    budget: int | None = None,
    progress: Progress = lambda copies, size: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Scrubbed:
    """Go on with the pass that was begun, or begin one (`restart`: in any case).

    `rate`: bytes a second; `budget`: stop after about so many bytes. Raises NodeFailed when a node does not answer;
    what was done until then is saved. Raises StoreLocked when another scrub is running.
    """
    with alone(store.pins.folder, "scrub.lock"):
        store.reload()
        run = _Run(store, Throttle(rate, clock, sleep), Cursor() if restart else load_cursor(store))
        try:
            done = run.go(budget, progress)
        except BaseException:
            run.stop()
            raise
        run.save(done)
        return run.report(done, list(_log_faults(store)) if done else [])


def _log_faults(store: Store) -> Iterator[str]:
    """At the end of a pass: what is wrong with the logs and checkpoints, read to the last byte."""
    for node, folder in sorted(store.node_paths().items()):
        if node not in store.absent:
            for fault in log_faults(store, folder, read_data=True):
                yield f"node {node}: {fault}"


def load_cursor(store: Store) -> Cursor:
    """How far the pass under way has come. A file that cannot be read counts as none. Raises Unsupported."""
    try:
        value = json.loads((store.path / CURSOR).read_text())
        if value["format"] > FORMAT:
            raise Unsupported(
                f"{store.path / CURSOR} is of a newer release; update millrace, or begin anew (--restart)"
            )
        after = value["after"] and ChunkId.parse(value["after"])
        return Cursor(after, int(value["copies"]), int(value["bytes"]), int(value["found"]))
    except FileNotFoundError:
        return Cursor()
    except (ValueError, KeyError, TypeError, OSError) as error:
        log.warning("%s cannot be read (%s); the scrub begins anew", store.path / CURSOR, error)
        return Cursor()


def sweep(store: Store) -> int:
    """Remove what a killed scrub left beside its cursor; how many files. For a collection: a living scrub writes under
    the shared lock."""
    found = list(store.path.glob(f"{CURSOR}.*.new"))
    for file in found:
        file.unlink(missing_ok=True)
    return len(found)


class _Run:
    """One run of a scrub."""

    def __init__(self, store: Store, throttle: Throttle, cursor: Cursor) -> None:
        self._store = store
        self._throttle = throttle
        self._cursor = self._begun = self._saved = cursor
        self._damaged: list[Finding] = []
        self._lacking: list[Finding] = []
        self._lost: list[Finding] = []
        self._waiting: list[Finding] = []
        self._spoilt = 0
        self._to_heal: list[Finding] = []
        self._work = Work(store, Throttle(None))

    def go(self, budget: int | None, progress: Progress) -> bool:
        """Returns whether the end was reached."""
        for held in survey(needed(self._store), self._store.replicated.nodes):
            if held.chunk <= self._cursor.after:
                continue
            if budget is not None and self._cursor.bytes - self._begun.bytes >= budget:
                return False
            size = sum(stored for _, stored in held.holders)
            self._throttle.spend(size)
            bad = self._check(held)
            seen = self._cursor
            self._cursor = Cursor(held.chunk, seen.copies + len(held.holders), seen.bytes + size, seen.found + bad)
            progress(self._cursor.copies, self._cursor.bytes)
            if sum(finding.length for finding in self._to_heal) >= BATCH_BYTES_MAX:
                self.heal()
            if self._cursor.bytes - self._saved.bytes >= SCRUB_SAVE_BYTES:
                self.save(done=False)
        return True

    def _check(self, held: Held) -> int:
        """Read all copies of a chunk; how many were bad or gone."""
        found = finding_of(self._store, held, read_data=True)
        if found is None:
            return 0
        kind, finding = found
        bad = len(finding.copies.bad)
        if kind == "orphaned":
            for node, _ in finding.copies.bad:
                self._store.replicated.nodes[node].quarantine(finding.chunk)
            self._spoilt += bad
        elif kind == "missing":
            self._lost.append(finding)
        elif kind == "waiting":
            self._waiting.append(finding)
        elif kind == "corrupt":
            self._damaged.append(finding)
            self._to_heal.append(finding)
        elif kind == "under_replicated" and self._plan([finding]):  # else an absent node may have the copy
            self._lacking.append(finding)
            self._to_heal.append(finding)
            bad = finding.replicas - len(finding.copies.good)
        return bad

    def _plan(self, findings: list[Finding]) -> list[Action]:
        return plan_repair(findings, self._work.nodes(), drops=False)

    def heal(self) -> None:
        """Write what was found bad since the last time."""
        failpoint("scrub.found")
        actions = self._plan(self._to_heal)
        while actions:
            actions = self._plan(self._work.copy(actions))
        self._to_heal = []

    def stop(self) -> None:
        """Save what can be saved when the pass cannot go on; what was found and not healed is to be found again."""
        with contextlib.suppress(DfsError):  # without descriptors the cursor before this one is kept
            self.heal()
            if not self._work.report().failures:
                self.save(done=False)

    def save(self, done: bool) -> None:
        """Make what has been done permanent. Raises DfsError."""
        self.heal()
        value = json.dumps({"format": FORMAT, **asdict(Cursor() if done else self._cursor)})
        file = self._store.path / CURSOR
        try:
            with self._store.pins.writing():
                self._store.disk.write_whole(file, value.encode() + b"\n")
        except OSError as error:
            raise DfsError(f"{file} cannot be written: {error}") from error
        self._saved = self._cursor

    def report(self, done: bool, log_faults: list[str]) -> Scrubbed:
        """What this run did."""
        healed = self._work.report()
        return Scrubbed(
            copies=self._cursor.copies - self._begun.copies,
            bytes=self._cursor.bytes - self._begun.bytes,
            damaged=tuple(self._damaged),
            lacking=tuple(still_needed(self._store, self._lacking)),
            lost=tuple(still_needed(self._store, self._lost)),
            waiting=tuple(still_needed(self._store, self._waiting)),
            healed=healed.copies,
            spoilt=self._spoilt,
            failures=(*healed.failures, *log_faults),
            done=done,
            cursor=Cursor() if done else self._cursor,
        )
