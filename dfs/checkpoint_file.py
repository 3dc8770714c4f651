"""The file of a checkpoint: its header, and its database read back, verified (docs/formats/checkpoint.md)."""

from __future__ import annotations

import os
import struct
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from blake3 import blake3
from msgspec import Struct

from dfs.disk import Disk
from dfs.errors import StoreDamaged, Unsupported
from dfs.options import COPY_BYTES

MAGIC = b"MRCP"
VERSION = 1
RAW, ZSTD = 0, 1
FOLDER = "checkpoints"
_FIELDS = struct.Struct("<4sBBHQ16s32sQ32s")
_CHECK = struct.Struct("<I")
HEADER_BYTES = _FIELDS.size + _CHECK.size


class Checkpoint(Struct, frozen=True):
    """A copy of the database of `store` (uuid) after transaction `txn`, whose chain is `chain`: `length` bytes
    (uncompressed) with BLAKE3-256 `digest`."""

    txn: int
    chain: str
    store: str
    length: int
    digest: bytes
    codec: int

    @property
    def header(self) -> bytes:
        """The first bytes of its file.

        >>> import uuid
        >>> one = Checkpoint(7, "ab" * 32, str(uuid.UUID(int=1)), 4096, bytes(32), RAW)
        >>> len(one.header), parse_header(one.header, "here") == one
        (108, True)
        """
        store = uuid.UUID(self.store).bytes
        chain = bytes.fromhex(self.chain)
        fields = _FIELDS.pack(MAGIC, VERSION, self.codec, 0, self.txn, store, chain, self.length, self.digest)
        return fields + _CHECK.pack(zlib.crc32(fields))


def parse_header(head: bytes, where: object) -> Checkpoint:
    """The inverse of `Checkpoint.header`. Raises StoreDamaged, Unsupported, naming `where`."""
    if len(head) < HEADER_BYTES:
        raise StoreDamaged(f"checkpoint {where} is damaged: {len(head)} bytes are too few for a header")
    magic, version, codec, _, txn, store, chain, length, digest = _FIELDS.unpack_from(head)
    if magic != MAGIC or _CHECK.unpack_from(head, _FIELDS.size)[0] != zlib.crc32(head[: _FIELDS.size]):
        raise StoreDamaged(f"checkpoint {where} is damaged: its header is")
    if version > VERSION or codec not in (RAW, ZSTD):
        raise Unsupported(
            f"checkpoint {where}: version {version}, codec {codec} is of a newer release; update millrace"
        )
    return Checkpoint(txn, chain.hex(), str(uuid.UUID(bytes=store)), length, digest, codec)


def listed(node: Path) -> list[tuple[int, Path]]:
    """(txn, file) of a node's checkpoints by their names, newest first. Raises OSError."""
    try:
        names = os.listdir(node / FOLDER)
    except FileNotFoundError:
        return []
    numbers = {name: name.removesuffix(".ckpt") for name in names if name.endswith(".ckpt")}
    return sorted(((int(n), node / FOLDER / name) for name, n in numbers.items() if n.isdecimal()), reverse=True)


def read_header(file: Path) -> Checkpoint:
    """What a checkpoint says it is; its payload is not read. Raises StoreDamaged, Unsupported, OSError."""
    with open(file, "rb", buffering=0) as source:
        return parse_header(source.read(HEADER_BYTES), file)


def restore(file: Path, target: Path, disk: Disk) -> Checkpoint:
    """Write the database of a checkpoint to `target`, verified; durable but for its name. Raises StoreDamaged,
    Unsupported, OSError."""
    with open(file, "rb") as source:
        found = parse_header(source.read(HEADER_BYTES), file)
        hasher, length = blake3(), 0
        with disk.create(target) as copy:
            for block in _decoded(source, found.codec, file):
                length += len(block)
                if length > found.length:
                    break
                hasher.update(block)
                copy.write(block)
            copy.sync()
    if (length, hasher.digest()) != (found.length, found.digest):
        raise StoreDamaged(f"checkpoint {file} is damaged: its bytes do not have the check in its header")
    return found


def _decoded(source: IO[bytes], codec: int, file: Path) -> Iterator[bytes]:
    if codec == RAW:
        yield from iter(lambda: source.read(COPY_BYTES), b"")
        return
    import pyarrow as pa

    try:
        with pa.CompressedInputStream(source, "zstd") as stream:
            yield from iter(lambda: stream.read(COPY_BYTES), b"")
    except OSError as error:  # pyarrow's ArrowIOError: truncated, or no zstd
        raise StoreDamaged(f"checkpoint {file} is damaged: {error}") from None
