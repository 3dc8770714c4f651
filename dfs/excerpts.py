"""`dfs cat`, `head`, `tail`: a stored file, or its beginning or end, into a stream. A few chunks in memory at most."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO

from dfs.changes import ChunkRef
from dfs.store import Store

_AHEAD = min(4, (os.cpu_count() or 1) + 1)  # chunks; each is at most 64 MiB
_BLOCK_BYTES = 1 << 16  # what `head` reads at once


def read_ahead(store: Store, path: str, refs: Sequence[ChunkRef]) -> Iterator[bytes]:
    """The bytes of chunks in order, verified; the next ones are read meanwhile. Raises ChunkLost."""
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(_AHEAD, "dfs-read") as pool:
        try:
            for ref in refs:
                waiting.append(pool.submit(store.read_chunk, ref.id, path=path))
                if len(waiting) >= _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def write_file(store: Store, path: str, at: int, out: IO[bytes]) -> None:
    """All of a file. Raises NotFound, WrongKind, ChunkLost."""
    for block in read_ahead(store, path, store.chunks(path, at)):
        out.write(block)


def write_first(store: Store, path: str, at: int, out: IO[bytes], lines: int, size: int | None) -> None:
    """The first `lines` lines, or `size` bytes if that is given; no more of the file is read than that needs."""
    with store.open(path, at) as file:
        while (
            (size is None or size > 0) and lines > 0 and (block := file.read(min(size or _BLOCK_BYTES, _BLOCK_BYTES)))
        ):
            if size is None:
                end, lines = _line_end(block, lines)
                block = block[:end]
            else:
                size -= len(block)
            out.write(block)


def _line_end(block: bytes, lines: int) -> tuple[int, int]:
    """Where the `lines`-th line ends in a block, and how many lines are still wanted after it.

    >>> _line_end(b"a\\nb\\nc", 2), _line_end(b"a\\nb", 2)
    ((4, 0), (3, 1))
    """
    end = 0
    while lines:
        found = block.find(b"\n", end)
        if found < 0:
            return len(block), lines
        end, lines = found + 1, lines - 1
    return end, 0


def write_last(store: Store, path: str, at: int, out: IO[bytes], lines: int, size: int | None) -> None:
    """The last `lines` lines, or `size` bytes if that is given; only the last chunks are read."""
    refs = store.chunks(path, at)
    total = refs[-1].offset + refs[-1].length if refs else 0
    start = _last_lines(store, path, refs, lines) if size is None else max(total - size, 0)
    for ref in refs:
        if ref.offset + ref.length > start:
            out.write(store.read_chunk(ref.id, path=path)[max(start - ref.offset, 0) :])


def _last_lines(store: Store, path: str, refs: Sequence[ChunkRef], lines: int) -> int:
    """Offset at which the last `lines` lines begin. A line end at the very end of the file ends the last line."""
    if not refs:
        return 0
    if not lines:
        return refs[-1].offset + refs[-1].length
    wanted = lines
    for ref in reversed(refs):
        data = store.read_chunk(ref.id, path=path)
        end = len(data)
        if ref is refs[-1] and data.endswith(b"\n"):
            end -= 1
        while (end := data.rfind(b"\n", 0, end)) >= 0:
            wanted -= 1
            if not wanted:
                return ref.offset + end + 1
    return 0


def digest(store: Store, path: str, at: int, algorithm: str) -> str:
    """Hex digest of a file's bytes; `algorithm` is blake3, or one that `hashlib` knows. Raises NotFound, ChunkLost."""
    import hashlib

    from blake3 import blake3

    hasher = blake3() if algorithm == "blake3" else hashlib.new(algorithm)
    for block in read_ahead(store, path, store.chunks(path, at)):
        hasher.update(block)
    return str(hasher.hexdigest())
