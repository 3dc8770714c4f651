"""The operator contract.

An operator is a frozen `Struct` of plain values, expressions and functions. It says at plan time what records it
gives for what records it gets (`shape`), and inside a task it is started once and then fed batches in order. Being a
value, it is what fingerprints are made of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec import Struct

from mr.abstract import AbstractStruct
from mr.batch import Batch, Kind, Origins
from mr.errors import PlanError
from mr.kernels.rows import Shape

OnError = Literal["fail", "skip", "quarantine"]


class ErrorPolicy(Struct, frozen=True):
    """What happens to records that cannot be processed. `max_bad`: a count (int) or a share of all records (float)."""

    on_error: OnError = "fail"
    max_bad: int | float | None = None

    def __post_init__(self) -> None:
        if self.on_error not in ("fail", "skip", "quarantine"):
            raise PlanError(f'on_error={self.on_error!r}: use "fail", "skip" or "quarantine"')
        most = self.max_bad
        if most is not None and (isinstance(most, bool) or most < 0 or (isinstance(most, float) and not most <= 1)):
            raise PlanError(f"max_bad_records={most!r}: use a count (int) or a share between 0.0 and 1.0 (float)")
        if most is not None and self.on_error == "fail":
            raise PlanError(
                f'max_bad_records={most!r} says how many may be left out; add on_error="skip" or "quarantine"'
            )


REJECTED = pa.schema(
    [
        ("offset", pa.int64()),
        ("line", pa.int64()),
        ("operator", pa.large_string()),
        ("error", pa.large_string()),
        ("raw", pa.large_binary()),
        ("records", pa.int64()),
    ]
)
"""What a task left out, a row for each call that failed. `raw`: the bytes of the file, or the record that a function
was given (`raw_of`). `records`: how many records it was given, more than one for a batch or a group. Positions count
from the start of piece `line >> 40` of the split."""


class TaskEnv(Protocol):
    """What a running operator may ask of its task."""

    identity: str  # names the content that the task reads
    memory_bytes: int
    home: str
    scratch: str  # a folder for temporary files, made when the first is written

    def side(self, index: int, build: Callable[[Sequence[pa.RecordBatch]], object], key: str) -> object:
        """The broadcast input `index` (one batch at least, all mapped), turned by `build` once for equal `key`."""
        ...

    def count(self, name: str, n: int) -> None:
        """Add to a counter of the task."""
        ...

    def reject(self, rows: pa.RecordBatch) -> None:
        """Records (as `REJECTED`) that the head of the task left out. Narrow operators have `Run.rejects`."""
        ...

    def where(self, origins: Origins | None, row: int | None) -> str:
        """Where a record lies, for messages: path, line and byte offset; "" where unknown."""
        ...

    def watch(self, records: Iterator[Any]) -> None:
        """User code is about to be given these records one by one: that it takes them is a sign of life."""
        ...


class Run(ABC):
    """An operator at work in one task. `rejects` collects what it left out since it was last drained."""

    rejects: list[pa.RecordBatch]

    @abstractmethod
    def feed(self, batch: Batch) -> Iterable[Batch]:
        """The output for the next batch, in order."""

    def end(self) -> Iterable[Batch]:
        """What is left after the last batch."""
        return ()


class Narrow(AbstractStruct, frozen=True):
    """An operator whose output for a split depends on that split alone. Subclasses are frozen."""

    label: ClassVar[str]
    calls_python: ClassVar[bool] = False  # user code may raise: it wants to know where records lie

    @abstractmethod
    def shape(self, given: Shape | None) -> Shape | None:
        """The shape of the output for input of shape `given`; None where only running it tells. Raises PlanError."""

    @abstractmethod
    def start(self, env: TaskEnv, track: bool) -> Run:
        """An instance for one task. `track`: somebody downstream needs origins."""


class Stateless(Run):
    """A run that is a function of each batch."""

    def __init__(self, apply: Callable[[Batch], Batch]) -> None:
        self._apply = apply
        self.rejects = []

    def feed(self, batch: Batch) -> Iterable[Batch]:
        return (self._apply(batch),)


class Combiner(AbstractStruct, frozen=True):
    """The map-side half of a grouping: shrinks a block of rows to partial rows that the reduce side understands."""

    @abstractmethod
    def exact(self, schema: pa.Schema) -> bool:
        """Whether, for input rows of `schema`, combining partial rows once more early gives the same bytes."""

    @abstractmethod
    def combine(self, block: pa.RecordBatch) -> pa.RecordBatch:
        """Partial rows of one block of input rows, groups in order of first occurrence."""

    def recombine(self, partial: pa.RecordBatch) -> pa.RecordBatch:
        """Partial rows combined further (called only if `exact`)."""
        return self.combine(partial)


class Grouped(AbstractStruct, frozen=True):
    """A keyed operator: sees the rows of a range of buckets in (bucket, key, `sort_by`, task, row) order."""

    label: ClassVar[str]
    merges: ClassVar[bool] = False  # whether `merge` may be called on rows before they are sorted for `reduce`

    @property
    @abstractmethod
    def keys(self) -> tuple[str, ...]:
        """The columns that rows of one group agree in."""

    def merge(self, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, npt.NDArray[np.int64]]:
        """Rows of equal keys made one, in row order, so that `reduce` gives the same.

        Returns (rows in order of first occurrence, the first of the given rows for each).
        """
        raise NotImplementedError

    @property
    def order(self) -> tuple[tuple[str, ...], tuple[bool, ...]]:
        """Columns (and their directions) that rows of one group are sorted by, beyond input order."""
        return (), ()

    @property
    def combiner(self) -> Combiner | None:
        """The map-side half, if there is one."""
        return None

    @abstractmethod
    def shape(self, given: Shape) -> Shape | None:
        """The shape of the output for the rows before the shuffle."""

    @abstractmethod
    def reduce(self, rows: Iterator[pa.RecordBatch], env: TaskEnv) -> Iterator[pa.RecordBatch]:
        """The output for sorted `rows`; a group may go on from one batch to the next."""


def reject_rows(
    origins: Origins | None,
    rows: npt.NDArray[np.int64],
    operator: str,
    errors: list[str],
    raws: list[bytes],
    records: int = 1,
) -> pa.RecordBatch:
    """Rejects as a batch of schema `REJECTED`, each of so many records; origins are -1 where they mean nothing."""
    places = np.full((len(rows), 2), -1, dtype=np.int64) if origins is None else origins[rows]
    columns = [
        pa.array(places[:, 0]),
        pa.array(places[:, 1]),
        pa.array([operator] * len(rows), pa.large_string()),
        pa.array(errors, pa.large_string()),
        pa.array(raws, pa.large_binary()),
        pa.array([records] * len(rows), pa.int64()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=REJECTED)


def raw_of(record: object) -> bytes:
    """A record that a function was given, as `rejected()` shows it: bytes as they are, text in UTF-8, else its `repr`.

    >>> raw_of("é"), raw_of(b"x"), raw_of((1, None))
    (b'\\xc3\\xa9', b'x', b'(1, None)')
    """
    return record if isinstance(record, bytes) else (record if isinstance(record, str) else repr(record)).encode()


def require_columns(given: Shape, names: Iterable[str], call: str) -> Shape:
    """`given`, once it is known to have all `names`.

    Raises PlanError naming the call, the column that does not exist and those that do.
    """
    wanted = list(names)
    if wrong := [name for name in wanted if not isinstance(name, str)]:
        several = isinstance(wrong[0], (list, tuple))
        cure = "give the columns one by one" if several else "with_columns() gives one a name"
        raise PlanError(f"{call}: {wrong[0]} is not the name of a column; {cure}")
    missing = [name for name in wanted if name not in given.names]
    if missing:
        raise PlanError(f"{call}: no column {missing[0]!r}; there are {', '.join(map(repr, given.names)) or 'none'}")
    return given


def rows_shape(names: Iterable[str], types: Iterable[pa.DataType | None], kind: Kind = "rows") -> Shape:
    """A shape from names and types."""
    return Shape(kind, tuple(names), tuple(types))
