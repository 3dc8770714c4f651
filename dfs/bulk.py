"""Many files or ranges at once, for `dfs://`: which bytes of which chunks, and which name goes where."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from msgspec import Struct

from dfs.changes import ChunkRef
from dfs.errors import DfsError
from dfs.handles import Fetch, read_pool
from dfs.ids import ChunkId


class ByteRange(Struct, frozen=True):
    """Bytes [start, end) of a file with these chunks."""

    refs: Sequence[ChunkRef]
    start: int
    end: int

    @classmethod
    def of(cls, refs: Sequence[ChunkRef], start: int | None, end: int | None) -> ByteRange:
        """As a slice means it: None is the file's start or end, a negative number counts from its end.

        >>> ref = ChunkRef(ChunkId.of(b"abcd"), 0, 4, None, False)
        >>> [(r.start, r.end) for r in (ByteRange.of([ref], None, -1), ByteRange.of([ref], -3, 9))]
        [(0, 3), (1, 4)]
        """
        begin, stop, _ = slice(start, end).indices(refs[-1].offset + refs[-1].length if refs else 0)
        return cls(refs, begin, stop)

    def touched(self) -> Sequence[ChunkRef]:
        """The chunks that hold these bytes."""
        if self.start >= self.end:
            return ()
        first = bisect_right(self.refs, self.start, key=lambda ref: ref.offset) - 1
        return self.refs[first : bisect_left(self.refs, self.end, key=lambda ref: ref.offset)]


class Part(Struct, frozen=True):
    """Part number `part` of range number `wanted`: bytes [start, end) of a chunk."""

    wanted: int
    part: int
    start: int
    end: int


def plan_parts(ranges: Sequence[ByteRange]) -> dict[ChunkRef, list[Part]]:
    """What is needed of each chunk, every chunk once, whichever files and ranges share it."""
    first: dict[ChunkId, ChunkRef] = {}
    parts: dict[ChunkRef, list[Part]] = {}
    for number, wanted in enumerate(ranges):
        for part, ref in enumerate(wanted.touched()):
            begin, stop = max(0, wanted.start - ref.offset), min(ref.length, wanted.end - ref.offset)
            chunk = first.setdefault(ref.id, ref)
            parts.setdefault(chunk, []).append(Part(number, part, begin, stop))
    return parts


def read_ranges(ranges: Sequence[ByteRange], fetch: Fetch) -> list[bytes | DfsError]:
    """The bytes of each range, or the error of one of its chunks; several chunks are read at once."""
    plan = plan_parts(ranges)
    found: list[dict[int, bytes]] = [{} for _ in ranges]
    errors: dict[int, DfsError] = {}

    def read(chunk: ChunkRef) -> None:
        try:
            data = fetch(chunk)
        except DfsError as error:
            errors.update((part.wanted, error) for part in plan[chunk])
        else:
            for part in plan[chunk]:
                found[part.wanted][part.part] = data[part.start : part.end]

    list(map(read, plan) if len(plan) < 2 else read_pool().map(read, plan))
    return [
        errors[number] if number in errors else b"".join(parts[part] for part in sorted(parts))
        for number, parts in enumerate(found)
    ]


def plan_targets(
    source: str | Sequence[str], pattern: bool, names: Sequence[str], target: str, into: bool
) -> list[str]:
    """Where each of `names` goes, which `source` (one path, a `pattern`, or a list) was expanded to.

    `into`: the target is a folder, or ends with "/". The rules are those of fsspec's guide "Copying files and
    directories": a list goes into the target by name; a single path is named as the target, or goes into it.

    >>> plan_targets("a/b", False, ["a/b", "a/b/c"], "t", into=False)
    ['t', 't/c']
    >>> plan_targets("a/b", False, ["a/b", "a/b/c"], "t/", into=True)
    ['t/b', 't/b/c']
    >>> plan_targets(["a/x", "b/y"], False, ["a/x", "b/y"], "t", into=False)
    ['t/x', 't/y']
    """
    target = target.rstrip("/")
    if not isinstance(source, str):
        return [_join(target, name.rpartition("/")[2]) for name in names]
    split = [name.split("/") for name in names]
    shared = 0
    while split and all(shared < len(parts) and parts[shared] == split[0][shared] for parts in split):
        shared += 1
    inside = len(names) == 1 if pattern else into and not source.endswith("/")
    kept = max(0, shared - 1) if inside else shared
    return [_join(target, "/".join(parts[kept:])) for parts in split]


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if name else folder
