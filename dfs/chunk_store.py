"""ChunkStore: the chunks that one node holds. The contract; `dfs.testing.check_chunk_store` proves an
implementation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator, Sequence

from msgspec import Struct

from dfs.codec import Record
from dfs.ids import ChunkId
from dfs.options import CHUNK_BYTES_LIMIT


class Usage(Struct, frozen=True):
    """What a node holds: how many chunks, their bytes as they are stored, and the bytes in quarantine."""

    chunks: int
    stored_bytes: int
    quarantined_bytes: int


class ChunkStore(ABC):
    """Chunks by id on one node. All methods may be called from several threads, and from several processes on one node.

    Every chunk that is returned has been verified against its id. Nothing here knows of files or replicas.
    """

    node_id: str  # uuid: the node's identity, which placement is computed from

    @abstractmethod
    def put_many(self, records: Sequence[Record]) -> list[bool]:
        """Store these; on return all are durable. Returns, for each, whether this call wrote it.

        Idempotent: an id that is already held is verified; a good copy is left alone (False), a bad one is quarantined
        and written anew (True). On an error any subset may have been stored, each of it whole. Raises NodeFailed when
        the node cannot take it: it is full, suspect, or fails.
        """

    def get(self, chunk_id: ChunkId) -> bytes:
        """The chunk's uncompressed bytes, verified. Raises ChunkMissing, ChunkDamaged, Unsupported, or NodeFailed (not
        corruption: try later)."""
        return b"".join(self.get_blocks(chunk_id, CHUNK_BYTES_LIMIT))

    @abstractmethod
    def get_blocks(self, chunk_id: ChunkId, block_bytes: int) -> list[bytes]:
        """The same in blocks of `block_bytes`, the last one shorter. Raises as `get`."""

    @abstractmethod
    def held(self, chunk_ids: Iterable[ChunkId]) -> set[ChunkId]:
        """Which of these are held, without reading their bytes. Raises NodeFailed."""

    @abstractmethod
    def intact(self, chunk_ids: Iterable[ChunkId]) -> set[ChunkId]:
        """Which of these are held as they were written, by the checks of their records (`dfs.codec.is_intact`), and
        durable on return: so much a put looks at what is there already. Raises NodeFailed."""

    @abstractmethod
    def listing(self) -> Iterator[tuple[ChunkId, int]]:
        """Every id that is held, ascending, and how many bytes are stored under it (unverified). What is put or deleted
        meanwhile may be in it or not. Raises NodeFailed, ChunkDamaged when what is held cannot be told."""

    @abstractmethod
    def delete_many(self, chunk_ids: Iterable[ChunkId]) -> tuple[int, int]:
        """Forget these, good or bad, for collection, repair and draining; on return that is durable. Returns how many
        were held, and their stored bytes. Idempotent. Raises NodeFailed; any subset may be gone then."""

    @abstractmethod
    def usage(self) -> Usage:
        """What is held, counted now. Raises NodeFailed."""

    @abstractmethod
    def quarantine(self, chunk_id: ChunkId) -> None:
        """Take a damaged chunk out of service, keeping its bytes for inspection. Does nothing if it is good, or not
        held, by now."""

    @abstractmethod
    def quarantined(self) -> set[ChunkId]:
        """The chunks of which damaged records are kept for inspection. Raises NodeFailed."""

    @abstractmethod
    def discard_quarantined(self, chunk_ids: Container[ChunkId]) -> tuple[int, int]:
        """Forget the damaged records of these chunks: how many they were, and their bytes. Raises NodeFailed."""

    @abstractmethod
    def sweep(self) -> int:
        """Remove what writers that are gone left half-written; how many files. Raises NodeFailed."""

    @abstractmethod
    def close(self) -> None:
        """Release resources; further calls are undefined. Idempotent."""
