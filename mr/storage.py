"""Where bytes are: listing inputs, opening pieces of them, over local paths, dfs:// and fsspec URLs.

The only room that imports `dfs`. What a file *is* (its content identity, how it is split) is decided in `inputs`; how
outputs become visible in `publication`.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import json
import lzma
import mmap
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import fsspec
import pyarrow as pa

import dfs
from mr.errors import InputError, InputNotFound, OutputError, PlanError
from mr.options import DECOMPRESSED_BYTES_MAX
from mr.tasks import PieceRef

if TYPE_CHECKING:
    from dfs.store import Store

System = Literal["local", "dfs", "fsspec"]
CODECS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
LINE_FORMATS = (".txt", ".csv", ".json", ".jsonl")
SCHEME = "dfs://"


@dataclass(frozen=True)
class InputFile:
    """One file of an input. `stamp` changes when the file does: inode, size and mtime, or a version of its store."""

    path: str
    system: System
    size: int
    stamp: str
    store: str | None = None
    chunks: tuple[tuple[str, int, bool], ...] = ()  # (id, length, continues) of a file of the store
    by_lines: bool = False  # the store cut it at line ends

    @property
    def compression(self) -> str | None:
        """The codec that its name promises."""
        return CODECS.get(os.path.splitext(self.path)[1].lower())


def system_of(path: str) -> System:
    """What kind of place a path or URL names.

    >>> system_of("/tmp/x"), system_of("dfs://x"), system_of("memory://x")
    ('local', 'dfs', 'fsspec')
    """
    if path.startswith(SCHEME):
        return "dfs"
    return "fsspec" if "://" in path and not path.startswith("file://") else "local"


def local_path(path: str) -> str:
    """A local path without file:// and with ~ expanded."""
    return os.path.expanduser(path.removeprefix("file://"))


def destination(path: str) -> str:
    """A path as outputs and their records name it: local ones absolute, others without a trailing slash."""
    return os.path.abspath(local_path(path)) if system_of(path) == "local" else path.rstrip("/")


@lru_cache(maxsize=8)
def open_store(path: str | None) -> Store:
    """The store at `path` (None: the default), opened once per process. Raises dfs.NoStore."""
    return dfs.open_store(path)


def store_path() -> str:
    """Path of the store that dfs:// means in this process."""
    return str(open_store(None).path)


# --- listing ---------------------------------------------------------------------------------------------------------


def list_files(path: str) -> list[InputFile]:
    """The files that an input path means, in path order: a file, a folder (recursively), or a glob.

    Names that begin with "." or "_" below a folder or glob are left out, as `_SUCCESS` is.
    Raises InputNotFound when there is nothing.
    """
    listers = {"local": _list_local, "dfs": _list_dfs, "fsspec": _list_fsspec}
    files = listers[system_of(path)](path)
    if files is None:
        raise InputNotFound(f"no input at {path}; check the path{_hint(path)}")
    return sorted(files, key=lambda f: f.path.encode("utf-8", "surrogateescape"))


def _hint(path: str) -> str:
    return f" in the store {store_path()} (dfs ls)" if system_of(path) == "dfs" else f" (seen from {os.getcwd()})"


def _visible(relative: str) -> bool:
    return not any(part.startswith((".", "_")) for part in relative.split("/"))


def _local_file(path: str) -> InputFile:
    info = os.stat(path)
    return InputFile(path, "local", info.st_size, f"{info.st_ino}:{info.st_size}:{info.st_mtime_ns}")


def _list_local(path: str) -> list[InputFile] | None:
    root = local_path(path)
    if os.path.isfile(root):
        return [_local_file(root)]
    if os.path.isdir(root):
        names = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
        return [_local_file(n) for n in names if os.path.isfile(n) and _visible(os.path.relpath(n, root))]
    if os.path.exists(root):
        raise InputError(f"{root} is neither a file nor a folder")
    found = [n for n in glob.glob(root, recursive=True) if os.path.isfile(n) and _visible(os.path.basename(n))]
    return [_local_file(n) for n in found] or None


def _list_dfs(path: str) -> list[InputFile] | None:
    store = open_store(None)
    name = path.removeprefix(SCHEME).strip("/")
    at = store.txn()
    if glob.has_magic(name) and not store.exists(name, at):
        system = fsspec.filesystem("dfs", store=str(store.path))
        names = [n.removeprefix(SCHEME).strip("/") for n in system.glob(name)]
        found = [info for n in names if _visible(n.rpartition("/")[2]) for info in store.find(n, at)]
    elif store.exists(name, at):
        found = [info for info in store.find(name, at) if _visible(info.path[len(name) :].strip("/"))]
    else:
        return None
    files = []
    for info in found:
        refs = store.chunks(info.path, at)
        chunks = tuple((str(ref.id), ref.length, ref.continues) for ref in refs)
        mode = info.records_mode == "lines"
        url = SCHEME + info.path.strip("/")
        files.append(InputFile(url, "dfs", info.size, info.content_id, str(store.path), chunks, mode))
    return files


def _list_fsspec(path: str) -> list[InputFile] | None:
    system, root = fsspec.core.url_to_fs(path)
    if glob.has_magic(root):
        names = [n for n in system.glob(root) if _visible(n.rpartition("/")[2])]
    elif system.isdir(root):
        names = [n for n in system.find(root) if _visible(n[len(root) :].strip("/"))]
    else:
        names = [root] if system.exists(root) else []
    files = []
    for name in names:
        info = system.info(name)
        files.append(InputFile(system.unstrip_protocol(name), "fsspec", int(info["size"]), str(system.ukey(name))))
    return files or None


# --- opening ---------------------------------------------------------------------------------------------------------


class OpenedPiece:
    """A `PieceRef` opened (see `formats.base.Piece`): bytes come from a map of a local file, chunks, or a URL."""

    def __init__(self, ref: PieceRef) -> None:
        self._ref = ref
        self.path = ref.path
        self.offset = 0 if ref.compression else ref.offset
        self.row_groups = ref.row_groups

    def buffer(self) -> pa.Buffer:
        """All bytes at once. Raises InputError."""
        if self._ref.compression:
            return pa.py_buffer(b"".join(block.to_pybytes() for block in self.blocks(1 << 22)))
        if self._ref.chunks:
            blocks = [self._chunk(id) for id, _ in self._ref.chunks]
            return pa.py_buffer(blocks[0] if len(blocks) == 1 else b"".join(blocks))
        if system_of(self.path) != "local":
            with self.file() as file:
                file.seek(self._ref.offset)
                return pa.py_buffer(file.read(self._ref.length))
        return self._mapped()

    def blocks(self, block_bytes: int) -> Iterator[pa.Buffer]:
        """The same bytes a block at a time. Raises InputError."""
        if self._ref.compression:
            yield from self._decompressed(block_bytes)
        elif len(self._ref.chunks) > 1:
            for id, _ in self._ref.chunks:
                yield from _sliced(pa.py_buffer(self._chunk(id)), block_bytes)
        else:
            yield from _sliced(self.buffer(), block_bytes)

    def file(self) -> BinaryIO:
        """A seekable file over all bytes of the file. Raises InputError."""
        if self._ref.compression:
            return io.BytesIO(self.buffer().to_pybytes())
        return self._raw()

    def _raw(self) -> BinaryIO:
        """The stored bytes of the whole file, compressed as they may be."""
        try:
            if self._ref.store is not None:
                return io.BufferedReader(_ChunksFile(self._ref), buffer_size=1 << 20)
            if system_of(self.path) == "local":
                return open(self.path, "rb")
            opened: BinaryIO = fsspec.open(self.path, "rb").open()
            return opened
        except OSError as error:
            raise InputError(f"{self.path}: cannot be opened: {error}") from None

    def _chunk(self, id: str) -> bytes:
        return read_chunk(self._ref, id)

    def _mapped(self) -> pa.Buffer:
        if self._ref.length == 0:
            return pa.py_buffer(b"")
        with self._raw() as file:
            if os.fstat(file.fileno()).st_size < self._ref.offset + self._ref.length:
                raise InputError(f"{self.path}: the file has become shorter since the job began")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return pa.py_buffer(mapped).slice(self._ref.offset, self._ref.length)

    def _decompressed(self, block_bytes: int) -> Iterator[pa.Buffer]:
        codec = self._ref.compression or ""
        done = 0
        with self._raw() as raw:
            try:
                stream = _decoder(codec, raw)
                while block := stream.read(block_bytes):
                    done += len(block)
                    if done > DECOMPRESSED_BYTES_MAX:
                        raise InputError(f"{self.path}: more than {DECOMPRESSED_BYTES_MAX:,} bytes when decompressed")
                    yield pa.py_buffer(block)
            except (EOFError, OSError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
                text = f"the {codec} data is corrupt or cut short after {done:,} decompressed bytes"
                raise InputError(f"{self.path}: {text}: {error}") from None


def _sliced(buffer: pa.Buffer, block_bytes: int) -> Iterator[pa.Buffer]:
    for start in range(0, buffer.size, block_bytes):
        yield buffer.slice(start, min(block_bytes, buffer.size - start))


class _ZstdStream:
    """pyarrow's zstd stream, with the end of a frame told from the end of a file that was cut short."""

    def __init__(self, raw: BinaryIO) -> None:
        self._stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")

    def read(self, size: int) -> bytes:
        return bytes(self._stream.read(size))


def _decoder(codec: str, raw: BinaryIO) -> Any:
    openers = {"gzip": gzip.GzipFile, "bz2": bz2.BZ2File, "xz": lzma.LZMAFile}
    if codec == "zstd":
        return _ZstdStream(raw)
    return openers[codec](filename="", fileobj=raw) if codec == "gzip" else openers[codec](raw)


def read_chunk(ref: PieceRef, id: str) -> bytes:
    """A verified chunk of a store's file; a damaged replica is healed. Raises InputError when none is good."""
    try:
        return open_store(ref.store).read_chunk(id, path=ref.path)
    except dfs.DfsError as error:
        raise InputError(str(error)) from None


class _ChunksFile(io.RawIOBase):
    """A store's file as it was when the job began, read a chunk at a time."""

    def __init__(self, ref: PieceRef) -> None:
        self._ref = ref
        self._ends: list[int] = []
        for _, length in ref.chunks:
            self._ends.append((self._ends[-1] if self._ends else 0) + length)
        self._position = 0
        self._held: tuple[int, bytes] = (-1, b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._ends[-1] if self._ends else 0}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, into: Any) -> int:
        index = next((i for i, end in enumerate(self._ends) if end > self._position), None)
        if index is None:
            return 0
        if self._held[0] != index:
            self._held = (index, read_chunk(self._ref, self._ref.chunks[index][0]))
        data = self._held[1]
        start = self._position - (self._ends[index] - len(data))
        count = min(len(into), len(data) - start)
        into[:count] = data[start : start + count]
        self._position += count
        return count


# --- writing ---------------------------------------------------------------------------------------------------------


def store_of(path: str) -> str | None:
    """The store that an output path lies in; None outside of dfs://. Raises PlanError for an invalid store path."""
    if system_of(path) != "dfs":
        return None
    if not path.removeprefix(SCHEME).strip("/"):
        raise PlanError(f"{path}: an output needs a path below dfs://")
    return store_path()


def store_file(store: str, path: Path, extension: str) -> str:
    """Put the bytes of a file into a store, invisible until they are published; returns the manifest as JSON."""
    mode: Literal["lines", "none"] = "lines" if extension in LINE_FORMATS else "none"
    try:
        with open(path, "rb") as file:
            return json.dumps(open_store(store).write_file(file, records=mode, name_hint=path.name).to_json())
    except dfs.DfsError as error:
        raise OutputError(f"the store {store} cannot take a part: {error}") from None


def copy_or_link(source: str, target: str) -> None:
    """Make `target` a file with the bytes of `source`: a hard link where the file system allows, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        import shutil

        shutil.copyfile(source, target)


def scratch_root() -> Path:
    """Where this machine keeps MR_HOME: $MR_HOME, else millrace/mr under $XDG_DATA_HOME or ~/.local/share."""
    chosen = os.environ.get("MR_HOME")
    if chosen:
        return Path(chosen).absolute()
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "millrace" / "mr"
