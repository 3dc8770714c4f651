"""The journal: jobs, results by fingerprint, publications and what is known of input files, in SQLite under MR_HOME.

It is the engine's only memory (docs/formats/journal.md). Losing it costs running again, never a wrong result: a result
is used only if its files are there, and they are verified when read.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import apsw.sqlite_extra
import msgspec
from msgspec import Struct

from mr.errors import JournalError, JournalLocked
from mr.fingerprint import Identity
from mr.inputs import Range
from mr.scratch import is_held
from mr.tasks import TaskResult

APPLICATION_ID = 0x6D726A6C  # "mrjl"
VERSION = 1
BUSY_S = 10
DAMAGED = (apsw.SQLITE_IOERR_DATA, apsw.SQLITE_IOERR_CORRUPTFS)  # other errors of input and output are the disk's
SCHEMA = """
CREATE TABLE job (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL,
  started REAL NOT NULL, ended REAL, request TEXT NOT NULL, versions TEXT NOT NULL, report TEXT NOT NULL DEFAULT '{}'
);
CREATE TABLE result (
  fingerprint TEXT PRIMARY KEY, parts TEXT NOT NULL, task TEXT NOT NULL, result TEXT NOT NULL, recorded REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE publication (
  destination TEXT PRIMARY KEY, job_key TEXT NOT NULL, version TEXT NOT NULL, report TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE input_file (
  path TEXT PRIMARY KEY, stamp TEXT NOT NULL, ranges TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE event (
  job INTEGER NOT NULL, seq INTEGER NOT NULL, text TEXT NOT NULL, PRIMARY KEY (job, seq)
) WITHOUT ROWID;
"""


class JobRow(Struct, frozen=True):
    """A job as `mr list` shows it. Times are seconds since the epoch; `report` is the result line of the job."""

    id: int
    key: str
    name: str
    state: str
    started: float
    ended: float | None
    report: dict[str, Any]


class StartedJob(Struct, frozen=True):
    """A job that runs: its number here, the name of its publication (unique everywhere, the same when it is resumed),
    and what was at its destinations when it began."""

    id: int
    request: str
    versions: Mapping[str, str | None]


class Publication(Struct, frozen=True):
    """What a destination was last published with: by which job, as which version, and what was reported."""

    job_key: str
    version: str
    report: dict[str, Any]


class Journal:
    """The journal under `home`, made on first use. Safe for threads of one process and for several processes.

    Raises JournalError when the database is damaged, foreign or from a newer version.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._lock = threading.RLock()
        try:
            home.mkdir(parents=True, exist_ok=True)
            with _flock(home / "journal.lock", wait=True):  # two first users must not both make it
                self._open(home / "journal.db")
        except OSError as error:
            raise JournalError(f"MR_HOME {home} cannot be used: {error}") from None
        except apsw.Error as error:
            raise self._unusable(error) from None

    def _open(self, path: Path) -> None:
        if not path.exists():
            _create(path)
        db = self._db = apsw.Connection(str(path), vfs=_checksums())
        db.set_busy_timeout(BUSY_S * 1000)
        if db.pragma("application_id") != APPLICATION_ID:
            raise JournalError(f"{path} belongs to another program; choose another MR_HOME")
        if db.pragma("user_version") > VERSION:
            raise JournalError(f"{path} was made by a newer version; upgrade or choose another MR_HOME")
        db.pragma("synchronous", "FULL")
        for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("checksum_verification", 1)):
            if str(db.pragma(pragma)) != str(value):  # the VFS answers in text
                raise JournalError(f"{path}: SQLite has {pragma} = {db.pragma(pragma)} where {value} is needed")

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self, durable: bool = True) -> Iterator[None]:
        """A transaction; one that need not be `durable` is not waited for: a power cut may undo it, nothing else."""
        with self._lock:
            self._db.pragma("synchronous", "FULL" if durable else "NORMAL")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, apsw.Error):
                    raise self._unusable(error) from None
                raise

    def _rows(self, sql: str, *bindings: Any) -> list[Any]:
        with self._lock:
            try:
                return self._db.execute(sql, bindings).fetchall()
            except apsw.Error as error:
                raise self._unusable(error) from None

    def _unusable(self, error: apsw.Error) -> JournalError:
        path = self.home / "journal.db"
        if isinstance(error, apsw.BusyError):
            return JournalError(f"{path} was kept busy by another process for {BUSY_S} s; try again")
        code = getattr(error, "extendedresult", 0)
        if isinstance(error, apsw.FullError | apsw.IOError) and code not in DAMAGED:
            cure = "make room on its disk, as with `mr prune`, or choose another MR_HOME"
            return JournalError(f"{path} cannot be read or written ({error}): {cure}")
        cure = "delete the file to start anew (recorded results are lost, outputs are not)"
        return JournalError(f"{path} is not a usable journal ({error}); {cure}")

    # --- results -----------------------------------------------------------------------------------------------------

    def results(self, fingerprints: Iterable[str]) -> dict[str, TaskResult]:
        """The recorded results among `fingerprints`."""
        wanted = json.dumps([f for f in fingerprints if f])
        sql = "SELECT fingerprint, result FROM result WHERE fingerprint IN (SELECT value FROM json_each(?))"
        return {fingerprint: result_from_json(text) for fingerprint, text in self._rows(sql, wanted)}

    def record(self, results: Iterable[tuple[Identity, str, TaskResult]], now: float) -> None:
        """Record results in one transaction; the newest wins. Each with its identity and the task's label.

        Not waited for until it is on the disk: neither are the run files that results name.
        """
        with self._transaction(durable=False):
            self._db.executemany(
                "INSERT OR REPLACE INTO result VALUES (?, ?, ?, ?, ?)",
                [(i.digest, json.dumps(i.parts), label, result_to_json(r), now) for i, label, r in results],
            )

    def count_results(self) -> int:
        """How many results are recorded."""
        return int(self._rows("SELECT count(*) FROM result")[0][0])

    def parts_like(self, label: str) -> list[dict[str, str]]:
        """The identity parts of the newest results recorded for tasks called `label`, to explain a miss."""
        sql = "SELECT parts FROM result WHERE task = ? ORDER BY recorded DESC LIMIT 100"
        return [dict(json.loads(parts)) for (parts,) in self._rows(sql, label)]

    # --- jobs --------------------------------------------------------------------------------------------------------

    def unfinished(self, key: str) -> bool:
        """Whether a job with this key was begun and not ended: submitting it again resumes it."""
        return bool(self._rows("SELECT 1 FROM job WHERE key = ? AND state = 'running'", key))

    def start_job(self, key: str, name: str, versions: Mapping[str, str | None], now: float) -> StartedJob:
        """A new job, or the unfinished one with this key, which is thereby resumed.

        `versions` are those of its destinations; a resumed job keeps the versions that it began with.
        """
        with self._transaction():
            sql = "SELECT id, request, versions FROM job WHERE key = ? AND state = 'running'"
            row = self._db.execute(sql, (key,)).fetchone()
            if row is not None:
                return StartedJob(int(row[0]), row[1], json.loads(row[2]))
            request = f"{key[:32]}-{uuid.uuid4().hex}"
            sql = "INSERT INTO job (key, name, state, started, request, versions) VALUES (?, ?, 'running', ?, ?, ?)"
            self._db.execute(sql, (key, name, now, request, json.dumps(dict(versions))))
            return StartedJob(self._db.last_insert_rowid(), request, dict(versions))

    def end_job(self, job: int, state: str, now: float, report: dict[str, Any]) -> None:
        """Note how a job ended: "done", "failed" or "cancelled"."""
        with self._transaction():
            sql = "UPDATE job SET state = ?, ended = ?, report = ? WHERE id = ?"
            self._db.execute(sql, (state, now, json.dumps(report), job))

    def last_report(self, key: str) -> dict[str, Any]:
        """The report of the newest finished job with this key; {} if there is none."""
        sql = "SELECT report FROM job WHERE key = ? AND state = 'done' ORDER BY id DESC LIMIT 1"
        return next((json.loads(report) for (report,) in self._rows(sql, key)), {})

    def jobs(self, limit: int) -> list[JobRow]:
        """The newest jobs first. One whose process is gone is `interrupted`: submitted again, it goes on."""
        rows = self._rows(
            "SELECT id, key, name, state, started, ended, report FROM job ORDER BY id DESC LIMIT ?", limit
        )
        return [
            JobRow(id, key, name, self._alive(key, state), started, ended, json.loads(report))
            for id, key, name, state, started, ended, report in rows
        ]

    def _alive(self, key: str, state: str) -> str:
        return "interrupted" if state == "running" and not is_held(self._lock_of(key)) else state

    def log(self, job: int, lines: Iterable[str]) -> None:
        """Append lines to the history of a job."""
        with self._transaction():
            for text in lines:
                sql = "INSERT INTO event SELECT ?, coalesce(max(seq), 0) + 1, ? FROM event WHERE job = ?"
                self._db.execute(sql, (job, text, job))

    def history(self, job: int) -> list[str]:
        """The history of a job, oldest line first."""
        return [text for (text,) in self._rows("SELECT text FROM event WHERE job = ? ORDER BY seq", job)]

    @contextmanager
    def job_lock(self, key: str) -> Iterator[None]:
        """Hold the one lock of a job key. Raises JournalLocked while another process runs the same job."""
        (self.home / "locks").mkdir(exist_ok=True)
        with _flock(self._lock_of(key), wait=False):
            yield

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """What is written or found within is not pruned: what `job_lock` does for jobs, for runs without a key."""
        path = self.home / "locks" / f"action-{os.getpid()}-{uuid.uuid4().hex}"
        path.parent.mkdir(exist_ok=True)
        try:
            with _flock(path, wait=True):  # `prune` may hold it for a moment, to see whether somebody does
                yield
        finally:
            path.unlink(missing_ok=True)

    def _lock_of(self, key: str) -> Path:
        return self.home / "locks" / key[:32]

    # --- publications and inputs -------------------------------------------------------------------------------------

    def publication(self, destination: str) -> Publication | None:
        """What was last published at a destination by this journal."""
        rows = self._rows("SELECT job_key, version, report FROM publication WHERE destination = ?", destination)
        return Publication(rows[0][0], rows[0][1], json.loads(rows[0][2])) if rows else None

    def published(self, entries: Iterable[tuple[str, Publication]]) -> None:
        """Note what was published at each destination."""
        with self._transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO publication VALUES (?, ?, ?, ?)",
                [(where, p.job_key, p.version, json.dumps(p.report)) for where, p in entries],
            )

    def ranges_of(self, path: str, stamp: str) -> tuple[Range, ...] | None:
        """See `inputs.Memo`."""
        rows = self._rows("SELECT ranges FROM input_file WHERE path = ? AND stamp = ?", path, stamp)
        return tuple(Range(*r) for r in json.loads(rows[0][0])) if rows else None

    def remember(self, path: str, stamp: str, ranges: tuple[Range, ...]) -> None:
        """See `inputs.Memo`."""
        text = json.dumps([(r.offset, r.length, r.digest) for r in ranges])
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO input_file VALUES (?, ?, ?)", (path, stamp, text))


def _create(path: Path) -> None:
    """Make the database under another name and rename it: it exists whole or not at all."""
    temp = path.with_name(path.name + ".new")
    temp.unlink(missing_ok=True)
    with contextlib.closing(apsw.Connection(str(temp), vfs=_checksums())) as db:
        db.reserve_bytes(reserve=8)  # room for a checksum on every page
        db.pragma("journal_mode", "wal")
        marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}"
        db.execute(f"BEGIN; {SCHEMA} {marks}; COMMIT")
    os.rename(temp, path)


@contextmanager
def _flock(path: Path, wait: bool) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        os.utime(handle)  # since when it is held: see `scratch.prune`
        yield
    except BlockingIOError:
        raise JournalLocked("this very job is running in another process; wait for it or end it") from None
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # closing leaves it to processes that were forked meanwhile
        os.close(handle)


def _checksums() -> str:
    """The name of SQLite's checksum VFS, loaded on first use (loading needs some connection)."""
    name = "cksmvfs"
    if name not in apsw.vfs_names():
        with contextlib.closing(apsw.Connection(":memory:")) as db:
            apsw.sqlite_extra.load(db, "cksumvfs")
    return name


def result_to_json(result: TaskResult) -> str:
    """A result as JSON: bytes in base64, segments and parts as lists of their fields in order."""
    return msgspec.json.encode(result).decode()


def result_from_json(text: str) -> TaskResult:
    """The inverse of `result_to_json`.

    >>> result = TaskResult((), (("words", 1),), types=("00",))
    >>> result_from_json(result_to_json(result)) == result
    True
    """
    return msgspec.json.decode(text, type=TaskResult)
