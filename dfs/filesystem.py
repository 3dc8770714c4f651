"""`dfs://` for fsspec: `fsspec.open("dfs://logs/a.log", store="/data/store")`, Polars, pyarrow and pandas through it.

Paths carry no scheme and no leading slash. Each write is published when its file is closed; inside `with
fs.transaction:` all of them are published together, in one metadata transaction, or none.
"""

from __future__ import annotations

import io
import uuid
from datetime import UTC, datetime
from typing import Any

from fsspec.spec import AbstractFileSystem
from fsspec.transaction import Transaction

from dfs.changes import ANY, Change, Expected, MakeDir, Move, PutFile, Remove
from dfs.errors import AlreadyExists, UsageProblem, WrongKind
from dfs.metadata import FileInfo
from dfs.paths import SCHEME, normalise
from dfs.store import Records, Store, open_store
from dfs.writing import FileWriter


class DfsTransaction(Transaction):  # type: ignore[misc]
    """`with fs.transaction:` collects the changes made inside and publishes them as one; none when an exception leaves
    it."""

    def start(self) -> None:
        super().start()
        self.fs._pending = []

    def complete(self, commit: bool = True) -> None:
        fs = self.fs
        changes, fs._pending = fs._pending or [], None
        self.files.clear()  # files add their change when they are closed; one that is still open is not published
        super().complete(commit)
        if commit and changes:
            fs._change(*changes)


class DfsFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """fsspec's view of a store. `store`: its path, else $DFS_STORE, else the default; `at`: read that transaction,
    refuse writes.

    Errors are those of `dfs.errors`; NotFound is a FileNotFoundError, AlreadyExists a FileExistsError.
    """

    protocol = "dfs"
    root_marker = ""
    cachable = False  # the default store depends on the environment, and a transaction belongs to one user
    transaction_type = DfsTransaction

    def __init__(self, store: str | None = None, at: int | None = None, **options: Any) -> None:
        super().__init__(store=store, at=at, **options)
        self.at = at
        self.store: Store = open_store(store)
        self._pending: list[Change] | None = None

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return str(path).removeprefix(SCHEME).strip("/")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self.store.path), self.at)

    def unstrip_protocol(self, name: str) -> str:
        """The full URL of a path."""
        return f"{SCHEME}{self._strip_protocol(name)}"

    # -- reading ------------------------------------------------------------------------------------------------------

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """name, size (bytes), type, and the store's records, content_id, version, chunk_count, records_mode."""
        return _entry(self.store.stat(self._strip_protocol(path), self.at))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Entries of a folder."""
        entries = [_entry(info) for info in self.store.ls(self._strip_protocol(path), self.at)]
        return entries if detail else [entry["name"] for entry in entries]

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **options: Any
    ) -> Any:
        """All files below, by one query; other forms as fsspec does them."""
        if maxdepth is not None or withdirs or options.get("prefix"):
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **options)
        top = self._strip_protocol(path)
        infos = self.store.find(top, self.at) if self.store.exists(top, self.at) else []
        return {info.path: _entry(info) for info in infos} if detail else [info.path for info in infos]

    def exists(self, path: str, **_: Any) -> bool:
        """Whether a file or folder is there."""
        return self.store.exists(self._strip_protocol(path), self.at)

    def ukey(self, path: str) -> str:
        """Changes when the content does."""
        info = self.store.stat(self._strip_protocol(path), self.at)
        return info.content_id or f"folder-{info.version}"

    def checksum(self, path: str) -> int:
        """The first 128 bits of `ukey` as a number."""
        info = self.store.stat(self._strip_protocol(path), self.at)
        return int(info.content_id[:32], 16) if info.content_id else info.version

    def block_locations(
        self, path: str, start: int = 0, length: int | None = None
    ) -> list[tuple[int, int, str, tuple[str, ...]]]:
        """The chunks that [start, start + length) of a file touches: (offset in the file, length, chunk id, node
        ids)."""
        refs = self.store.chunks(self._strip_protocol(path), self.at)
        end = start + length if length is not None else max((ref.offset + ref.length for ref in refs), default=0)
        touched = [ref for ref in refs if ref.offset < end and ref.offset + ref.length > start]
        return [(ref.offset, ref.length, ref.id, self.store.nodes_of(ref.id)) for ref in touched]

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        records: Records = "auto",
        **_: Any,
    ) -> io.IOBase:
        if mode == "rb":
            return self.store.open(path, self.at)
        if mode not in ("wb", "xb", "ab"):
            raise UsageProblem(f"mode {mode!r} of dfs://{path}: rb, wb, xb or ab")
        self._check_writable()
        path = normalise(path)
        at = self.store.txn()
        if self.store.exists(path, at) and (mode == "xb" or self.store.stat(path, at).kind == "dir"):
            raise AlreadyExists(f"dfs://{path} exists")
        if mode == "ab" and any(isinstance(change, PutFile) and change.path == path for change in self._pending or ()):
            raise UsageProblem(f"dfs://{path} was written in this transaction already; append to it afterwards")
        expected: Expected = ANY if mode == "wb" else self.store.version(path, at)  # nobody else's lines are replaced
        file = _WriteFile(self, path, self.store.writer(records=records, name_hint=path), expected)
        if mode == "ab" and expected is not None:
            with self.store.open(path, at) as old:
                while block := old.read(1 << 20):
                    file.write(block)
        return file

    # -- changing -----------------------------------------------------------------------------------------------------

    def _check_writable(self) -> None:
        if self.at is not None:
            raise UsageProblem(f"this file system reads transaction {self.at}; open one without `at` to write")

    def _change(self, *changes: Change) -> None:
        self._check_writable()
        if self._pending is not None:
            self._pending.extend(changes)
        elif changes:
            self.store.publish(changes, request_id=uuid.uuid4().hex)

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Make a folder. Raises AlreadyExists."""
        if self.exists(path):
            raise AlreadyExists(f"dfs://{self._strip_protocol(path)} exists")
        self._change(MakeDir(self._strip_protocol(path)))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a folder and its parents."""
        if not (exist_ok and self.isdir(path)):
            self.mkdir(path)

    def rmdir(self, path: str) -> None:
        """Remove an empty folder. Raises NotFound, WrongKind when it is a file or not empty."""
        if self.info(path)["type"] == "file":
            raise WrongKind(f"dfs://{self._strip_protocol(path)} is a file, not a folder")
        self._change(Remove(self._strip_protocol(path)))

    def rm_file(self, path: str) -> None:
        """Remove one file. Raises NotFound."""
        self._change(Remove(self._strip_protocol(path)))

    def rm(self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files, with `recursive` folders, all in one transaction."""
        if maxdepth is not None:
            raise UsageProblem("rm with maxdepth is not supported on dfs://")
        paths = [path] if isinstance(path, str) else path
        expanded = [name for one in paths for name in (self.glob(one) if "*" in one else [one])]
        self._change(*(Remove(self._strip_protocol(one), recursive) for one in expanded))

    def mv(self, path1: str, path2: str, recursive: bool = False, maxdepth: int | None = None, **_: Any) -> None:
        """Move a file or a folder; no byte is copied. Raises NotFound, AlreadyExists."""
        self._change(Move(self._strip_protocol(path1), self._strip_protocol(path2)))

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy a file (or make the folder); no byte is copied, the chunks are shared."""
        src, dst = self._strip_protocol(path1), self._strip_protocol(path2)
        info = self.store.stat(src, self.at)
        self._change(MakeDir(dst) if info.kind == "dir" else PutFile(dst, self.store.manifest(src, self.at)))

    def modified(self, path: str) -> datetime:
        """When the transaction was committed since which the path holds what it holds (UTC)."""
        version = self.store.stat(self._strip_protocol(path), self.at).version
        return datetime.fromtimestamp(self.store.time_ms(version) / 1000, tz=UTC)

    created = modified  # a file is never changed, only another one bound to its path


class _WriteFile(io.RawIOBase):
    """A file being written; it appears when it is closed."""

    def __init__(self, fs: DfsFileSystem, path: str, writer: FileWriter, expected: Expected) -> None:
        self._fs = fs
        self._writer = writer
        self._expected = expected
        self._size = 0
        self.path = path
        self.mode = "wb"

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        count = self._writer.write(data)
        self._size += count
        return count

    def tell(self) -> int:
        return self._size

    def discard(self) -> None:
        """Close without publishing."""
        super().close()

    def close(self) -> None:
        """Publish the file, or join it to the open transaction. Raises as `Store.publish`."""
        if self.closed:
            return
        try:
            manifest = self._writer.finish()
            self._fs._change(PutFile(self.path, manifest, self._expected))
        finally:
            super().close()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        """A file that was never closed is never published."""
        if not self.closed:
            self.discard()


def _entry(info: FileInfo) -> dict[str, Any]:
    return {
        "name": info.path,
        "size": info.size,
        "type": "directory" if info.kind == "dir" else "file",
        "records": info.records,
        "chunk_count": info.chunk_count,
        "content_id": info.content_id,
        "version": info.version,
        "records_mode": info.records_mode,
    }
