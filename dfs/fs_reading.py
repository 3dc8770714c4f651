"""The reading half of `dfs://` for fsspec: which store, which state of it, what is there, and its bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.core import has_magic
from fsspec.spec import AbstractFileSystem
from fsspec.utils import stringify_path

from dfs.bulk import ByteRange, plan_targets, read_ranges
from dfs.changes import ChunkRef
from dfs.errors import DfsError, InvalidPath, IsAFolder, NotFound, UsageProblem
from dfs.handles import ReadFile
from dfs.listing import list_below
from dfs.metadata import FileInfo
from dfs.paths import SCHEME, join, normalise
from dfs.store import Store, open_store

VERSION_MARK = "?versionId="
_INHERITED: list[Store] = []  # stores of a parent process: closing them here could touch its files


class StoreReader(AbstractFileSystem):  # type: ignore[misc]
    """What `DfsFileSystem` reads. Every call sees one transaction, the newest or the one of `at`."""

    protocol = "dfs"
    root_marker = ""
    cachable = False  # the default store depends on the environment, and a transaction belongs to one user

    def __init__(
        self, store: str | None = None, at: int | str | None = None, version_aware: bool = False, **options: Any
    ) -> None:
        super().__init__(store=store, at=at, version_aware=version_aware, **options)
        self.version_aware = version_aware
        self._store = open_store(store)
        self._pid = os.getpid()
        self.at = None if at is None else self._store.at(at)
        self._hold()

    def _hold(self) -> None:
        if self.at is not None:  # nothing that it shows is collected while it is in use
            self._store.hold(self.at)

    @property
    def store(self) -> Store:
        """The open store; a forked child opens its own."""
        if self._pid != os.getpid():
            _INHERITED.append(self._store)
            self._store, self._pid = open_store(self._store.path), os.getpid()
            self._hold()
        return self._store

    @property
    def fsid(self) -> str:
        """The store's identity."""
        return f"dfs-{self.store.uuid}"

    def __reduce__(self) -> tuple[Any, ...]:
        made = partial(type(self), store=str(self._store.path), at=self.at, version_aware=self.version_aware)
        return made, ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoreReader) and self.__reduce__()[0].keywords == other.__reduce__()[0].keywords

    def __hash__(self) -> int:
        return hash((str(self._store.path), self.at, self.version_aware))

    # -- paths --------------------------------------------------------------------------------------------------------

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return stringify_path(path).removeprefix(SCHEME).strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        return {"version_aware": True} if VERSION_MARK in path else {}

    def unstrip_protocol(self, name: str) -> str:
        """The full URL of a path."""
        return f"{SCHEME}{self._strip_protocol(name)}"

    def _locate(self, path: str, version_id: str | None = None) -> tuple[str, int]:
        """The normalised path that is read, and at which transaction. Raises NotFound for a path that cannot be."""
        name, wanted = self._split_version(path)
        if version_id is not None and wanted not in (None, version_id):
            raise UsageProblem(f"dfs://{name}: version {wanted} in the path, but version_id={version_id}")
        wanted = wanted if version_id is None else version_id
        if wanted is not None and not self.version_aware:
            raise UsageProblem(f"version {wanted} of dfs://{name}: make the file system with version_aware=True")
        newest = self.store.txn() if self.at is None else self.at
        if wanted is not None and not (wanted.isdecimal() and int(wanted) <= newest):
            raise NotFound(f"there is no version {wanted!r} of dfs://{name}")
        try:
            return normalise(name), newest if wanted is None else int(wanted)
        except InvalidPath as error:
            raise NotFound(f"no such file or folder: {error}") from None

    def _split_version(self, path: str) -> tuple[str, str | None]:
        name = self._strip_protocol(path)
        if not self.version_aware:
            return name, None
        name, mark, version = name.partition(VERSION_MARK)
        return name, version if mark else None

    # -- looking ------------------------------------------------------------------------------------------------------

    def info(self, path: str, version_id: str | None = None, **_: Any) -> dict[str, Any]:
        """name, size (bytes), type, and the store's records, content_id, version, chunk_count, records_mode.

        A file system that is version_aware adds VersionId. Raises NotFound.
        """
        return self._entry(self.store.stat(*self._locate(path, version_id)))

    def _entry(self, info: FileInfo) -> dict[str, Any]:
        entry = {
            "name": info.path,
            "size": info.size,
            "type": "directory" if info.kind == "dir" else "file",
            "records": info.records,
            "chunk_count": info.chunk_count,
            "content_id": info.content_id,
            "version": info.version,
            "records_mode": info.records_mode,
        }
        return entry | {"VersionId": str(info.version)} if self.version_aware else entry

    def exists(self, path: str, version_id: str | None = None, **_: Any) -> bool:
        """Whether a file or folder is there; False too where none can be."""
        try:
            return self.store.exists(*self._locate(path, version_id))
        except NotFound:
            return False

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Entries of a folder; of a file, itself. Raises NotFound."""
        infos = self.store.ls(*self._locate(path))
        return [self._entry(info) for info in infos] if detail else [info.path for info in infos]

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        prefix: str = "",
        **_: Any,
    ) -> Any:
        """All files at or below, with `withdirs` folders too, by one query. `prefix`: of the paths below `path`."""
        if maxdepth is not None and maxdepth < 1:
            raise UsageProblem("maxdepth must be at least 1")
        start = join(self._strip_protocol(path), prefix) if prefix else ""
        try:
            found = list_below(self.store.namespace, *self._locate(path), depth_max=maxdepth, folders=withdirs)
        except NotFound:
            found = []
        infos = [info for info in found if info.path.startswith(start) and info.path]
        return {info.path: self._entry(info) for info in infos} if detail else [info.path for info in infos]

    def glob(self, path: str, maxdepth: int | None = None, **options: Any) -> Any:
        """Paths that match a pattern; a path that is there as it is written is no pattern."""
        name, version = self._split_version(path)
        if (version is not None or has_magic(name)) and self.exists(path):
            literal = self._strip_protocol(path)
            return {literal: self.info(path)} if options.get("detail") else [literal]
        return super().glob(path, maxdepth=maxdepth, **options)

    def expand_path(self, path: Any, recursive: bool = False, maxdepth: int | None = None, **options: Any) -> list[str]:
        """The paths that one or several paths or patterns mean, with `recursive` all below. Raises NotFound."""
        try:
            return list(super().expand_path(path, recursive, maxdepth, **options))
        except FileNotFoundError:
            raise NotFound(f"nothing is there for {path!r}; check the path") from None

    def du(self, path: str, total: bool = True, maxdepth: int | None = None, withdirs: bool = False, **_: Any) -> Any:
        """Bytes of the files at or below, as a sum or by path."""
        entries = self.find(path, maxdepth=maxdepth, withdirs=withdirs, detail=True)
        sizes = {name: entry["size"] for name, entry in entries.items()}
        return sum(sizes.values()) if total else sizes

    def ukey(self, path: str) -> str:
        """Changes when the content does."""
        info = self.store.stat(*self._locate(path))
        return info.content_id or f"folder-{info.version}"

    def checksum(self, path: str) -> int:
        """The first 128 bits of `ukey` as a number."""
        info = self.store.stat(*self._locate(path))
        return int(info.content_id[:32], 16) if info.content_id else info.version

    def modified(self, path: str, version_id: str | None = None) -> datetime:
        """When the transaction was committed since which the path holds what it holds (UTC)."""
        info = self.store.stat(*self._locate(path, version_id))
        return datetime.fromtimestamp(self.store.time_ms(info.version) / 1000, tz=UTC)

    def object_version_info(self, path: str) -> list[dict[str, Any]]:
        """The versions of a file that are kept, newest first, with the keys that s3fs gives."""
        if not self.version_aware:
            raise UsageProblem("versions are shown by a file system that is made with version_aware=True")
        name, at = self._locate(path)
        return [
            {
                "Key": name,
                "VersionId": str(version.txn),
                "IsLatest": version.ended is None or version.ended > at,
                "LastModified": datetime.fromtimestamp(version.time_ms / 1000, tz=UTC),
                "Size": version.size,
                "ETag": version.content_id,
            }
            for version in self.store.versions(name)
            if version.kind == "file" and version.txn <= at
        ]

    created = modified  # a file is never changed, only another one bound to its path

    def block_locations(
        self, path: str, start: int = 0, length: int | None = None
    ) -> list[tuple[int, int, str, tuple[str, ...]]]:
        """The chunks that [start, start + length) of a file touches: (offset in the file, length, chunk id, node
        ids)."""
        refs = self.store.chunks(*self._locate(path))
        touched = ByteRange.of(refs, start, None if length is None else start + length).touched()
        return [(ref.offset, ref.length, ref.id, self.store.nodes_of(ref.id)) for ref in touched]

    # -- reading ------------------------------------------------------------------------------------------------------

    def _fetch(self, path: str, ref: ChunkRef) -> bytes:
        return self.store.read_chunk(ref.id, path=path)

    def _file(self, path: str, version_id: str | None = None) -> tuple[FileInfo, list[ChunkRef]]:
        name, at = self._locate(path, version_id)
        info = self.store.stat(name, at)
        if info.kind == "dir":
            raise IsAFolder(f"dfs://{name} is a folder")
        return info, self.store.chunks(name, at)

    def _read_file(self, path: str, version_id: str | None) -> ReadFile:
        info, refs = self._file(path, version_id)
        return ReadFile(info.path, refs, str(info.version), partial(self._fetch, info.path))

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, version_id: str | None = None, **_: Any
    ) -> bytes:
        """Bytes [start, end) of a file, as a slice means them."""
        with self._read_file(path, version_id) as file:
            begin, stop, _step = slice(start, end).indices(file.size)
            file.seek(begin)
            return file.read(max(0, stop - begin))

    def cat_ranges(
        self,
        paths: list[str],
        starts: int | Sequence[int | None] | None,
        ends: int | Sequence[int | None] | None,
        max_gap: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[Any]:
        """Ranges of files; each chunk is read once, several at a time. `on_error`: "return" errors as values, or
        "raise". `max_gap` changes nothing: ranges of one chunk are read together anyway."""
        if not isinstance(paths, list):
            raise TypeError("cat_ranges needs a list of paths")
        wanted = [list(x) if isinstance(x, Sequence) else [x] * len(paths) for x in (starts, ends)]
        if not len(paths) == len(wanted[0]) == len(wanted[1]):
            raise UsageProblem(f"cat_ranges has {len(paths)} paths, {len(wanted[0])} starts, {len(wanted[1])} ends")
        files = {path: self._file_or_error(path) for path in dict.fromkeys(paths)}
        good = [(i, refs) for i, path in enumerate(paths) if not isinstance(refs := files[path], DfsError)]
        ranges = [ByteRange.of(refs, wanted[0][i], wanted[1][i]) for i, refs in good]
        results: list[Any] = [files[path] for path in paths]
        for (i, _refs), data in zip(good, read_ranges(ranges, partial(self._fetch, "")), strict=True):
            results[i] = data
        for result in results if on_error == "raise" else ():
            if isinstance(result, DfsError):
                raise result
        return results

    def _file_or_error(self, path: str) -> list[ChunkRef] | DfsError:
        try:
            return self._file(path)[1]
        except DfsError as error:
            return error

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **options: Any) -> Any:
        """The bytes of one path, or a dict of those of several; `on_error`: "raise", "omit" or "return"."""
        names = self.expand_path(path, recursive=recursive)
        if isinstance(path, str) and names == [self._strip_protocol(path)] and not (recursive and self.isdir(path)):
            return self.cat_file(names[0], **options)
        names = [name for name in names if not isinstance(path, str) or not self.isdir(name)]
        values = self.cat_ranges(names, None, None, on_error="raise" if on_error == "raise" else "return")
        found = dict(zip(names, values, strict=True))
        return found if on_error == "return" else {k: v for k, v in found.items() if isinstance(v, bytes)}

    def get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **options: Any,
    ) -> None:
        """Copy files or folders to local ones; names as fsspec's `get` gives them."""
        pairs = self._pairs(rpath, lpath, os.path.isdir, recursive, maxdepth)
        callback.set_size(len(pairs))
        for source, target in callback.wrap(pairs):
            with callback.branched(source, target) as child:
                self.get_file(source, target, callback=child, **options)

    def _pairs(
        self, source: Any, target: Any, is_folder: Callable[[str], bool], recursive: bool, maxdepth: int | None
    ) -> list[tuple[str, str]]:
        """What is copied where, by fsspec's rules for `copy` and `get`."""
        if isinstance(source, list) and isinstance(target, list):
            return list(zip(source, target, strict=True))
        source, target = (x if isinstance(x, list) else stringify_path(x) for x in (source, target))
        names = self.expand_path(source, recursive=recursive, maxdepth=maxdepth)
        if isinstance(source, str) and (not recursive or maxdepth is not None):
            names = [name for name in names if not self.isdir(name)]
        into = target.endswith("/") or is_folder(target)
        plain = [self._split_version(name)[0] for name in names]
        return list(zip(names, plan_targets(source, self._is_pattern(source), plain, target, into), strict=True))

    def _is_pattern(self, path: Any) -> bool:
        return isinstance(path, str) and has_magic(self._split_version(path)[0]) and not self.exists(path)
