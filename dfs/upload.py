"""`dfs put`: local files and folders into a store. What is put appears in one transaction, or nothing does."""

from __future__ import annotations

import io
import os
import stat as modes
import sys
import uuid
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, cast

from msgspec import Struct

from dfs.changes import ANY, Change, FileManifest, MakeDir, PutFile, SetReplicas
from dfs.decompress import ENDINGS, open_decompressed
from dfs.errors import AlreadyExists, BadInput, NotFound, UsageProblem
from dfs.known_files import KnownFiles, Stamp
from dfs.listing import list_below
from dfs.metadata import FileInfo
from dfs.paths import join, normalise
from dfs.render import Output, Progress, counted, human_bytes, total, visible
from dfs.store import Records, Store

_VERIFY_BATCH_MAX = 256  # chunks that one task looks at: small ones take less time than a task
_INPUT_BYTES = 1 << 18  # no pipe gives more at once
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe put in the file's place must not hang us


class PutOptions(Struct, frozen=True):
    """How to put; see `dfs put --help`."""

    records: Records = "auto"
    decompress: bool = False
    no_clobber: bool = False
    rehash: bool = False
    replicas: int | None = None
    dry_run: bool = False

    @property
    def mode(self) -> str:
        """What of this decides how a file's bytes are stored."""
        return self.records + ("+decompress" if self.decompress else "")


class _Item(Struct, frozen=True):
    """One thing to put: a local file (None: standard input), or an empty folder. `size` in bytes, as it was listed."""

    source: str | None
    path: str
    size: int = 0
    folder: bool = False


def put_all(store: Store, sources: Sequence[str], destination: str, out: Output, options: PutOptions) -> None:
    """Store all sources and publish them together. Raises NotFound, BadInput, AlreadyExists; nothing has appeared
    then."""
    items, tops = _plan(store, sources, destination, options)
    looked_at = store.txn()
    held = _held(store, tops, looked_at)
    if options.no_clobber and (taken := [item.path for item in items if not item.folder and item.path in held]):
        raise AlreadyExists(f"dfs://{taken[0]} exists; without -n it would get a new version")
    if options.dry_run:
        for item in items:
            out.line(
                f"would put {item.source or '-'} -> dfs://{visible(item.path)}",
                "planned",
                action="put",
                source=item.source,
                path=item.path,
                size=item.size,
            )
        return
    files = [item for item in items if not item.folder]
    known = KnownFiles(store.path / "known-files")
    sized = all(item.source is not None for item in files)
    with out.progress("put", sum(item.size for item in files) if sized else None, len(files)) as progress:
        copies = options.replicas or _replicas_wanted(store, [item.path for item in items], looked_at)
        manifests, unread = _manifests(store, files, options, known, progress, copies)
    if (now := store.txn()) != looked_at:
        held = _held(store, tops, now)
    changes: list[Change] = []
    for item, manifest in zip(files, manifests, strict=True):
        if not _is_same(held.get(item.path), manifest):
            changes.append(PutFile(item.path, manifest, None if options.no_clobber else ANY))
    changes += [MakeDir(item.path) for item in items if item.folder and item.path not in held]
    if options.replicas is not None:
        changes += [SetReplicas(top, options.replicas) for top in tops]
    txn = store.publish(changes, request_id=uuid.uuid4().hex) if changes else store.txn()
    known.save()
    _report(out, files, manifests, unread, {c.path for c in changes if isinstance(c, PutFile)}, txn)


def _is_same(held: FileInfo | None, manifest: FileManifest) -> bool:
    """Whether the path holds just this: then a put leaves its version alone."""
    return held is not None and (held.content_id, held.records_mode) == (manifest.content_id, manifest.records_mode)


def _held(store: Store, tops: Collection[str], at: int) -> dict[str, FileInfo]:
    """All that is at or below these paths, by path."""
    found: dict[str, FileInfo] = {}
    for top in tops:
        if store.namespace.resolve(top, at) is not None:
            found |= {info.path: info for info in list_below(store.namespace, top, at, folders=True)}
    return found


def _replicas_wanted(store: Store, paths: Sequence[str], at: int) -> int:
    """How many copies are asked for where something is put; where that differs, the most."""
    if not store.namespace.largest_replica_count():
        return store.replicas
    return max((store.replicas_of(path, at) for path in paths), default=store.replicas)


def _report(
    out: Output, files: list[_Item], manifests: list[FileManifest], unread: int, put: set[str], txn: int
) -> None:
    for item, m in zip(files, manifests, strict=True):
        if out.as_json:
            values = {**m.to_json(), "chunks": len(m.chunks)}
            out.line("", "file", path=item.path, unchanged=item.path not in put, **values)
        else:
            out.detail(f"{item.source or '-'} -> dfs://{visible(item.path)}")
    chunks, new = total(len(m.chunks) for m in manifests), total(m.new_chunks for m in manifests)
    size, count = total(m.size for m in manifests), total(m.records for m in manifests)
    same = len(files) - len(put)
    if not out.as_json and out.verbosity < 0:
        return
    out.line(
        f"put {counted(len(files), 'file')}, {human_bytes(size)}, {counted(count, 'record')}: "
        f"{counted(chunks, 'chunk')}, {new:,} new, {chunks - new:,} deduplicated"
        + (f"; {counted(same, 'file')} as before" if same else ""),
        "result",
        files=len(files),
        unchanged_files=same,
        unread_files=unread,
        bytes=size,
        records=count,
        chunks=chunks,
        new_chunks=new,
        deduplicated_chunks=chunks - new,
        txn=txn,
    )


# --- what to put where ------------------------------------------------------------------------------------------------


def _plan(store: Store, sources: Sequence[str], destination: str, options: PutOptions) -> tuple[list[_Item], list[str]]:
    """What the sources become, and the path at which each begins. DESTINATION is the new name, or the folder to put it
    in (it exists, ends in /, or has several sources)."""
    target = normalise(destination)
    inside = len(sources) > 1 or destination.endswith("/") or target == "" or _is_folder(store, target)
    items: list[_Item] = []
    tops: list[str] = []
    for source in sources:
        if source == "-":
            if inside:
                raise UsageProblem(f"standard input needs the path of a file, not the folder {destination}")
            tops.append(target)
            items.append(_Item(None, target))
            continue
        name = os.path.basename(os.path.abspath(source))
        try:
            found = os.stat(source)
        except FileNotFoundError:
            raise NotFound(f"no such file or folder: {source}") from None
        except OSError as error:
            raise BadInput(f"{source} cannot be read: {error.strerror}") from error
        is_folder = modes.S_ISDIR(found.st_mode)
        stored = name if is_folder else _stored_name(name, options.decompress)
        tops.append(normalise(join(target, stored)) if inside else target)
        if is_folder:
            items += _tree(source, tops[-1], options.decompress)
        else:
            items.append(_Item(source, tops[-1], _regular_size(source, found)))
    taken: dict[str, _Item] = {}
    for item in items:
        if taken.setdefault(item.path, item) is not item:
            raise UsageProblem(f"{item.source} and {taken[item.path].source} would both become dfs://{item.path}")
    return items, tops


def _tree(top: str, target: str, decompress: bool) -> Iterator[_Item]:
    """All files below a folder in order of their names, and the folders that hold nothing."""
    waiting = [(top, target)]
    while waiting:
        folder, here = waiting.pop()
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            raise BadInput(f"{folder} cannot be listed: {error.strerror}") from error
        if not entries:
            yield _Item(None, normalise(here), folder=True)
        below = []
        for entry in entries:
            try:
                if entry.is_dir():
                    if entry.is_symlink():
                        raise BadInput(f"{entry.path} is a link to a folder, which is not followed; put it by itself")
                    below.append((entry.path, join(here, entry.name)))
                else:
                    path = normalise(join(here, _stored_name(entry.name, decompress)))
                    yield _Item(entry.path, path, _regular_size(entry.path, entry.stat()))
            except OSError as error:
                raise BadInput(f"{entry.path} cannot be read: {error.strerror}") from error
        waiting += reversed(below)


def _regular_size(path: str, found: os.stat_result) -> int:
    if not modes.S_ISREG(found.st_mode):
        raise BadInput(f"{path} is not a regular file")
    return found.st_size


def _is_folder(store: Store, path: str) -> bool:
    return store.exists(path) and store.stat(path).kind == "dir"


def _stored_name(name: str, decompress: bool) -> str:
    return os.path.splitext(name)[0] if decompress and name.endswith(ENDINGS) else name


# --- bytes ------------------------------------------------------------------------------------------------------------


def _manifests(
    store: Store, files: Sequence[_Item], options: PutOptions, known: KnownFiles, progress: Progress, replicas: int
) -> tuple[list[FileManifest], int]:
    """A manifest for each file, in order, and how many of them came without reading the file."""
    found: list[FileManifest | None] = [None] * len(files)
    if not options.rehash:
        found = _verified(store, [_recall(known, item, options.mode) for item in files], replicas, progress)
    unread = sum(manifest is not None for manifest in found)
    unknown = [index for index, manifest in enumerate(found) if manifest is None]
    stamps: dict[str, Stamp] = {}
    streams = _streams([files[index] for index in unknown], options, stamps, progress)
    written = store.write_files(streams, records=options.records, replicas=replicas)
    for index, manifest in zip(unknown, written, strict=True):
        found[index] = manifest
        source = files[index].source
        if source is not None:
            known.add(os.path.abspath(source), stamps[source], manifest)
    return [manifest for manifest in found if manifest is not None], unread


def _recall(known: KnownFiles, item: _Item, mode: str) -> FileManifest | None:
    if item.source is None:
        return None
    try:
        return known.get(os.path.abspath(item.source), Stamp.of(os.stat(item.source), mode))
    except OSError:
        return None  # it is opened next, which says what is wrong


def _verified(
    store: Store, manifests: Sequence[FileManifest | None], replicas: int, progress: Progress
) -> list[FileManifest | None]:
    """Those of the manifests whose every chunk was pinned, then found intact on each node that should hold it; None for
    the others: their files are to be read again, which heals what is damaged."""
    store.pin(manifest for manifest in manifests if manifest is not None)
    ids = list(dict.fromkeys(ref.id for manifest in manifests if manifest is not None for ref in manifest.chunks))
    size = min(_VERIFY_BATCH_MAX, max(4, len(ids) // 64))
    batches = [ids[start : start + size] for start in range(0, len(ids), size)]
    with ThreadPoolExecutor(os.cpu_count(), "dfs-verify") as pool:
        intact = set().union(*pool.map(lambda batch: store.replicated.intact(batch, replicas), batches))
    kept: list[FileManifest | None] = []
    for manifest in manifests:
        good = manifest is not None and all(ref.id in intact for ref in manifest.chunks)
        kept.append(manifest if good else None)
        if manifest is not None and good:
            progress.add(manifest.size, 1)
    return kept


class _Source(io.FileIO):
    """An open local file that tells how far it was read, and ends where it ended when it was opened."""

    def __init__(self, handle: int, path: str, size: int, progress: Progress) -> None:
        super().__init__(handle, closefd=False)
        self.name = path  # for messages of those who read it
        self._left = size or sys.maxsize  # files of /proc say 0 and have content
        self._progress = progress

    def read(self, size: int | None = -1, /) -> bytes:
        block = super().read(self._left if size is None or size < 0 else min(size, self._left)) or b""
        self._left -= len(block)
        self._progress.add(len(block))
        return block


class _Input(io.RawIOBase):
    """Standard input, one read of the system at a time: between two, an interrupt is seen."""

    name = "standard input"

    def __init__(self, progress: Progress) -> None:
        self._source = cast(io.BufferedReader, sys.stdin.buffer)
        self._progress = progress

    def read(self, size: int | None = -1, /) -> bytes:
        block = self._source.read1(_INPUT_BYTES if size is None or size < 0 else min(size, _INPUT_BYTES))
        self._progress.add(len(block))
        return block


def _streams(
    files: Sequence[_Item], options: PutOptions, stamps: dict[str, Stamp], progress: Progress
) -> Iterator[tuple[str, IO[bytes]]]:
    """(name hint, stream) of each; a stream is closed when the next is asked for. `stamps` gets each file's."""
    for item in files:
        progress.add(name=item.source or item.path)
        if item.source is None:
            yield item.path, cast(IO[bytes], _Input(progress))
        else:
            with _unchanging(item.source, options, stamps, progress) as stream:
                yield _stored_name(os.path.basename(item.source), options.decompress), stream
        progress.add(files=1)


@contextmanager
def _unchanging(path: str, options: PutOptions, stamps: dict[str, Stamp], progress: Progress) -> Iterator[IO[bytes]]:
    """The file's content. Raises BadInput if the file changed while it was read: what was stored would be a mixture."""
    try:
        handle = os.open(path, _OPEN)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        before = os.fstat(handle)
        _regular_size(path, before)
        stamps[path] = Stamp.of(before, options.mode)
        source = _Source(handle, path, before.st_size, progress)
        if options.decompress and path.endswith(ENDINGS):
            with open_decompressed(source, path, before.st_size) as content:
                yield content
        else:
            yield source
        if Stamp.of(os.fstat(handle), options.mode) != stamps[path]:
            raise BadInput(f"{path} changed while it was read; put it again when nobody writes to it")
    finally:
        os.close(handle)
