"""The chunk record: header + payload (docs/formats/chunk.md). Pure: bytes in, bytes out."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from typing import Any

from blake3 import blake3
from msgspec import Struct
from xxhash import xxh3_64_intdigest

from dfs.errors import ChunkDamaged, Unsupported
from dfs.ids import ChunkId
from dfs.options import CHUNK_BYTES_LIMIT, TRIAL_BYTES, TRIAL_SAVING_MIN, ZSTD_LEVEL

Bytes = bytes | bytearray | memoryview

MAGIC = b"MRCK"
VERSION = 2
RAW, ZSTD = 0, 1
_FIELDS = struct.Struct("<4sBBHQQQ")
_CHECK = struct.Struct("<I")
HEADER_BYTES = _FIELDS.size + _CHECK.size
_VERSION_AT = 4


class Record(Struct, frozen=True):
    """A chunk as it is stored on a node: `head` + `payload` are its bytes at rest."""

    id: ChunkId
    length: int
    head: bytes
    payload: bytes | bytearray | memoryview

    @property
    def encoded(self) -> bytes:
        """Header and payload in one piece."""
        return self.head + bytes(self.payload)

    @property
    def stored_bytes(self) -> int:
        """How many bytes that is."""
        return len(self.head) + len(self.payload)


def encode(data: Bytes, chunk_id: ChunkId | None = None) -> Record:
    """The record of a chunk; compressed when a trial on its first 64 KiB says that it pays.

    Raises ChunkDamaged when the compressed bytes do not decode to `data` (faulty memory), so that nothing wrong is ever
    written.

    >>> record = encode(b"abc")
    >>> decode(record.encoded, record.id)
    b'abc'
    """
    chunk_id = chunk_id or ChunkId.of(data)
    codec, payload = RAW, data
    compressed = _compressed(data)
    if compressed is not None:
        if _decompress(compressed, len(data)) != data:
            raise ChunkDamaged(
                f"chunk {chunk_id}: compressed bytes do not decode to the same bytes; check this machine's memory"
            )
        codec, payload = ZSTD, compressed
    fields = _FIELDS.pack(MAGIC, VERSION, codec, 0, len(data), len(payload), _payload_check(payload, chunk_id, VERSION))
    return Record(chunk_id, len(data), fields + _CHECK.pack(zlib.crc32(fields)), payload)


def decode(record: bytes, chunk_id: ChunkId) -> bytes:
    """The chunk's bytes, proven to be those of `chunk_id`.

    Raises ChunkDamaged when they are not, Unsupported when a newer release wrote them.
    """
    return b"".join(decode_blocks(BytesIO(record).read, CHUNK_BYTES_LIMIT, chunk_id))


def decode_blocks(read: Callable[[int], bytes], block_bytes: int, chunk_id: ChunkId) -> list[bytes]:
    """The same in blocks of `block_bytes`, the last one shorter; raises as `decode`.

    `read(size)` gives the next bytes of the record. A raw chunk is given out as it was read, without a copy, and hashed
    block by block, while they are in the processor's cache.

    >>> record = encode(b"abc")
    >>> decode_blocks(BytesIO(record.encoded).read, 2, record.id)
    [b'ab', b'c']
    """
    header = _header(read(HEADER_BYTES), chunk_id)
    payload = _payload(read, header, block_bytes, chunk_id)
    blocks: list[bytes] = []
    hasher = blake3()
    for block in payload if header.codec == RAW else _decoded(header, b"".join(payload), block_bytes, chunk_id):
        hasher.update(block)  # of every byte of a raw payload, which so needs no check of its own
        blocks.append(block)
    if hasher.hexdigest() != str(chunk_id):
        raise ChunkDamaged(f"chunk {chunk_id}: its bytes do not have this hash: they are damaged, or another chunk's")
    return blocks


def is_intact(record: bytes, chunk_id: ChunkId) -> bool:
    """Whether this is what `encode` made of the chunk, unharmed, by the checks in its header: a tenth of the work of
    `decode`. It finds what disks and mistakes do; only `decode` finds what was made to look right.

    >>> record = encode(b"abc")
    >>> is_intact(record.encoded, record.id), is_intact(record.encoded, ChunkId.of(b"abd"))
    (True, False)
    """
    try:
        _check_payload(_header(record, chunk_id), memoryview(record)[HEADER_BYTES:], chunk_id)
    except (ChunkDamaged, Unsupported):
        return False
    return record[_VERSION_AT] > 1  # in version 1 nothing ties a record to its chunk


def is_damaged(record: bytes, chunk_id: ChunkId) -> bool:
    """Whether these bytes are not the record of `chunk_id`. One of a newer release counts as good: it is not for us to
    judge."""
    try:
        decode(record, chunk_id)
    except ChunkDamaged:
        return True
    except Unsupported:
        return False
    return False


class _Header(Struct, frozen=True):
    """What a header says: how the chunk is packed, its bytes, and the bytes and check of the payload."""

    version: int
    codec: int
    length: int
    stored: int
    payload_check: int


def _header(record: bytes, chunk_id: ChunkId) -> _Header:
    """What a record begins with."""
    if len(record) < HEADER_BYTES:
        raise ChunkDamaged(f"chunk {chunk_id}: {len(record)} bytes are too few for a header")
    magic, version, codec, _, length, stored, payload_check = _FIELDS.unpack_from(record)
    (check,) = _CHECK.unpack_from(record, _FIELDS.size)
    if magic != MAGIC or check != zlib.crc32(record[: _FIELDS.size]):
        raise ChunkDamaged(f"chunk {chunk_id}: its header is damaged")
    if version > VERSION or codec not in (RAW, ZSTD):
        raise Unsupported(
            f"chunk {chunk_id}: format version {version}, codec {codec} is of a newer release; update millrace"
        )
    if length > CHUNK_BYTES_LIMIT:
        raise ChunkDamaged(f"chunk {chunk_id}: {length} bytes are more than a chunk has")
    return _Header(version, codec, length, stored, payload_check)


def _payload(read: Callable[[int], bytes], header: _Header, block_bytes: int, chunk_id: ChunkId) -> Iterator[bytes]:
    missing = header.stored
    while missing and (block := read(min(missing, block_bytes))):
        missing -= len(block)
        yield block
    if missing or read(1):
        what = f"{missing} are missing" if missing else "there are more"
        raise ChunkDamaged(f"chunk {chunk_id}: of the {header.stored} stored bytes that its header tells {what}")


def _check_payload(header: _Header, payload: Bytes, chunk_id: ChunkId) -> None:
    if len(payload) != header.stored or _payload_check(payload, chunk_id, header.version) != header.payload_check:
        raise ChunkDamaged(f"chunk {chunk_id}: its stored bytes are damaged, or another chunk's")


def _payload_check(payload: Bytes, chunk_id: ChunkId, version: int) -> int:
    return xxh3_64_intdigest(payload, int(chunk_id[:16], 16) if version > 1 else 0)


def _decoded(header: _Header, payload: bytes, block_bytes: int, chunk_id: ChunkId) -> Iterator[bytes]:
    """What a compressed payload holds."""
    _check_payload(header, payload, chunk_id)
    try:
        data = _decompress(payload, header.length)
    except OSError as error:  # pyarrow's ArrowIOError
        raise ChunkDamaged(f"chunk {chunk_id}: {error}") from None
    yield from (data[at : at + block_bytes] for at in range(0, len(data), block_bytes))


def _compressed(data: Bytes) -> bytes | None:
    """None when it does not pay."""
    if len(data) <= 64:
        return None
    head = _compress(data if len(data) <= TRIAL_BYTES else memoryview(data)[:TRIAL_BYTES])
    if len(head) >= min(len(data), TRIAL_BYTES) * (1 - TRIAL_SAVING_MIN):
        return None
    compressed = head if len(data) <= TRIAL_BYTES else _compress(data)
    return compressed if len(compressed) < len(data) else None


def _compress(data: Bytes) -> bytes:
    return bytes(_zstd().compress(data, asbytes=True))


def _decompress(payload: Bytes, length: int) -> bytes:
    return bytes(_zstd().decompress(payload, decompressed_size=length, asbytes=True))


@cache
def _zstd() -> Any:
    """It keeps no state between calls, so all threads may share it."""
    import pyarrow as pa  # 70 ms to import: not before there is something to compress

    return pa.Codec("zstd", compression_level=ZSTD_LEVEL)
