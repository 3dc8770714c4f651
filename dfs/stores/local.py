"""A node in a local folder: one file per chunk, small chunks in SQLite (layout and write protocol:
docs/formats/chunk.md)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import stat
import threading
from collections.abc import Container, Iterable, Iterator, Sequence
from io import BytesIO, FileIO
from itertools import groupby
from pathlib import Path

from dfs.chunk_store import ChunkStore, Usage
from dfs.codec import Record, decode_blocks, is_damaged, is_intact
from dfs.disk import Disk, DiskFile, SyncFailed, mark_suspect, size_in, suspect_reason
from dfs.errors import ChunkDamaged, ChunkMissing, DfsError, InvalidChunkId, NodeFailed
from dfs.ids import ChunkId
from dfs.options import SMALL_CHUNK_BYTES
from dfs.stores.node import read_identity
from dfs.stores.quarantine import Quarantine
from dfs.stores.small import SmallChunks

log = logging.getLogger("dfs")

_MEDIA_ERRORS = (errno.EIO, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.ENXIO, getattr(errno, "EUCLEAN", errno.EIO))
_GROUP = 64  # files that are open at once: enough for one fsync to carry others, few enough for any limit
_FAN_OUT = [f"{byte:02x}" for byte in range(256)]


class LocalChunkStore(ChunkStore):
    """The chunks under one node folder, of up to `capacity` bytes (None: what the disk holds). Raises NodeFailed when
    the folder is not the node `node_id`."""

    def __init__(self, path: Path, node_id: str, disk: Disk | None = None, capacity: int | None = None) -> None:
        self.path = path
        self.node_id = node_id
        self.capacity = capacity
        if read_identity(path).get("uuid") != node_id:
            raise NodeFailed(f"node folder {path} is not node {node_id} of this store (another disk mounted there?)")
        self._disk = disk or Disk()
        self._disk.guard(path)
        self._durable: set[str] = set()  # chunk folders whose own name is known to be synced
        self._used: int | None = None  # bytes; counted when they are first needed
        self._lock = threading.Lock()
        self._quarantine = Quarantine(path, self._disk)
        self._small = SmallChunks(path, self._disk)
        self.sweep()

    # -- reading -------------------------------------------------------------------------------------------------------

    def get_blocks(self, chunk_id: ChunkId, block_bytes: int) -> list[bytes]:
        with self._record(chunk_id) as record:
            return decode_blocks(record.read, block_bytes, chunk_id)

    @contextlib.contextmanager
    def _record(self, chunk_id: ChunkId) -> Iterator[FileIO | BytesIO]:
        """The row or the file; the one that is good if both are there. Raises ChunkMissing, ChunkDamaged."""
        problem: DfsError | None = None
        row = None
        try:
            row = self._small.get(chunk_id)
        except (ChunkDamaged, NodeFailed) as error:
            problem = error
        if row is None or not (is_intact(row, chunk_id) or not is_damaged(row, chunk_id)):
            with contextlib.suppress(FileNotFoundError), self._opened(chunk_id) as file:
                yield file
                return
            if problem is not None:
                raise problem
            if row is None:
                raise ChunkMissing(f"chunk {chunk_id} is not on node {self.path}")
        yield BytesIO(row)

    @contextlib.contextmanager
    def _opened(self, chunk_id: ChunkId) -> Iterator[FileIO]:
        """The file of a chunk. Raises FileNotFoundError; while it is read, too, ChunkDamaged and NodeFailed."""
        try:
            with self._disk.open(self._file(chunk_id)) as file:
                yield file
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno in _MEDIA_ERRORS:
                raise ChunkDamaged(f"chunk {chunk_id} on node {self.path}: {error.strerror}") from error
            raise NodeFailed(f"node {self.path}: {error}") from error

    def held(self, chunk_ids: Iterable[ChunkId]) -> set[ChunkId]:
        wanted = set(chunk_ids)
        found, unknown = self._small.held(wanted)
        for folder, chunks in groupby(sorted(wanted - found), key=lambda chunk: chunk[:2]):
            with self._node_errors(), self._chunk_folder(folder) as handle:
                found.update(chunk for chunk in chunks if handle >= 0 and size_in(handle, chunk) is not None)
        if not unknown <= found:
            raise ChunkDamaged(
                f"node {self.path}: what small chunks it holds cannot be told; a put or repair heals them"
            )
        return found

    def intact(self, chunk_ids: Iterable[ChunkId]) -> set[ChunkId]:
        wanted = sorted(set(chunk_ids))
        found: set[ChunkId] = set()
        with contextlib.suppress(ChunkDamaged, NodeFailed):  # else one by one: a bad page hides only what is on it
            found = self._small.intact(wanted)
        files: set[ChunkId] = set()
        for chunk in self.held(set(wanted) - found):  # what is not there is found out for all of them at once
            with contextlib.suppress(ChunkMissing, ChunkDamaged), self._record(chunk) as record:
                if is_intact(record.read(), chunk):
                    files.add(chunk)
        with self._node_errors():
            for folder in {chunk[:2] for chunk in files if self._is_there(chunk)}:
                self._disk.sync_folder(self._folder(folder))  # who linked the name may have died before
        return found | files

    def listing(self) -> Iterator[tuple[ChunkId, int]]:
        for byte, folder in enumerate(_FAN_OUT):
            sizes = dict(self._small.listing(byte))
            for chunk, size in self._files(folder):
                sizes[chunk] = sizes.get(chunk, 0) + size
            yield from sorted(sizes.items())

    def _files(self, folder: str) -> list[tuple[ChunkId, int]]:
        """What lies under the names of chunks in one chunk folder; somebody else's files are passed over."""
        found = []
        with self._node_errors(), self._chunk_folder(folder) as handle:
            for name in os.listdir(handle) if handle >= 0 else ():
                size = size_in(handle, name) if name.startswith(folder) else None
                if size is not None:
                    with contextlib.suppress(InvalidChunkId):
                        found.append((ChunkId.parse(name), size))
        return found

    @contextlib.contextmanager
    def _chunk_folder(self, name: str) -> Iterator[int]:
        """A handle of a chunk folder; -1, in which nothing is found, when it is not there or no folder."""
        with contextlib.ExitStack() as stack:
            try:
                handle = stack.enter_context(self._disk.folder(self._folder(name)))
            except (FileNotFoundError, NotADirectoryError):
                handle = -1
            yield handle

    def usage(self) -> Usage:
        try:
            return self._count()
        except ChunkDamaged as error:
            raise NodeFailed(f"{error}; `dfs fsck --heal` writes anew what is lost") from error

    def _count(self) -> Usage:
        chunks, stored = self._small.totals()
        for folder in _FAN_OUT:
            sizes = [size for _, size in self._files(folder)]
            chunks, stored = chunks + len(sizes), stored + sum(sizes)
        with self._node_errors():
            return Usage(chunks, stored, self._quarantine.stored_bytes())

    # -- writing -------------------------------------------------------------------------------------------------------

    def put_many(self, records: Sequence[Record]) -> list[bool]:
        self._check_writable()
        unique = {record.id: record for record in records}
        new: set[ChunkId] = set()
        with self._node_errors(), self._room(unique, new):
            files = [record for record in unique.values() if record.stored_bytes >= SMALL_CHUNK_BYTES]
            for at in range(0, len(files), _GROUP):
                new |= self._put_files(files[at : at + _GROUP])
            small = [record for record in unique.values() if record.stored_bytes < SMALL_CHUNK_BYTES]
            if small:
                new |= self._small.put_many(small, self._quarantine.keep)
        flags = []
        for record in records:
            flags.append(record.id in new)
            new.discard(record.id)  # a duplicate within the batch is written once
        return flags

    def _check_writable(self) -> None:
        reason = suspect_reason(self.path)
        if reason is not None:
            raise NodeFailed(reason)

    def _put_files(self, records: Sequence[Record]) -> set[ChunkId]:
        """Temp files -> fsync of each -> link -> fsync of the folders."""
        new: set[ChunkId] = set()
        with contextlib.ExitStack() as stack:
            for record in records:
                self.quarantine(record.id)
            lacking = [record for record in records if not self._is_there(record.id)]
            with self._temp_lock(fcntl.LOCK_SH):
                temps = [(record, *self._new_temp(record, stack)) for record in lacking]
            for record, _, file in temps:
                file.write(record.head, record.payload)
            for _, _, file in temps:
                file.sync()
            for record, temp, _ in temps:
                self._ensure_folder(record.id[:2])
                with contextlib.suppress(FileExistsError):
                    self._disk.link(temp, self._file(record.id))
                    new.add(record.id)
        for folder in {record.id[:2] for record in records}:  # also of one that was there: its writer may not be so far
            self._disk.sync_folder(self._folder(folder))
        return new

    def _is_there(self, chunk_id: ChunkId) -> bool:
        with self._chunk_folder(chunk_id[:2]) as handle:
            return handle >= 0 and size_in(handle, chunk_id) is not None

    def _new_temp(self, record: Record, stack: contextlib.ExitStack) -> tuple[str, DiskFile]:
        """An empty temp file, locked, so that no sweep takes it for a dead writer's; removed when `stack` ends."""
        temp = f"{self.path}/tmp/{record.id}.{os.getpid()}.{secrets.token_hex(4)}"
        file = stack.enter_context(self._disk.create(temp))
        stack.callback(self._remove_temp, temp)
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        return temp, file

    def _remove_temp(self, temp: str) -> None:
        with contextlib.suppress(OSError):  # a sweep will
            self._disk.unlink(temp)

    def _ensure_folder(self, name: str) -> None:
        """A folder that is there may be another process's, not durable yet: it is synced once in each process."""
        folder = self._folder(name)
        if os.path.lexists(folder) and not stat.S_ISDIR(os.lstat(folder).st_mode):  # somebody planted it
            self._disk.rename(folder, self._quarantine.place(name))
        if name not in self._durable or not os.path.isdir(folder):
            with contextlib.suppress(FileExistsError):
                self._disk.mkdir(folder)
            self._disk.sync_folder(self.path / "chunks")
            self._durable.add(name)

    def delete_many(self, chunk_ids: Iterable[ChunkId]) -> tuple[int, int]:
        self._check_writable()
        wanted = sorted(set(chunk_ids))
        with self._node_errors():
            gone: dict[ChunkId, int] = {}
            for folder, chunks in groupby(wanted, key=lambda chunk: chunk[:2]):
                gone |= self._delete_files(folder, chunks)
            for chunk, size in self._small.delete_many(
                wanted
            ):  # after the files: on a full disk this needs their space
                gone[chunk] = gone.get(chunk, 0) + size
        with self._lock:
            if self._used is not None:
                self._used -= sum(gone.values())
        return len(gone), sum(gone.values())

    def _delete_files(self, folder: str, chunks: Iterable[ChunkId]) -> list[tuple[ChunkId, int]]:
        with self._chunk_folder(folder) as handle:
            if handle < 0:
                return []
            found = [(chunk, size) for chunk in chunks if (size := size_in(handle, chunk)) is not None]
        for chunk, _ in found:
            with contextlib.suppress(FileNotFoundError):
                self._disk.unlink(self._file(chunk))
        self._disk.sync_folder(self._folder(folder))  # also when all were gone: who removed them may not be so far
        return found

    # -- capacity ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _room(self, records: dict[ChunkId, Record], new: set[ChunkId]) -> Iterator[None]:
        """Count the bytes of the records of which `new` gets the ids. Raises NodeFailed when they would pass the
        capacity. What other processes write is seen by the next count only."""
        if self.capacity is None:
            yield
            return
        try:
            wanted = self._reserve(records, self.capacity)
        except ChunkDamaged:  # what there is cannot be counted
            self._small.salvage()
            wanted = self._reserve(records, self.capacity)
        try:
            yield
        finally:
            with self._lock:
                if self._used is not None:
                    self._used += sum(records[chunk].stored_bytes for chunk in new) - wanted

    def _reserve(self, records: dict[ChunkId, Record], capacity: int) -> int:
        """Bytes of the records that are not there, which count from now on. Raises NodeFailed, ChunkDamaged."""
        held = self.held(records)
        wanted = sum(record.stored_bytes for record in records.values() if record.id not in held)
        with self._lock:
            if self._used is None or self._used + wanted > capacity:
                usage = self._count()
                self._used = usage.stored_bytes + usage.quarantined_bytes
            if wanted and self._used + wanted > capacity:
                raise NodeFailed(
                    f"node {self.path} is full: {self._used} of its capacity of {capacity} bytes are used, "
                    f"{wanted} more are needed; collect garbage, raise its capacity, or add a node"
                )
            self._used += wanted
        return wanted

    # -- quarantine ----------------------------------------------------------------------------------------------------

    def quarantine(self, chunk_id: ChunkId) -> None:
        with self._node_errors():
            self._quarantine_row(chunk_id)
            if self._is_there(chunk_id) and self._file_is_damaged(chunk_id):
                self._quarantine_file(chunk_id)

    def _quarantine_row(self, chunk_id: ChunkId) -> None:
        try:
            row = self._small.get(chunk_id)
        except ChunkDamaged:  # its pages: the next write salvages what is good
            return
        if row is not None and is_damaged(row, chunk_id):
            self._quarantine.keep(chunk_id, row)
            self._small.delete(chunk_id, row)

    def _file_is_damaged(self, chunk_id: ChunkId) -> bool:
        try:
            with self._opened(chunk_id) as file:
                return is_damaged(file.readall(), chunk_id)
        except (ChunkDamaged, FileNotFoundError) as error:
            return isinstance(error, ChunkDamaged)

    def _quarantine_file(self, chunk_id: ChunkId) -> None:
        kept = self._quarantine.place_for(chunk_id)
        try:
            self._disk.rename(self._file(chunk_id), kept)
        except FileNotFoundError:
            if self._is_there(chunk_id):  # it is not the copy that is gone
                raise
            return
        self._put_back(chunk_id, kept)
        self._disk.sync_folder(self._folder(chunk_id[:2]))

    def _put_back(self, chunk_id: ChunkId, kept: str) -> None:
        """Undo the move of a good copy, which another writer put there after we had looked."""
        try:
            good = not is_damaged(self._disk.read(kept), chunk_id)
        except OSError:
            return
        if good:
            with contextlib.suppress(FileExistsError):
                self._disk.link(kept, self._file(chunk_id))
            self._disk.unlink(kept)

    def quarantined(self) -> set[ChunkId]:
        with self._node_errors():
            return self._quarantine.chunks()

    def discard_quarantined(self, chunk_ids: Container[ChunkId]) -> tuple[int, int]:
        with self._node_errors():
            return self._quarantine.discard(chunk_ids)

    # -- the folder ----------------------------------------------------------------------------------------------------

    def _folder(self, name: str) -> str:
        return f"{self.path}/chunks/{name}"

    def _file(self, chunk_id: ChunkId) -> str:
        return f"{self.path}/chunks/{chunk_id[:2]}/{chunk_id}"

    def sweep(self) -> int:
        """A living writer holds the file's flock."""
        count = 0
        with self._node_errors(), self._disk.folder(self.path / "tmp") as folder:
            if not os.listdir(folder):
                return 0
        with self._node_errors(), self._temp_lock(fcntl.LOCK_EX) as folder:
            for name in os.listdir(folder):
                with contextlib.suppress(OSError):
                    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
                    with open(handle, "rb", buffering=0):
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        self._disk.unlink(f"{self.path}/tmp/{name}")
                        count += 1
        return count

    @contextlib.contextmanager
    def _temp_lock(self, kind: int) -> Iterator[int]:
        """Temp files are made and locked under a shared lock of their folder, and swept under an exclusive one."""
        with self._disk.folder(self.path / "tmp") as handle:
            fcntl.flock(handle, kind)
            yield handle

    @contextlib.contextmanager
    def _node_errors(self) -> Iterator[None]:
        try:
            yield
        except SyncFailed as error:
            mark_suspect(self._disk, self.path, error)
            raise NodeFailed(f"node {self.path} cannot be written to: {error.strerror}") from error
        except OSError as error:
            raise NodeFailed(f"node {self.path} cannot be used: {error.strerror or error}") from error
        except ChunkDamaged as error:
            raise NodeFailed(str(error)) from error

    def close(self) -> None:
        self._small.close()
