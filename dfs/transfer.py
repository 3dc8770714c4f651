"""Copying between local files and a store: `dfs put` and `dfs get`. What is put appears in one transaction."""

from __future__ import annotations

import os
import secrets
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dfs.changes import ANY, Change, MakeDir, PutFile
from dfs.decompress import ENDINGS, open_decompressed
from dfs.errors import BadInput, DfsError, NotFound, UsageProblem
from dfs.metadata import FileInfo
from dfs.paths import join, normalise
from dfs.render import Output, counted, human_bytes, total, visible
from dfs.store import Records, Store

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class _Item:
    """One thing to put: a local file (None: standard input), or an empty folder."""

    source: Path | None
    path: str
    folder: bool = False


def put_all(
    store: Store,
    sources: Sequence[str],
    destination: str,
    out: Output,
    *,
    records: Records,
    decompress: bool,
    no_clobber: bool,
) -> None:
    """Store all sources and publish them together. Raises NotFound, BadInput, AlreadyExists; nothing has appeared
    then."""
    items = [
        item for source in sources for item in _items(store, source, destination, decompress, many=len(sources) > 1)
    ]
    taken: dict[str, _Item] = {}
    for item in items:
        if taken.setdefault(item.path, item) is not item:
            raise UsageProblem(f"{item.source} and {taken[item.path].source} would both become dfs://{item.path}")
    files = [item for item in items if not item.folder]
    manifests = []
    for item, manifest in zip(files, store.write_files(_streams(files, decompress), records=records), strict=True):
        manifests.append(manifest)
        out.progress(f"{len(manifests)}/{len(files)} {visible(item.path)}")
    changes: list[Change] = [
        PutFile(item.path, m, None if no_clobber else ANY) for item, m in zip(files, manifests, strict=True)
    ]
    changes += [MakeDir(item.path) for item in items if item.folder]
    txn = store.publish(changes, request_id=uuid.uuid4().hex)
    for item, m in zip(files, manifests, strict=True):
        if out.as_json:
            values = {**m.to_json(), "chunks": len(m.chunks)}
            out.line("", "file", path=item.path, **values)
    chunks, new = total(len(m.chunks) for m in manifests), total(m.new_chunks for m in manifests)
    size, count = total(m.size for m in manifests), total(m.records for m in manifests)
    out.line(
        f"put {counted(len(files), 'file')}, {human_bytes(size)}, {counted(count, 'record')}: "
        f"{counted(chunks, 'chunk')}, {new:,} new, {chunks - new:,} deduplicated",
        "result",
        files=len(files),
        bytes=size,
        records=count,
        chunks=chunks,
        new_chunks=new,
        deduplicated_chunks=chunks - new,
        txn=txn,
    )


def _items(store: Store, source: str, destination: str, decompress: bool, many: bool) -> list[_Item]:
    """What one source becomes. DESTINATION is the new name, or the folder to put it in (it exists, ends in /, or has
    several sources)."""
    target = normalise(destination)
    inside = many or destination.endswith("/") or target == "" or _is_folder(store, target)
    if source == "-":
        if inside:
            raise UsageProblem(f"standard input needs the path of a file, not the folder {destination}")
        return [_Item(None, target)]
    local = Path(source)
    if not local.exists():
        raise NotFound(f"no such file or folder: {source}")
    name = os.path.basename(os.path.abspath(local))
    if local.is_dir():
        return list(_tree(local, join(target, name) if inside else target, decompress))
    _check_regular(local)
    return [_Item(local, normalise(join(target, _stored_name(name, decompress)) if inside else target))]


def _tree(top: Path, target: str, decompress: bool) -> Iterator[_Item]:
    def fail(error: OSError) -> None:
        raise BadInput(f"{error.filename} cannot be listed: {error.strerror}")

    for folder, folders, names in os.walk(top, onerror=fail):
        folders.sort()
        relative = os.path.relpath(folder, top)
        here = target if relative == "." else join(target, relative)
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                raise BadInput(
                    f"{os.path.join(folder, name)} is a link to a folder, which is not followed; put it by itself"
                )
        if not folders and not names:
            yield _Item(None, normalise(here), folder=True)
        for name in sorted(names):
            _check_regular(Path(folder, name))
            yield _Item(Path(folder, name), normalise(join(here, _stored_name(name, decompress))))


def _check_regular(path: Path) -> None:
    if not path.is_file():
        raise BadInput(f"{path} is not a regular file")


def _is_folder(store: Store, path: str) -> bool:
    return store.exists(path) and store.stat(path).kind == "dir"


def _stored_name(name: str, decompress: bool) -> str:
    return name.removesuffix(Path(name).suffix) if decompress and name.endswith(ENDINGS) else name


def _streams(files: Sequence[_Item], decompress: bool) -> Iterator[tuple[str, IO[bytes]]]:
    """(name hint, stream) of each; a stream is closed when the next is asked for."""
    for item in files:
        with ExitStack() as stack:
            try:
                stream: IO[bytes]
                if item.source is None:
                    stream = sys.stdin.buffer
                elif decompress and item.source.name.endswith(ENDINGS):
                    stream = stack.enter_context(open_decompressed(item.source))
                else:
                    stream = stack.enter_context(open(item.source, "rb", buffering=0))
            except OSError as error:
                raise BadInput(f"{item.source} cannot be read: {error.strerror or error}") from error
            hint = item.source.name if item.source else item.path
            yield _stored_name(hint, decompress), stream


def get_one(store: Store, path: str, destination: str, out: Output) -> None:
    """Copy a file or a tree out. A file appears whole or not at all. Raises NotFound, ChunkLost."""
    at = store.txn()
    info = store.stat(path, at)
    if destination == "-":
        with store.open(path, at) as file:
            copy(file, sys.stdout.buffer)
        return
    target = Path(destination)
    name = info.path.rpartition("/")[2]
    if target.is_dir() and name:
        target = target / name
    files, size = 0, 0
    for found in _below(store, info, at):
        relative = found.path[len(info.path) :].lstrip("/")
        where = target / relative if relative else target
        if found.kind == "dir":
            _make_folder(where)
            continue
        _get_file(store, found.path, at, where)
        files, size = files + 1, size + found.size
        out.progress(f"{counted(files, 'file')} {visible(found.path)}")
    out.clear()
    if out.as_json:
        out.line("", "result", files=files, bytes=size, to=str(target))


def _below(store: Store, info: FileInfo, at: int) -> Iterator[FileInfo]:
    """The path itself and all below it, folders first."""
    yield info
    if info.kind == "dir":
        for entry in store.ls(info.path, at):
            yield from _below(store, entry, at)


def _make_folder(target: Path) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DfsError(f"{target} cannot be made: {error.strerror}") from error


def _get_file(store: Store, path: str, at: int, target: Path) -> None:
    if target.is_dir():
        raise UsageProblem(f"{target} is a folder; dfs://{path} is a file")
    try:
        temp = target.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with open(temp, "xb") as file, store.open(path, at) as source:
                copy(source, file)
            os.replace(temp, target)
        finally:
            temp.unlink(missing_ok=True)
    except OSError as error:
        if isinstance(error, DfsError):
            raise
        raise DfsError(f"{target} cannot be written: {error.strerror or error}") from error


def copy(source: IO[bytes], target: IO[bytes]) -> None:
    """All bytes of one stream to another."""
    while block := source.read(_BLOCK_BYTES):
        target.write(block)
