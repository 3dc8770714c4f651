"""Files -> splits. Where a split begins and ends, and its identity, depend on content alone.

A chunk of a store's line file is a split. Local line files are cut about every LOCAL_SPLIT_BYTES (large ones every
two) and then forward to the next record end; the identity is the BLAKE3 of exactly those bytes. Small files are packed
with their neighbours. Compressed files and formats that cannot be cut are one piece.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Final, Protocol

import pyarrow as pa
from blake3 import blake3
from msgspec import Struct
from msgspec.structs import replace

from mr.errors import CorruptInput, InputError, InputNotFound
from mr.fingerprint import digest
from mr.formats.base import Reader
from mr.options import LARGE_FILE_BYTES, LOCAL_SPLIT_BYTES, PACK_BYTES_MAX, PACK_CLOSE_BITS, PACKED_FILE_BYTES_MAX
from mr.pieces import OpenedPiece
from mr.plan import Items, Materialized, Read
from mr.storage import InputFile, list_files, open_local
from mr.tasks import PieceRef, Split

ITEMS_PER_SPLIT = 65_536
SETTLED_SECONDS = 2.0
NOT_READ: Final = (
    *(".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar", ".tgz", ".tbz2", ".txz", ".zip", ".7z", ".rar"),
    *(".lz4", ".lzo", ".snappy", ".br", ".z"),
)
"""Archives and compressions that no reader of text looks into."""
HASHED_BYTES: Final = 1 << 20
"""A local file is hashed by so many bytes at a time ..."""
LOOKED_BYTES: Final = 1 << 14
"""... and the end of a record looked for in so many."""


class Memo(Protocol):
    """Remembers the ranges of local files between runs: (path, stamp) -> ranges."""

    def ranges_of(self, path: str, stamp: str) -> tuple[Range, ...] | None:
        """The ranges of the file when it had this stamp, if they are known."""

    def remember(self, path: str, stamp: str, ranges: tuple[Range, ...]) -> None:
        """Keep the ranges that a file with this stamp has."""


class Range(Struct, frozen=True):
    """A contiguous part of a file and the BLAKE3 (hex) of its bytes."""

    offset: int
    length: int
    digest: str


def input_files(node: Read) -> list[InputFile]:
    """The files of all paths of a reader, each path's in path order. Raises InputNotFound, InputError."""
    return [file for path in node.paths for file in list_files(path)]


def input_bytes(node: Read) -> int:
    """The bytes of all files that a plan node reads, as they are stored. Raises InputNotFound."""
    return sum(file.size for file in input_files(node))


def splits_of(node: Read | Items | Materialized, memo: Memo) -> tuple[Split, ...]:
    """The splits of a source, in input order; at least one, which may be empty. Raises InputNotFound, InputError."""
    if isinstance(node, Items):
        return _item_splits(node.data, node.split_rows or ITEMS_PER_SPLIT)
    if isinstance(node, Materialized):
        return tuple(Split((), part.identity, part.bytes, run=part) for part in node.parts)
    files = input_files(node)
    if node.reader.decompress:
        _refuse_archives(files)
    pieces = _pieces(files, node, memo)
    splits = [_split(group, node.reader) for group in _packed(pieces)]
    return tuple(splits) or (Split((), digest("empty"), 0),)


def whole_files(paths: Sequence[str], decompress: bool) -> Iterator[OpenedPiece]:
    """The files that are not empty (the first one if all are), for inferring a schema. Raises InputNotFound."""
    files = [file for path in paths for file in list_files(path)]
    if not files:
        raise InputNotFound(f"no files in {', '.join(paths)} to infer a schema from; declare it with schema=")
    for file in [file for file in files if file.size] or files[:1]:
        if decompress:
            _refuse_archives([file])
        compression = file.compression if decompress else None
        yield OpenedPiece(PieceRef(file.path, 0, file.size, compression, None, file.store, _refs(file)))


class _Piece(Struct, frozen=True):
    ref: PieceRef
    identity: str
    size: int
    whole_file: bool


def _split(group: Sequence[_Piece], reader: Reader) -> Split:
    parts = []
    for piece in group:
        place = reader.place_of(piece.ref.path, piece.ref.offset)
        parts.append((piece.identity, piece.ref.offset == 0, piece.ref.row_groups, piece.ref.compression, place))
    return Split(tuple(p.ref for p in group), digest(parts), sum(p.size for p in group))


def _packed(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    """Groups of pieces: small files together until one whose identity ends in zero bits, others on their own."""
    group: list[_Piece] = []
    size = 0
    for piece in pieces:
        small = piece.whole_file and piece.size <= PACKED_FILE_BYTES_MAX
        if group and (not small or size + piece.size > PACK_BYTES_MAX):
            yield group
            group, size = [], 0
        group.append(piece)
        size += piece.size
        closes = int(piece.identity[-8:], 16) % (1 << PACK_CLOSE_BITS) == 0
        if not small or closes:
            yield group
            group, size = [], 0
    if group:
        yield group


def _refuse_archives(files: Sequence[InputFile]) -> None:
    """Raise InputError for a file whose name promises what is not read: it would give garbage for records."""
    for file in files:
        ending = next((ending for ending in NOT_READ if file.path.lower().endswith(ending)), None)
        if ending is not None:
            cure = "unpack it first, or use read_binary_files for its bytes"
            raise InputError(f"{file.path}: {ending} files are not looked into; {cure}")


def _pieces(files: Sequence[InputFile], node: Read, memo: Memo) -> Iterator[_Piece]:
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # BLAKE3 releases the GIL
        for found in pool.map(lambda file: list(_pieces_of(file, node, memo)), files):
            yield from found


def _pieces_of(file: InputFile, node: Read, memo: Memo) -> Iterator[_Piece]:
    reader = node.reader
    compression = file.compression if reader.decompress else None
    cut = "file" if compression else reader.cut
    if cut == "row_groups" and file.size:
        yield from _row_groups(file, node, memo)
    elif file.system == "dfs" and cut == "lines" and file.by_lines and reader.record_end == b"\n":
        yield from _chunk_pieces(file)
    elif file.system == "local" and cut == "lines":
        ranges = _ranges(file, reader.record_end, memo)
        for r in ranges:
            ref = PieceRef(file.path, r.offset, r.length, stamp=file.stamp, digest=r.digest)
            yield _Piece(ref, r.digest, r.length, len(ranges) == 1)
    else:
        identity = _whole(file, memo)
        yield _Piece(replace(_whole_ref(file, identity), compression=compression), identity, file.size, True)


def _whole_ref(file: InputFile, identity: str) -> PieceRef:
    """A whole file. `identity` is the digest of a local one."""
    marks = (file.stamp, identity) if file.system == "local" else ("", "")
    return PieceRef(file.path, 0, file.size, None, None, file.store, _refs(file), *marks)


def _refs(file: InputFile) -> tuple[tuple[str, int], ...]:
    return tuple((id, length) for id, length, _ in file.chunks)


def _chunk_pieces(file: InputFile) -> Iterator[_Piece]:
    """A piece for each chunk, glued to the next where a record goes on in it."""
    offset = 0
    glued: list[tuple[str, int]] = []
    for id, length, continues in file.chunks:
        glued.append((id, length))
        if continues:
            continue
        size = sum(n for _, n in glued)
        identity = glued[0][0] if len(glued) == 1 else digest(glued)
        ref = PieceRef(file.path, offset, size, store=file.store, chunks=tuple(glued))
        yield _Piece(ref, identity, size, size == file.size)
        offset += size
        glued = []


def _whole(file: InputFile, memo: Memo) -> str:
    """The identity of a whole file, in hex."""
    if file.system == "dfs":
        return digest(file.stamp) if len(file.chunks) != 1 else file.chunks[0][0]
    if file.system == "fsspec":
        return digest(file.stamp)
    ranges = _ranges(file, b"", memo)
    return ranges[0].digest if len(ranges) == 1 else digest([r.digest for r in ranges])


def _ranges(file: InputFile, record_end: bytes, memo: Memo) -> tuple[Range, ...]:
    """The ranges of a local file, cut behind `record_end` (empty: not cut), from memory if the file is unchanged."""
    stamp = f"{file.stamp}:{record_end!r}:{_split_bytes(file.size)}"
    known = memo.ranges_of(file.path, stamp)
    if known is not None:
        return known
    try:
        ranges = _cut(file, record_end)
    except OSError as error:  # from the disk; that it cannot be opened is an InputError
        raise InputError(f"{file.path}: cannot be read: {error.strerror}") from None
    # a file written within the clock's granularity could change again without its stamp changing
    if time.time() - int(file.stamp.rpartition(":")[2]) / 1e9 > SETTLED_SECONDS:
        memo.remember(file.path, stamp, ranges)
    return ranges


def _cut(file: InputFile, record_end: bytes) -> tuple[Range, ...]:
    with open_local(file.path) as handle:
        fd = handle.fileno()
        bounds = list(pairwise(_bounds(fd, file.size, record_end)))
        if len(bounds) == 1:
            return (_hashed(fd, *bounds[0]),)
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # reading and BLAKE3 release the GIL
            return tuple(pool.map(lambda bound: _hashed(fd, *bound), bounds))


def _bounds(fd: int, size: int, record_end: bytes) -> list[int]:
    """Where ranges begin, and the end: `_split_bytes` and up to the next `record_end`, or all if that is empty."""
    found = [0]
    while len(found) == 1 or found[-1] < size:
        stop = found[-1] + _split_bytes(size)
        found.append(_behind(fd, stop, size, record_end) if record_end and stop < size else size)
    return found


def _split_bytes(size: int) -> int:
    """How long the splits of a file of lines of `size` bytes are: see docs/decisions/0044."""
    return LOCAL_SPLIT_BYTES if size < LARGE_FILE_BYTES else 2 * LOCAL_SPLIT_BYTES


def _behind(fd: int, stop: int, size: int, record_end: bytes) -> int:
    """The first end of a record at `stop` or later."""
    at, width = stop - len(record_end), len(record_end)
    while block := os.pread(fd, LOOKED_BYTES + width, at):
        found = block.find(record_end)
        if found >= 0:
            return min(at + found + width, size)
        at += max(1, len(block) - width + 1)
    return size


def _hashed(fd: int, start: int, stop: int) -> Range:
    """The range from `start` to `stop`; of a file that was cut short meanwhile, what is left of it: its task will find
    another file than was planned."""
    hasher, at = blake3(), start
    while at < stop and (block := os.pread(fd, min(stop - at, HASHED_BYTES), at)):
        hasher.update(block)
        at += len(block)
    return Range(start, stop - start, str(hasher.hexdigest()))


def _row_groups(file: InputFile, node: Read, memo: Memo) -> Iterator[_Piece]:
    """Pieces of consecutive row groups, each of at least LOCAL_SPLIT_BYTES but the last.

    A damaged file is one piece where the reader shall leave it out: whose task will find the damage, too.
    """
    identity = _whole(file, memo)
    ref = _whole_ref(file, identity)
    with OpenedPiece(ref).file() as handle:
        try:
            sizes = node.reader.group_bytes(handle, file.path)
        except CorruptInput:
            if node.on_error.on_error == "fail":
                raise
            yield _Piece(ref, identity, file.size, True)
            return
    groups: list[int] = []
    size = 0
    for i, group_bytes in enumerate(sizes):
        groups.append(i)
        size += group_bytes
        if size >= LOCAL_SPLIT_BYTES or i == len(sizes) - 1:
            chosen = replace(ref, row_groups=tuple(groups))
            yield _Piece(chosen, identity, size, len(groups) == len(sizes))
            groups, size = [], 0
    if not sizes:
        yield _Piece(replace(ref, row_groups=()), identity, file.size, True)


def _item_splits(data: pa.RecordBatch, split_rows: int) -> tuple[Split, ...]:
    splits = []
    for start in range(0, max(data.num_rows, 1), split_rows):
        part = data.slice(start, split_rows)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, data.schema) as writer:
            writer.write_batch(part)
        raw = sink.getvalue().to_pybytes()
        splits.append(Split((), digest(raw), len(raw), raw))
    return tuple(splits)
