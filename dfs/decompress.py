"""Compressed input as a stream of its content, with limits on what may come out of it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dfs.errors import BadInput
from dfs.options import DECOMPRESSED_BYTES_MAX, DECOMPRESSED_FREE_BYTES, DECOMPRESSED_RATIO_MAX

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

ENDINGS = (".gz", ".bz2", ".xz", ".zst")


def open_decompressed(path: Path) -> IO[bytes]:
    """A buffered stream of what `path` (.gz, .bz2, .xz, .zst; several members are joined) holds.

    Reading raises BadInput for a damaged or truncated file, and for one that gives more than 1 TiB, or more than 1,100
    times its size once 256 MiB have come out.
    """
    if path.suffix not in ENDINGS:
        raise BadInput(f"{path} has none of the endings {', '.join(ENDINGS)}")
    source: Any
    if path.suffix == ".zst":
        import pyarrow as pa

        source = pa.input_stream(str(path), compression="zstd")
    else:
        source = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[path.suffix](path, "rb")  # type: ignore[operator]
    return io.BufferedReader(_Limited(source, path), buffer_size=1 << 20)


class _Limited(io.RawIOBase):
    """Counts what comes out and turns every codec's errors into BadInput."""

    def __init__(self, source: IO[bytes], path: Path) -> None:
        self._source = source
        self._size_max = min(
            DECOMPRESSED_BYTES_MAX, max(DECOMPRESSED_FREE_BYTES, os.path.getsize(path) * DECOMPRESSED_RATIO_MAX)
        )
        self._given = 0
        self.name = str(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer).cast("B")
        try:
            data = self._source.read(len(target))
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            where = f"at byte {self._given} of its content"
            raise BadInput(f"{self.name} is damaged or cut short {where}: {error}") from error
        self._given += len(data)
        if self._given > self._size_max:
            raise BadInput(f"{self.name} gives more than {self._size_max} bytes: it looks like a decompression bomb")
        target[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._source.close()
        super().close()
