"""ChunkId: the name of a chunk. Parse, format, compute, verify. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from blake3 import blake3

from dfs.errors import InvalidChunkId

_FORM = re.compile(r"[0-9a-f]{64}", re.ASCII)


class ChunkId(str):
    """BLAKE3-256 of a chunk's uncompressed bytes, as 64 lower-case hex digits.

    A `str`, so it travels through JSON, SQL and file names as it is; only `parse`, `of` and `from_digest` make one.

    >>> ChunkId.of(b"")[:16]
    'af1349b9f5f9a1a6'
    >>> ChunkId.parse(ChunkId.of(b"x")) == ChunkId.of(b"x")
    True
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> ChunkId:
        """Accept exactly 64 lower-case hex digits. Raises InvalidChunkId for all else, before any I/O."""
        if not isinstance(text, str) or not _FORM.fullmatch(text):
            raise InvalidChunkId(f"not a chunk id: {str(text)[:80]!r} (64 lower-case hex digits are needed)")
        return cls(text)

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> ChunkId:
        """The id of these bytes."""
        return cls(blake3(data).hexdigest())

    @classmethod
    def from_digest(cls, digest: bytes) -> ChunkId:
        """From the 32 raw bytes. Raises InvalidChunkId for another length."""
        if len(digest) != 32:
            raise InvalidChunkId(f"a chunk digest has 32 bytes, not {len(digest)}")
        return cls(digest.hex())

    @property
    def digest(self) -> bytes:
        """The 32 raw bytes."""
        return bytes.fromhex(self)

    def verifies(self, data: bytes | bytearray | memoryview) -> bool:
        """Whether these bytes are the chunk."""
        return blake3(data).hexdigest() == str(self)


def content_id(chunks: Iterable[tuple[bytes, int]]) -> str:
    """Identity of a file's content: BLAKE3-256 over its chunks' (digest, length in bytes), in order
    (docs/formats/chunk.md).

    >>> content_id([]) == content_id([(ChunkId.of(b"a").digest, 1)])
    False
    """
    parts = [digest + length.to_bytes(8, "little") for digest, length in chunks]
    return blake3(b"millrace-file-1\0" + b"".join(parts)).hexdigest()
