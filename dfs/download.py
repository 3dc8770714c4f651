"""`dfs get`: from a store to local files. A file appears whole or not at all, and never outside the target folder."""

from __future__ import annotations

import errno
import os
import secrets
import stat as modes
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

from msgspec import Struct, field

from dfs.changes import ChunkRef
from dfs.errors import AlreadyExists, DfsError, NotFound, UsageProblem
from dfs.listing import list_below
from dfs.metadata import FileInfo, Found
from dfs.paths import check_name, join
from dfs.render import Output, Progress, human_bytes, visible
from dfs.store import Store

_THREADS = min(8, (os.cpu_count() or 1) + 1)  # zstd, BLAKE3 and write release the interpreter lock
_INLINE_BYTES = 1 << 14  # up to here a task of its own takes longer than the copying
_FILES_MAX = 64  # that are open at once
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # the next file would fail too


class GetOptions(Struct, frozen=True):
    """How to get; see `dfs get --help`. `at` is a transaction number."""

    at: int
    no_clobber: bool = False
    dry_run: bool = False


class Fetched(Struct):
    """What was copied: counts of files and bytes, and the errors of what could not be."""

    files: int = 0
    bytes: int = 0
    errors: list[DfsError] = field(default_factory=list)


class _Target(Struct, frozen=True):
    """Where a path goes: into the existing folder `base`, under `name` ("": it is that folder itself)."""

    base: str
    name: str

    def shown(self, relative: str) -> str:
        """For messages."""
        return visible(os.path.join(self.base, join(self.name, relative)))


def get_tree(store: Store, path: str, destination: str, out: Output, options: GetOptions) -> Fetched:
    """Copy a file or a tree to DESTINATION, or into it if it is a folder.

    A file that cannot be copied is an error in the answer, and the others go on. Raises NotFound, and DfsError when
    nothing more can be written to the target.
    """
    info = store.stat(path, options.at)
    target = _target(info, destination)
    entries = sorted(list_below(store.namespace, info.path, options.at, folders=True), key=_by_folder)
    files = [entry for entry in entries if entry.kind == "file"]
    size = sum(entry.size for entry in files)
    if options.dry_run:
        for entry in files:
            where = target.shown(_relative(entry, info))
            text = f"would write {where} ({human_bytes(entry.size)})"
            out.line(text, "planned", action="get", path=entry.path, to=where, size=entry.size)
        return Fetched(len(files), size)
    with out.progress("get", size, len(files)) as progress:
        return _Copier(store, info, target, options, progress, out).run(entries)


def _target(info: FileInfo, destination: str) -> _Target:
    name = info.path.rpartition("/")[2]
    if os.path.isdir(destination) and name:
        return _Target(destination, name)
    if info.kind == "dir":
        return _Target(destination, "")
    folder, name = os.path.split(destination)
    if not name:
        raise UsageProblem(f"{destination} is not a folder")
    return _Target(folder or ".", name)


def _by_folder(entry: FileInfo) -> tuple[str, str]:
    """A folder, then its files, one after the other."""
    return (entry.path, "") if entry.kind == "dir" else (entry.path.rpartition("/")[0], entry.path)


def _relative(entry: FileInfo, top: FileInfo) -> str:
    return entry.path[len(top.path) :].lstrip("/")


class _Folder:
    """An open local folder, closed when nobody holds it any more. `written`: what this run put there, (device, inode)
    -> name."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.written: dict[tuple[int, int], str] = {}

    def __del__(self) -> None:
        os.close(self.handle)


class _Pending(Struct):
    """A file whose chunks are being written into `temp`."""

    entry: FileInfo
    folder: _Folder
    name: str
    temp: str
    handle: int
    chunks: list[Future[None]] = field(default_factory=list)


class _Copier:
    """Copies entries below `top` to a local target.

    Folders are opened name by name from the target on, never through a link: nothing that lies there leads out of it.
    """

    def __init__(
        self, store: Store, top: FileInfo, target: _Target, options: GetOptions, progress: Progress, out: Output
    ) -> None:
        self._store = store
        self._top = top
        self._target = target
        self._options = options
        self._progress = progress
        self._out = out
        self._folders: dict[tuple[int, int], str] = {}  # of this run: (device, inode) -> path from the base
        self._last: tuple[str, _Folder] | None = None
        self._above: tuple[str, Found] | None = None  # the folder in the store that files come from
        self._pending: deque[_Pending] = deque()
        self._done = Fetched()

    def run(self, entries: Sequence[FileInfo]) -> Fetched:
        """Copy all of them."""
        with ThreadPoolExecutor(_THREADS, "dfs-read") as pool:
            try:
                for entry in entries:
                    with self._reporting(entry):
                        self._begin(entry, pool)
                    if len(self._pending) >= _FILES_MAX:
                        self._finish_first()
                while self._pending:
                    self._finish_first()
            finally:
                for file in self._pending:
                    _abandon(file)
        return self._done

    @contextmanager
    def _reporting(self, entry: FileInfo) -> Iterator[None]:
        """An error in here is one of this entry; unless every other would meet it too."""
        try:
            yield
        except DfsError as error:
            self._done.errors.append(error)
        except OSError as error:
            failure = DfsError(f"{self._shown(entry)} cannot be written: {error.strerror or error}")
            if error.errno in _HOPELESS:
                raise failure from error
            self._done.errors.append(failure)

    def _shown(self, entry: FileInfo) -> str:
        return self._target.shown(_relative(entry, self._top))

    def _chunks(self, path: str) -> list[ChunkRef]:
        """The chunks of a file; its folder is looked up once for all that follow each other in it."""
        namespace, at = self._store.namespace, self._options.at
        above, _, name = path.rpartition("/")
        if self._above is None or self._above[0] != above:
            self._above = (above, namespace.need(above, at))
        found = namespace.resolve(name, at, self._above[1])
        if found is None:
            raise NotFound(f"no such file or folder: dfs://{path}")
        return namespace.chunks_of(found)

    def _begin(self, entry: FileInfo, pool: ThreadPoolExecutor) -> None:
        where = join(self._target.name, _relative(entry, self._top))
        if entry.kind == "dir":
            self._open_folder(where)
            return
        above, _, name = where.rpartition("/")
        check_name(name, entry.path)
        folder = self._open_folder(above)
        if self._options.no_clobber:
            self._check_free(entry, folder, name)  # before its bytes are read for nothing
        refs = self._chunks(entry.path)
        temp = f".{secrets.token_hex(8)}.part"
        handle = os.open(temp, _CREATE, 0o666, dir_fd=folder.handle)
        file = _Pending(entry, folder, name, temp, handle)
        self._pending.append(file)
        if entry.size > _INLINE_BYTES:
            file.chunks += [pool.submit(self._copy_chunk, entry.path, ref, handle) for ref in refs]
            return
        try:
            for ref in refs:
                self._copy_chunk(entry.path, ref, handle)
        except BaseException:
            _abandon(self._pending.pop())
            raise

    def _copy_chunk(self, path: str, ref: ChunkRef, handle: int) -> None:
        data = memoryview(self._store.read_chunk(ref.id, path=path))
        done = 0
        while done < len(data):
            done += os.pwrite(handle, data[done:], ref.offset + done)
        self._progress.add(len(data))

    def _check_free(self, entry: FileInfo, folder: _Folder, name: str) -> None:
        """Raise unless the file may get this name."""
        try:
            found = os.stat(name, dir_fd=folder.handle, follow_symlinks=False)
        except FileNotFoundError:
            return
        if modes.S_ISDIR(found.st_mode):
            raise UsageProblem(f"{self._shown(entry)} is a folder; dfs://{visible(entry.path)} is a file")
        other = folder.written.get((found.st_dev, found.st_ino))
        if other is not None:
            raise AlreadyExists(
                f"{self._shown(entry)} is the same name as {visible(other)} on this disk; get it by itself"
            )
        if self._options.no_clobber:
            raise AlreadyExists(f"{self._shown(entry)} exists; without -n it would be overwritten")

    def _finish_first(self) -> None:
        """Give the oldest file its name, or remove what there is of it."""
        file = self._pending[0]
        with self._reporting(file.entry):
            try:
                for chunk in file.chunks:
                    chunk.result()
                self._progress.add(files=1, name=file.entry.path)
                found = os.fstat(file.handle)
                self._check_free(file.entry, file.folder, file.name)
                os.rename(file.temp, file.name, src_dir_fd=file.folder.handle, dst_dir_fd=file.folder.handle)
            except BaseException:
                _abandon(self._pending.popleft())
                raise
            os.close(self._pending.popleft().handle)
            file.folder.written[found.st_dev, found.st_ino] = file.name
            self._out.detail(f"dfs://{visible(file.entry.path)} -> {self._shown(file.entry)}")
            self._done.files += 1
            self._done.bytes += file.entry.size

    def _open_folder(self, where: str) -> _Folder:
        """The folder of this path from the base, made if it is not there."""
        if self._last is not None and self._last[0] == where:
            return self._last[1]
        above, _, name = where.rpartition("/")
        if not where:
            os.makedirs(self._target.base, exist_ok=True)
            folder = _Folder(os.open(self._target.base, _FOLDER))
        elif self._last is not None and self._last[0] == above:
            folder = self._step(self._last[1], above, name)
        else:
            folder, above = self._open_folder(""), ""
            for name in where.split("/"):
                folder, above = self._step(folder, above, name), join(above, name)
        self._last = (where, folder)
        return folder

    def _step(self, folder: _Folder, above: str, name: str) -> _Folder:
        where = join(above, name)
        shown = visible(os.path.join(self._target.base, where))
        check_name(name, where)
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder.handle)
        try:
            handle = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder.handle)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise DfsError(f"{shown} is a link or a file, where a folder is to be; remove it first") from error
            raise DfsError(f"{shown} cannot be opened: {error.strerror}") from error
        made = _Folder(handle)
        found = os.fstat(handle)
        other = self._folders.setdefault((found.st_dev, found.st_ino), where)
        if other != where:
            raise AlreadyExists(f"{shown} is the same name as {visible(other)} on this disk; get it by itself")
        return made


def _abandon(file: _Pending) -> None:
    """Close a file that will not be finished, and remove what there is of it."""
    for chunk in file.chunks:
        chunk.cancel()
    for chunk in file.chunks:
        if not chunk.cancelled():
            chunk.exception()  # wait: the handle is in use
    os.close(file.handle)
    with suppress(OSError):
        os.unlink(file.temp, dir_fd=file.folder.handle)
