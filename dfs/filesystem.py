"""`dfs://` for fsspec: `fsspec.open("dfs://logs/a.log", store="/data/store")`; what pandas, pyarrow, DuckDB, Dask use.

Paths carry no scheme and no leading slash. Each write is published when its file is closed; inside `with
fs.transaction:` all changes are published together, in one metadata transaction, or none. docs/use-dfs-from.md.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.core import get_compression, has_magic
from fsspec.implementations.local import LocalFileSystem, make_path_posix
from fsspec.utils import stringify_path

from dfs.bulk import plan_targets
from dfs.changes import (
    ANY,
    Change,
    ChunkRef,
    Copy,
    Expected,
    FileManifest,
    MakeDir,
    Move,
    PutFile,
    Remove,
    build_manifest,
)
from dfs.errors import (
    AlreadyExists,
    FolderNotEmpty,
    IsAFolder,
    NotAFolder,
    NotFound,
    ReadOnly,
    UsageProblem,
    WrongKind,
)
from dfs.fs_reading import StoreReader
from dfs.fs_transaction import DfsTransaction
from dfs.handles import TextWriter, WriteFile
from dfs.metadata import FileInfo
from dfs.paths import normalise
from dfs.store import Records


class DfsFileSystem(StoreReader):
    """fsspec's view of a store.

    `store`: its path, else $DFS_STORE, else the default. `at`: read that transaction, snapshot or time, refuse writes.
    `version_aware`: `version_id=` (a transaction's number as text) and `?versionId=` name versions of single files.
    Errors are those of `dfs.errors`; they are FileNotFoundError, FileExistsError, IsADirectoryError, ... too.
    """

    transaction_type = DfsTransaction

    # -- changes ------------------------------------------------------------------------------------------------------

    def _writable(self, path: str) -> str:
        """The normalised path that is changed. Raises InvalidPath, ReadOnly."""
        if self.at is not None:
            raise ReadOnly(f"this file system reads transaction {self.at}; open one without `at` to write")
        name, version = self._split_version(path)
        if version is not None:
            raise ReadOnly(f"version {version} of dfs://{name} cannot be written; write dfs://{name}")
        return normalise(name)

    def _change(self, *changes: Change) -> int | None:
        """Publish these together, or join them to the open transaction (None)."""
        if self._intrans:
            self.transaction.changes.extend(changes)
            return None
        return self._publish(changes) if changes else None

    def _publish(self, changes: Sequence[Change]) -> int:
        return self.store.publish(changes, request_id=uuid.uuid4().hex)

    def _stat(self, path: str) -> FileInfo | None:
        """What is at a normalised path now."""
        return self.store.stat(path) if self.store.exists(path) else None

    def _check_place(self, path: str) -> FileInfo | None:
        """What is at the path where a file shall be. Raises IsAFolder, NotAFolder (a file is on the way to it)."""
        there = self._stat(path)
        if there is not None and there.kind == "dir":
            raise IsAFolder(f"dfs://{path} is a folder")
        above = path
        while there is None and above:
            above = above.rpartition("/")[0]
            there = self._stat(above)
            if there is not None and there.kind == "file":
                raise NotAFolder(f"dfs://{path} cannot be made: dfs://{above} is a file")
        return there if there is not None and there.kind == "file" else None

    # -- writing ------------------------------------------------------------------------------------------------------

    def open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: dict[str, Any] | None = None,
        compression: str | None = None,
        **options: Any,
    ) -> Any:
        """Open a file: r, w, x (fails when it is there) or a, each with b or as text. It appears when it is closed.

        `version_id`: read that version. `records`: "auto", "lines" or "none", as in `Store.writer`. A file that an
        exception leaves, or that is never closed, is not published. Raises NotFound, AlreadyExists, IsAFolder.
        """
        if "r" in mode:
            return super().open(path, mode, block_size, cache_options, compression, **options)
        text = {key: options.pop(key) for key in ("encoding", "errors", "newline") if key in options}
        packed = get_compression(path, compression)
        file = self._open(path, mode.replace("t", "").replace("b", "") + "b", compression=packed, **options)
        return file if "b" in mode else TextWriter(file, **text)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        compression: str | None = None,
        version_id: str | None = None,
        records: Records = "auto",
        **_: Any,
    ) -> Any:
        if mode == "rb":
            return self._read_file(path, version_id)
        if mode not in ("wb", "xb", "ab"):
            raise UsageProblem(f"mode {mode!r} of dfs://{path}: rb, wb, xb or ab")
        name = self._writable(path)
        pending = any(isinstance(change, PutFile) and change.path == name for change in self._pending())
        if mode == "xb" and (pending or self.store.exists(name)):
            raise AlreadyExists(f"dfs://{name} exists")
        if mode == "ab" and pending:
            raise UsageProblem(f"dfs://{name} was written in this transaction already; append to it afterwards")
        there = self._check_place(name)
        version = None if there is None else there.version
        expected: Expected = ANY if mode == "wb" else version  # nobody else's lines are replaced
        kept: list[ChunkRef] = []
        old = b""
        if mode == "ab" and there is not None and there.size:  # what is appended can change the last chunk only
            *kept, last = self.store.chunks(name, there.version)
            old = self.store.read_chunk(last.id, path=name)
            records = ("lines" if there.records_mode == "lines" else "none") if kept else records
        writer = self.store.writer(records=records, name_hint=name, replicas=self.store.replicas_of(name))
        writer.write(old)
        position = kept[-1].offset + kept[-1].length + len(old) if kept else len(old)
        file = WriteFile(name, writer, partial(self._finish, expected, kept), compression, position)
        if self._intrans:
            self.transaction.writing[file] = None
        return file

    def _pending(self) -> Sequence[Change]:
        return self.transaction.changes if self._intrans else ()

    def _finish(
        self, expected: Expected, kept: Sequence[ChunkRef], file: WriteFile, manifest: FileManifest
    ) -> int | None:
        if self._intrans:
            self.transaction.writing.pop(file, None)
        if kept:
            chunks = [(ref.id, ref.length, ref.records, ref.continues) for ref in (*kept, *manifest.chunks)]
            manifest = build_manifest(chunks, manifest.records_mode, manifest.new_chunks)
        return self._change(PutFile(file.path, manifest, expected))

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **_: Any) -> None:
        """Make a file of these bytes; with mode "create" raises AlreadyExists when it is there."""
        self._put_all([(path, value)], mode)

    def pipe(self, path: str | Mapping[str, Any], value: Any = None, **options: Any) -> None:
        """Make a file of these bytes, or all files of a dict in one transaction."""
        self._put_all([(path, value)] if isinstance(path, str) else list(path.items()), **options)

    def _put_all(
        self, sources: Iterable[tuple[str, Any]], mode: str = "overwrite", folders: Sequence[str] = ()
    ) -> None:
        """Store the bytes or streams of many files, then publish them, and folders, together."""
        if mode not in ("overwrite", "create"):
            raise UsageProblem(f"mode {mode!r}: overwrite or create")
        names: list[str] = []

        def named() -> Iterator[tuple[str, Any]]:
            for path, source in sources:
                names.append(self._writable(path))
                if self._check_place(names[-1]) is not None and mode == "create":
                    raise AlreadyExists(f"dfs://{names[-1]} exists")
                yield names[-1], source

        made = [MakeDir(self._writable(folder)) for folder in folders]
        copies = max(self.store.replicas, self.store.namespace.largest_replica_count())  # repair drops what is too many
        manifests = list(self.store.write_files(named(), replicas=copies))
        expected: Expected = None if mode == "create" else ANY
        files = [PutFile(name, manifest, expected) for name, manifest in zip(names, manifests, strict=True)]
        self._change(*made, *files)

    def put_file(
        self, lpath: str, rpath: str, callback: Any = DEFAULT_CALLBACK, mode: str = "overwrite", **_: Any
    ) -> None:
        """Copy one local file into the store, or make a folder for a local one."""
        self._put_local([(os.fspath(lpath), os.fspath(rpath))], callback, mode)

    def put(
        self,
        lpath: Any,
        rpath: Any,
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        mode: str = "overwrite",
        **_: Any,
    ) -> None:
        """Copy local files or folders into the store, all in one transaction; names as fsspec's `put` gives them."""
        if isinstance(lpath, list) and isinstance(rpath, list):
            pairs = list(zip(lpath, rpath, strict=True))
        else:
            local = LocalFileSystem()
            source = lpath if isinstance(lpath, list) else make_path_posix(stringify_path(lpath))
            names = local.expand_path(source, recursive=recursive, maxdepth=maxdepth)
            if isinstance(source, str) and (not recursive or maxdepth is not None):
                names = [name for name in names if not local.isdir(name)]
            target = stringify_path(rpath)
            into = target.endswith("/") or self.isdir(target)
            pattern = isinstance(source, str) and has_magic(source)
            pairs = list(zip(names, plan_targets(source, pattern, names, target, into), strict=True))
        callback.set_size(len(pairs))
        self._put_local(pairs, callback, mode)

    def _put_local(self, pairs: Sequence[tuple[str, str]], callback: Any, mode: str) -> None:
        def sources() -> Iterator[tuple[str, Any]]:
            for source, target in pairs:
                if not os.path.isdir(source):
                    with open(source, "rb") as file:
                        yield target, file
                callback.relative_update()

        self._put_all(sources(), mode, [target for source, target in pairs if os.path.isdir(source)])

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        """Make an empty file; with truncate=False, a file that is there gets a new version with the same bytes."""
        name = self._writable(path)
        there = None if truncate else self._check_place(name)
        if there is None:
            self.pipe_file(path, b"")
        else:
            self._change(PutFile(name, self.store.manifest(name, there.version), there.version))

    # -- folders, moving, copying, removing ---------------------------------------------------------------------------

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Make a folder. Raises AlreadyExists, NotFound (no parent, which create_parents=True makes)."""
        name = self._writable(path)
        if self.store.exists(name):
            raise AlreadyExists(f"dfs://{name} exists")
        self._check_place(name)
        parent = name.rpartition("/")[0]
        if not create_parents and not self.store.exists(parent):
            raise NotFound(f"no such folder: dfs://{parent}")
        self._change(MakeDir(name))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a folder and its parents."""
        if not (exist_ok and self.isdir(path)):
            self.mkdir(path)

    def rmdir(self, path: str) -> None:
        """Remove an empty folder. Raises NotFound, NotAFolder, FolderNotEmpty."""
        name = self._writable(path)
        if self.store.stat(name).kind == "file":
            raise NotAFolder(f"dfs://{name} is a file, not a folder")
        if self.store.ls(name):
            raise FolderNotEmpty(f"dfs://{name} is not empty; rm(recursive=True) removes what is in it too")
        self._change(Remove(name))

    def rm_file(self, path: str) -> None:
        """Remove one file. Raises NotFound."""
        self._change(Remove(self._writable(path)))

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files, with `recursive` folders with all that is in them, in one transaction.

        Raises NotFound, also when a pattern matches nothing. With `maxdepth`, what lies deeper stays, and its folders.
        """
        if maxdepth is not None:
            names = self.expand_path(path, recursive=recursive, maxdepth=maxdepth)
            below = set(self.expand_path(path, recursive=recursive)) - set(names)
            names = [name for name in names if not any(deep.startswith(f"{name}/") for deep in below)]
            recursive = False
        else:
            names = self.expand_path(path)
        if recursive:
            given = set(names)
            names = [name for name in names if not any(above in given for above in _above(name))]
            names = [child for name in names for child in ([name] if name else self.ls("", detail=False))]
        try:
            self._change(*(Remove(self._writable(name), recursive) for name in reversed(names)))
        except WrongKind as error:
            raise IsAFolder(str(error)) from None

    def mv(self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **_: Any) -> None:
        """Move files or whole folders in one transaction; no byte is copied.

        To an existing folder means into it; a file there is replaced. Raises NotFound, AlreadyExists (a folder is
        there), NotAFolder (a folder onto a file).
        """
        if maxdepth is not None:
            raise UsageProblem("mv of dfs:// moves whole folders; maxdepth is not supported")
        if isinstance(path1, list) and isinstance(path2, list):
            pairs = list(zip(path1, path2, strict=True))
        else:
            source = path1 if isinstance(path1, list) else stringify_path(path1)
            target = stringify_path(path2)
            into = target.endswith("/") or self.isdir(target)
            names = self.expand_path(source)
            targets = plan_targets(source, self._is_pattern(source), names, target, into)
            pairs = list(zip(names, targets, strict=True))
        self._change(*(change for one, other in pairs for change in self._move(one, other)))

    def _move(self, source: str, target: str) -> Iterator[Change]:
        src, dst = self._writable(source), self._writable(target)
        if src == dst:
            return
        moved, there = self._stat(src), self._stat(dst)
        if there is not None and there.kind == "dir":
            raise AlreadyExists(f"dfs://{dst} is a folder; remove it, or move dfs://{src} into it")
        if there is not None and moved is not None and moved.kind == "dir":
            raise NotAFolder(f"dfs://{dst} is a file; the folder dfs://{src} cannot take its place")
        yield Move(src, dst, replace=there is not None)

    def copy(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        on_error: str | None = None,
        **_: Any,
    ) -> None:
        """Copy files, with `recursive` folders, in one transaction; no byte is copied, the chunks are shared.

        `on_error="ignore"` (the default with `recursive`) passes over what is not there. Raises NotFound.
        """
        pairs = self._pairs(path1, path2, self.isdir, recursive, maxdepth)
        ignore = (on_error or ("ignore" if recursive else "raise")) == "ignore"
        self._change(*(change for source, target in pairs for change in self._copy(source, target, ignore)))

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy a file (or make the folder); no byte is copied, the chunks are shared."""
        self._change(*self._copy(path1, path2))

    def _copy(self, source: str, target: str, ignore: bool = False) -> Iterator[Change]:
        dst = self._writable(target)
        try:
            src, at = self._locate(source)
            info = self.store.stat(src, at)
        except NotFound:
            if ignore:
                return
            raise
        if info.kind == "dir":
            yield MakeDir(dst)
        elif (src, at) != (dst, self.store.txn()):
            self._check_place(dst)
            yield Copy(src, dst, at, replace=True)


def _above(path: str) -> Iterator[str]:
    """The folders that a path lies in."""
    while path:
        path = path.rpartition("/")[0]
        yield path
