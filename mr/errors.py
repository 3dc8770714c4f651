"""The engine's errors, split by who recovers from them.

MillraceError
├── PlanError            the job is wrong before anything runs (user); names the call
├── InputError           an input is missing, unreadable or corrupt (user)
│   └── CorruptInput     bytes of a file are damaged; on_error= can leave the rest of that file out
├── OutputError          a destination exists, overlaps or cannot be written (user)
├── RecordError          one record could not be processed (user); carries where it lies
│   └── TypeConflict     a value whose type does not fit its column
├── FetchFailed          another task's file is gone or damaged (the scheduler runs that task again)
├── JournalError         the state under MR_HOME is unusable (user)
├── ExecutorError        workers cannot be started or reached (user)
├── JobFailed            a task failed for good; carries the rendered reason
└── JobCancelled         the job was interrupted; it can be resumed

RecordsLeftOut           no error but a warning (Python's `warnings`): an action gave fewer records than there are
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct


class MillraceError(Exception):
    """Base of all errors that the engine raises on purpose. `exit_code` is what `mr` ends with.

    `site` is the user's line that asked for what failed, once somebody knows it (see `at_line`): it begins the message.
    """

    exit_code = 1
    site = ""

    def __str__(self) -> str:
        text = super().__str__()
        return f"{self.site}: {text}" if self.site else text


class PlanError(MillraceError):
    """The job is wrong before anything runs. The message names the call and the cure.

    `detail` is the user's part of a traceback, where loading the job raised.
    """

    exit_code = 2

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class InputError(MillraceError):
    """An input is missing, unreadable or corrupt. The message names the file."""


class InputNotFound(InputError):
    """No file matches an input."""

    exit_code = 4


class CorruptInput(InputError):
    """The bytes of a file are damaged, cut short or not what the format says, so that the rest of it cannot be read.

    `reason` says so without the path, for rejects; `offset` is how many bytes of the piece (decompressed ones of a
    compressed file) came before, and `base` where the piece begins in its file.
    """

    def __init__(self, path: str, offset: int, reason: str, base: int = 0) -> None:
        super().__init__(f"{path}, byte {base + offset}: {reason}")
        self.path = path
        self.offset = offset
        self.reason = reason
        self.base = base

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.path, self.offset, self.reason, self.base)


class OutputError(MillraceError):
    """A destination exists already, overlaps with another or cannot be written."""


class RecordPlace(Struct, frozen=True):
    """Where a record lies: `path` (None: made by the engine), byte `offset` and `line` (from 1; None: unknown)."""

    path: str | None
    offset: int | None = None
    line: int | None = None

    def __str__(self) -> str:
        parts = [self.path or "<memory>"]
        if self.line is not None:
            parts.append(f"line {self.line}")
        if self.offset is not None:
            parts.append(f"byte {self.offset}")
        return ", ".join(parts)


class RecordError(MillraceError):
    """One record could not be processed.

    `row` is the record's index in the list or batch that was given to the failing call, so that the caller can
    find its origin; None where no single record is to blame.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.row = row

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.row)


class TypeConflict(RecordError):
    """A value whose type does not fit the type of its column; the message names column and both types."""


class FunctionFailed(RecordError):
    """A user's function raised. `detail` is the traceback without the engine's frames.

    Made in the worker from the exception itself; only text crosses to the master.
    """

    def __init__(self, message: str, row: int | None = None, cause: BaseException | str = "") -> None:
        super().__init__(message, row)
        self.detail = cause if isinstance(cause, str) else user_frames(cause)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.row, self.detail)


@contextmanager
def at_line(site: str) -> Iterator[None]:
    """Errors of records and plans that are raised within are those of the user's line `site`, unless they have one.

    >>> with at_line("job.py:12"):
    ...     raise TypeConflict("column 'k' is int and str")
    Traceback (most recent call last):
    ...
    mr.errors.TypeConflict: job.py:12: column 'k' is int and str
    """
    try:
        yield
    except (RecordError, PlanError) as error:
        error.site = error.site or site
        raise


def user_frames(error: BaseException) -> str:
    """The traceback of `error` without the frames of engine and importer; empty where user code was not running."""
    ours = (__file__.rpartition("/")[0] + "/", importlib.__file__, "<frozen importlib")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)]
    if not frames:
        return ""
    lines = ["Traceback (user code):\n", *traceback.format_list(frames)]
    return "".join([*lines, *traceback.format_exception_only(error)]).rstrip()


def in_user_code(error: Exception, file: str) -> PlanError:
    """What an error becomes that loading or planning the job of `file` raised: it names the file's line.

    An error of ours needs no traceback: its message says what to do at that line.
    """
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    where = file.rpartition("/")[2] + (f":{lines[-1]}" if lines else "")
    if isinstance(error, MillraceError):
        return PlanError(f"{where}: {error}" if lines else str(error))
    return PlanError(one_line(f"{where}: {type(error).__name__}: {error}"), user_frames(error))


def one_line(message: str) -> str:
    """A message as a terminal may show it: what users raise has several lines, what files hold has escape codes.

    >>> one_line("ValueError: no\\n  such \\x1b[31mkey")
    'ValueError: no such \\\\x1b[31mkey'
    """
    lines = " ".join(line.strip() for line in message.split("\n"))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in lines)


class FetchFailed(MillraceError):
    """A file that another task wrote is gone or damaged; `path` names it and `producer` the task that wrote it."""

    def __init__(self, path: str, reason: str, producer: tuple[int, int] | None = None) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.producer = producer

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.path, self.reason, self.producer)


class JournalError(MillraceError):
    """The state under MR_HOME is missing, foreign, newer than this version or in use."""


class JournalLocked(JournalError):
    """Another master is running this very job."""

    exit_code = 11


class ExecutorError(MillraceError):
    """Workers cannot be started or reached."""


class JobFailed(MillraceError):
    """A task failed for good. `detail` is the user's part of the traceback, if user code raised."""

    def __init__(self, message: str, detail: str | None = None) -> None:
        super().__init__(message)
        self.detail = detail
        if detail:
            self.add_note(detail)  # in a script the traceback ends in the engine; this shows the user's line


class JobCancelled(MillraceError):
    """The job was interrupted; submitting it again resumes it."""

    exit_code = 130


class RecordsLeftOut(UserWarning):
    """An action such as `take_all` gave what is left after on_error="quarantine", and nothing asked for the rest.

    >>> import mr, warnings
    >>> with warnings.catch_warnings(record=True) as told:
    ...     mr.from_items(["1", "x"]).map(int, on_error="quarantine").take_all()
    [1]
    >>> print(str(told[0].message).partition(";")[0])
    map int left 1 record out, the first of them: ValueError: invalid literal for int() with base 10: 'x'
    """
