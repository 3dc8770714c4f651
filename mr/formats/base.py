"""The contract between storage, which finds and opens bytes, and the formats, which turn bytes into batches and back.

A reader is a frozen `Struct` of plain values: it is part of fingerprints and travels to workers. It never opens
paths itself: it gets a `Piece`, a contiguous part of one file whose bytes start and end at record boundaries
(whole files where `cut` is "file").
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Literal, Protocol

from msgspec import Struct

from mr.abstract import AbstractStruct
from mr.formats.compression import Codec

if TYPE_CHECKING:
    import pyarrow as pa

    from mr.batch import Batch, Origins
    from mr.formats.bounds import Bound

Cut = Literal["lines", "file", "row_groups"]


class Piece(Protocol):
    """A contiguous part of one input file, opened on demand.

    `path` is for messages and `include_path`; `offset` is the piece's first byte in the file (0 for compressed
    files, whose offsets count decompressed bytes); `row_groups` is set for Parquet pieces only.
    """

    @property
    def path(self) -> str: ...

    @property
    def offset(self) -> int: ...

    @property
    def row_groups(self) -> tuple[int, ...] | None: ...

    def buffer(self) -> pa.Buffer:
        """All bytes of the piece (decompressed, within the decompression limit) at once."""
        ...

    def blocks(self, block_bytes: int) -> Iterator[bytes]:
        """The same bytes as blocks of at most `block_bytes`, cut anywhere: memory stays bounded."""
        ...

    def file(self) -> BinaryIO:
        """A seekable binary file over the whole file (Parquet, archives)."""
        ...


class Rejects(Protocol):
    """Where a reader reports records it cannot parse.

    Raises `RecordError` when the policy is "fail"; returns when the records are to be left out.
    """

    def __call__(self, origins: Origins, raws: list[bytes], errors: list[str]) -> None: ...


class Reader(AbstractStruct, frozen=True):
    """Turns a piece into batches. Subclasses hold plain values."""

    decompress: ClassVar[bool] = True  # storage decompresses .gz/.bz2/.xz/.zst before `read` sees the bytes

    @property
    @abstractmethod
    def cut(self) -> Cut:
        """Where storage may cut a file; a constant of most classes (`cut: ClassVar[Cut] = "file"`)."""

    @property
    def record_end(self) -> bytes:
        """The bytes that end a record, for readers that are cut by "lines"."""
        return b"\n"

    def group_bytes(self, file: BinaryIO, path: str) -> list[int]:
        """The bytes of every row group of a file, for readers that are cut by "row_groups". Raises `InputError`."""
        raise NotImplementedError

    @property
    def uses_place(self) -> bool:
        """Whether a file's path or a record's offset becomes data, and so part of the identity of what is read."""
        return False

    def place_of(self, path: str, offset: int) -> object:
        """What becomes data of where a piece lies; None for nothing."""
        return (path, offset) if self.uses_place else None

    @abstractmethod
    def schema(self) -> pa.Schema | None:
        """The schema that every batch has, with its kind; None where only the data tells."""

    def skipping(self, bounds: tuple[Bound, ...]) -> Reader:
        """A reader for those who want only records that pass all of `bounds`: it may leave out others, where that is
        cheap."""
        return self

    @abstractmethod
    def read(self, piece: Piece, rejects: Rejects, columns: tuple[str, ...] | None, track: bool) -> Iterator[Batch]:
        """Yield the records of `piece` in order, a few MiB a batch; cuts depend on the piece's bytes alone.

        `columns`: only these are needed downstream (None: all); at least one column always comes. `track`: fill
        `Batch.origins`. The record number of formats made of lines counts lines, also blank and rejected ones.
        Raises `InputError` when the piece is corrupt as a whole (bad CRC, truncated, not the format).
        """


class Writer(AbstractStruct, frozen=True):
    """Turns batches into the bytes of one part file. Subclasses hold plain values."""

    extension: ClassVar[str]  # of part files, with the dot: ".parquet"
    also: ClassVar[tuple[str, ...]] = ()  # other extensions that name one file of this format

    @abstractmethod
    def check(self, schema: pa.Schema) -> None:
        """Raise `PlanError` naming column and cure where `schema` cannot be written (nested columns in CSV)."""

    @abstractmethod
    def write(self, batches: Iterator[pa.RecordBatch], schema: pa.Schema, out: BinaryIO) -> int:
        """Write all `batches` (each of `schema`) to `out` and return the rows written.

        The bytes depend on the rows and `schema` alone, never on how the rows were cut into batches.
        """


class Layout(Struct, frozen=True):
    """How the rows of an output become files, whatever their format.

    `partition_by`: columns whose values name folders instead of being in the files. `part_bytes_max`: a task begins a
    new part after so many bytes of rows (as Arrow holds them); None: never. `codec` compresses whole files of text.
    """

    partition_by: tuple[str, ...] = ()
    part_bytes_max: int | None = None
    codec: Codec | None = None
