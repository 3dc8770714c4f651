"""Frozen values that cross between master, scheduler, journal and workers. All are plain: they pickle and encode.

A *stage* is a set of tasks that run one program. A *task* is the program applied to one input, a pure function named
by its fingerprint. An *attempt* is one try at a task. An *outlet* is where a program's records leave a task: the
segments of an exchange that later tasks read, or a part of an output.
"""

from __future__ import annotations

import builtins
from typing import NamedTuple

from msgspec import Struct


class TaskId(NamedTuple):
    """A task by its stage and its place in the stage's order."""

    stage: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here

    def __str__(self) -> str:
        return f"{self.stage}.{self.index}"


class AttemptId(NamedTuple):
    """One try at a task; `number` counts from 1 over all tries, lost ones included."""

    stage: int
    index: int  # type: ignore[assignment]
    number: int

    @property
    def task(self) -> TaskId:
        return TaskId(self.stage, self.index)

    def __str__(self) -> str:
        return f"{self.stage}.{self.index}#{self.number}"


# --- what a task reads -----------------------------------------------------------------------------------------------


class PieceRef(Struct, frozen=True):
    """A contiguous part of one input file. `length` counts stored bytes; `chunks` are set for files of the store.

    `compression` is the codec that the bytes are in (None: plain); `row_groups` selects those of a Parquet file. Of a
    local file `stamp` and `digest` are what it looked like when the job was planned, and the BLAKE3 (hex) of the piece.
    """

    path: str
    offset: int
    length: int
    compression: str | None = None
    row_groups: tuple[int, ...] | None = None
    store: str | None = None
    chunks: tuple[tuple[str, int], ...] = ()  # (chunk id, length), in order
    stamp: str = ""
    digest: str = ""


class Split(Struct, frozen=True):
    """The input of one source task. `identity` names its content; equal identities are equal records.

    `items` holds the records themselves (an Arrow IPC stream) where they come from the program, not from files; `run`
    names the run files of a materialized result.
    """

    pieces: tuple[PieceRef, ...]
    identity: str
    size_bytes: int
    items: bytes | None = None
    run: ExchangeInput | None = None


class Segment(Struct, frozen=True, array_like=True, gc=False):  # a master may hold millions
    """The rows of one bucket of one run: `rows` from `start`; `digest` is XXH3-128 as 32 hex digits."""

    bucket: int
    run: int
    start: int
    bytes: int
    rows: int
    digest: str


class SourceFile(Struct, frozen=True):
    """The run file of one producer, relative to the scratch root. `producer` is for fetch failures and messages."""

    producer: TaskId
    path: str


class Place(Struct, frozen=True):
    """Where the records of one split lie: for each piece its path, byte offset, and line number base (from 0)."""

    pieces: tuple[tuple[str, int, int], ...]


class Cut(Struct, frozen=True):
    """A boundary of a global sort: rows before (key, producer, run, row) lie on its left."""

    key: bytes  # IPC stream of one row
    producer: int
    run: int
    row: int


class ExchangeInput(Struct, frozen=True):
    """What a task reads of one exchange: files in producer order, all records cast to `schema` (serialised Arrow).

    `buckets` is the half-open range the task covers; `lower` and `upper` bound a range of a sorted exchange, None is
    open; `spans` says in which rows of which file a range lies (int64[n, 4], see `shuffle.ranges.Range`). `places` (one
    per file) resolve positions.
    `bytes` is what the task will read, to plan memory; `identity` what it will read, for its fingerprint.
    """

    files: tuple[SourceFile, ...]
    schema: bytes
    bytes: int
    identity: str
    buckets: tuple[int, int] = (0, 1)
    lower: Cut | None = None
    upper: Cut | None = None
    spans: builtins.bytes = b""
    places: tuple[Place, ...] = ()


class TaskSpec(Struct, frozen=True):
    """Everything a worker needs to run a task: the pickled program of its stage and the input of this task.

    `code` names the snapshot that the program's modules are imported from ("" for none).
    """

    id: TaskId
    program: bytes
    program_digest: str
    fingerprint: str
    code: str = ""
    split: Split | None = None
    exchanges: tuple[ExchangeInput, ...] = ()
    sides: tuple[ExchangeInput, ...] = ()
    schemas: tuple[bytes | None, ...] = ()  # per outlet: the schema it must write, where the master has settled one


# --- what a task leaves ----------------------------------------------------------------------------------------------


class PartFile(Struct, frozen=True, array_like=True):
    """A file that a task left of an output: `folder` of the output that it belongs in ("" for none), and its BLAKE3.

    `path` is relative to the scratch root ("" for a file in a store, where `manifest` is the store's).
    """

    folder: str
    path: str
    rows: int
    bytes: int
    digest: str
    manifest: str = ""


class Output(Struct, frozen=True):
    """What one outlet of a task left: a run file (`path`, `segments`) or files of an output (`parts`).

    `path` is relative to the scratch root of the node that ran the task ("" where no run file was written); `schema` is
    a serialised Arrow schema; `sample` an IPC stream of the first key of every block (sorted exchanges), or of frequent
    keys and how often they occur (`kernels.skew`; shuffles of joins).
    """

    path: str
    schema: builtins.bytes
    rows: int
    bytes: int
    segments: tuple[Segment, ...] = ()
    sample: builtins.bytes = b""
    parts: tuple[PartFile, ...] = ()


class Rejected(NamedTuple):
    """How many records the head or a step of a task left out; where the first lay (see `operators.base.REJECTED`; -1:
    unknown), and why it was left out; `given`: how many records there were, those that were left out included."""

    records: int = 0
    offset: int = -1
    line: int = -1
    error: str = ""
    given: int = 0


class TaskResult(Struct, frozen=True):
    """The recorded result of a task. `piece_lines` counts the records of each piece, for line numbers.

    `rejected`: what the head and then each step left out. `timing`: seconds by kind of work
    (`stopwatch.KINDS`); `spilled`: bytes written to scratch because they did not fit the attempt's memory. `opened`:
    the files that user code opened and the BLAKE3 of each ("": not there); `impure`: what else keeps the result from
    being reused ("opened a socket"; "": nothing). `types`: for each step that calls Python the schema of what it gave
    (serialised Arrow, hex), "" for other steps.
    """

    outputs: tuple[Output, ...]
    counters: tuple[tuple[str, int], ...] = ()
    records_in: int = 0
    bytes_in: int = 0
    seconds: float = 0.0
    piece_lines: tuple[int, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    timing: tuple[float, ...] = ()
    spilled: int = 0
    opened: tuple[tuple[str, str], ...] = ()
    impure: str = ""
    types: tuple[str, ...] = ()

    @property
    def digests(self) -> tuple[tuple[str, ...], ...]:
        """Per output the digests of its bytes: equal for equal results."""
        return tuple((*(s.digest for s in out.segments), *(p.digest for p in out.parts)) for out in self.outputs)


class Attempt(Struct, frozen=True):
    """A task given to an executor. `folder` is the working directory: what relative paths mean."""

    id: AttemptId
    spec: TaskSpec
    folder: str = "."
