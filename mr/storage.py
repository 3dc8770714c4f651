"""Where bytes are: listing inputs and putting outputs, over local paths, dfs:// and fsspec URLs.

The only room that imports `dfs`. What a file *is* (its content identity, how it is split) is decided in `inputs`; how
outputs become visible in `publication`.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from msgspec import Struct

import dfs
from mr.errors import InputError, InputNotFound, OutputError, PlanError
from mr.tasks import PieceRef

if TYPE_CHECKING:
    from dfs.store import Store

System = Literal["local", "dfs", "fsspec"]
CODECS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
LINE_FORMATS = (".txt", ".csv", ".json", ".jsonl")
SCHEME = "dfs://"
NO_STORE = 10


class InputFile(Struct, frozen=True):
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

    >>> system_of("logs/x"), system_of("dfs://x"), system_of("memory://x")
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

    Names that begin with "." or "_" below a folder or glob are left out, as `_SUCCESS` is; not so `_day=1`.
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
    return not any(part.startswith((".", "_")) and "=" not in part for part in relative.split("/"))


def _local_file(path: str) -> InputFile:
    try:
        info = os.stat(path)
    except OSError as error:
        kind = "is a link to nothing" if os.path.islink(path) else "cannot be read"
        raise InputError(f"{path} {kind}: {error.strerror}") from None
    if not stat.S_ISREG(info.st_mode):
        raise InputError(f"{path} is neither a file nor a folder; name the files to read, or move it away")
    return InputFile(path, "local", info.st_size, stamp_of(info))


def open_local(path: str) -> BinaryIO:
    """A local file to read, unbuffered. Raises InputError where it is gone or no regular file: a pipe that stands in
    its place by now would never answer."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from None
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return os.fdopen(handle, "rb", buffering=0)
    os.close(handle)
    raise InputError(f"{path}: is no longer a file")


def stamp_of(info: os.stat_result) -> str:
    """What changes when a local file does."""
    return f"{info.st_ino}:{info.st_size}:{info.st_mtime_ns}"


def _list_local(path: str) -> list[InputFile] | None:
    """What the user names may be a link; below a folder a link to a file is followed, one to a folder refused."""
    root = local_path(path)
    if os.path.isdir(root):
        return [_local_file(name) for name in _below(root)]
    if os.path.lexists(root):
        return [_local_file(root)]
    found = [n for n in glob.glob(root, recursive=True) if not os.path.isdir(n) and _visible(os.path.basename(n))]
    return [_local_file(n) for n in found] or None


def _below(root: str) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if _visible(name)]
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                text = "is a link to a folder, which is not followed; name what it points to as an input of its own"
                raise InputError(f"{os.path.join(folder, name)} {text}")
        yield from (os.path.join(folder, name) for name in names if _visible(name))


def _list_dfs(path: str) -> list[InputFile] | None:
    store = open_store(None)
    name = path.removeprefix(SCHEME).strip("/")
    at = store.txn()
    store.hold(at)  # what is removed while the job runs stays readable
    if glob.has_magic(name) and not store.exists(name, at):
        import fsspec

        system = fsspec.filesystem("dfs", store=str(store.path))
        names = [n.removeprefix(SCHEME).strip("/") for n in system.glob(name)]
        names = [n for n in names if _visible(n.rpartition("/")[2])]
        return [file for n in names for file in _stored_files(store, n, at)] or None
    if not store.exists(name, at):
        return None
    return [file for file in _stored_files(store, name, at) if _visible(file.path.removeprefix(SCHEME)[len(name) :])]


def _stored_files(store: Store, name: str, at: int) -> Iterator[InputFile]:
    """The files at or below a path of the store."""
    chunks = store.chunks_below(name, at)
    for info in store.find(name, at):
        refs = tuple((str(ref.id), ref.length, ref.continues) for ref in chunks.get(info.path, ()))
        mode = info.records_mode == "lines"
        url = SCHEME + info.path.strip("/")
        yield InputFile(url, "dfs", info.size, info.content_id, str(store.path), refs, mode)


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it. Raises PlanError where there is none for its scheme."""
    import fsspec

    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # its driver is not installed; nobody knows the scheme
        raise PlanError(f"{url}: {error}") from None
    return found


def _list_fsspec(path: str) -> list[InputFile] | None:
    system, root = file_system(path)
    try:
        return _listed(system, root) or None
    except Exception as error:  # whatever its driver raises
        raise InputError(f"{path} cannot be listed: {type(error).__name__}: {error}") from None


def _listed(system: Any, root: str) -> list[InputFile]:
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
    return files


def stamp_of_url(url: str) -> str:
    """What changes when the file behind an fsspec URL does."""
    system, name = file_system(url)
    return str(system.ukey(name))


# --- reading --------------------------------------------------------------------------------------------------------


def read_chunk(ref: PieceRef, id: str, block_bytes: int) -> list[bytes]:
    """A verified chunk of a store's file in blocks of `block_bytes`, the last one shorter; a damaged replica is healed.
    Raises InputError when none is good."""
    try:
        return open_store(ref.store).read_blocks(id, block_bytes, path=ref.path.removeprefix(SCHEME))
    except dfs.DfsError as error:
        raise InputError(str(error)) from None


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


def store_keep(store: str, manifest: str) -> bool:
    """Keep the chunks of a manifest that `store_file` gave from garbage collection, for as long as this process runs
    (the worker that stored them may end before they are published). False when some are gone."""
    try:
        return open_store(store).pin([dfs.FileManifest.from_json(json.loads(manifest))])
    except dfs.DfsError:
        return False


class StoreChange(Struct, frozen=True):
    """One output in the store: manifests (JSON) by name; the name "" is a single file. `version`: what was there."""

    path: str
    mode: Literal["error", "overwrite", "append"]
    manifests: Mapping[str, str]
    version: str | None


def publish_to_store(changes: Sequence[StoreChange], request: str) -> None:
    """Publish all outputs in one transaction. Raises OutputError: one of them changed since the job began."""
    wanted: list[dfs.Change] = []
    for change in changes:
        name = change.path.removeprefix(SCHEME).strip("/")
        manifests = {n: dfs.FileManifest.from_json(json.loads(m)) for n, m in change.manifests.items()}
        expected = None if change.version is None else int(change.version)
        if "" in manifests:
            wanted.append(dfs.PutFile(name, manifests[""], expected))
        elif change.mode == "append" and expected is not None:
            success = manifests.pop("_SUCCESS")
            wanted.append(dfs.PutFolder(name, manifests, "append", expected))
            wanted.append(dfs.PutFile(f"{name}/_SUCCESS", success))
        else:
            mode: Literal["create", "replace"] = "replace" if change.mode == "overwrite" else "create"
            wanted.append(dfs.PutFolder(name, manifests, mode, expected))
    try:
        open_store(None).publish(wanted, request_id=request)
    except dfs.DfsError as error:
        raise OutputError(f"the outputs could not be published: {error}") from None


def store_version(path: str) -> str | None:
    """The transaction since which a path of the store holds what it holds, None where nothing is."""
    try:
        version = open_store(None).version(path.removeprefix(SCHEME).strip("/"))
    except dfs.DfsError as error:
        raise OutputError(f"{path}: {error}") from None
    return None if version is None else str(version)


def store_names(path: str, at: int) -> list[str]:
    """The files below a folder of the store after transaction `at`, by their paths in it."""
    name = path.removeprefix(SCHEME).strip("/")
    return [info.path.strip("/")[len(name) + 1 :] for info in open_store(None).find(name, at)]


def store_read(path: str, at: int) -> bytes | None:
    """The bytes of a small file of the store after transaction `at`, None where it is not there."""
    store, name = open_store(None), path.removeprefix(SCHEME).strip("/")
    if not store.exists(name, at):
        return None
    with store.open(name, at) as file:
        return bytes(file.read())


def store_bytes(data: bytes) -> str:
    """Put bytes into the default store, invisible until they are published; returns the manifest as JSON."""
    return json.dumps(open_store(None).write_file(data, records="lines").to_json())


def store_health() -> tuple[str, list[str]]:
    """The default store in a line, and what is wrong with it. A store that was never made is no problem."""
    try:
        store = open_store(None)
        line = f"{store.path}, {len(store.node_paths())} nodes, {store.replicas} replicas, transaction {store.txn()}"
        return line, [f"store: {text}" for text in (*store.absent.values(), *store.check_namespace())]
    except dfs.DfsError as error:
        missing = error.exit_code == NO_STORE
        return ("none (dfs init makes one)", []) if missing else ("unusable", [f"store: {error}"])


def exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, so that neither is ever missing; False where the system cannot (renameat2(2))."""
    at_fdcwd, rename_exchange = -100, 2
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(renameat2(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange) == 0)


def start_writing(path: Path) -> None:
    """Have the disk begin with a file now that will be made durable later. No effect but on Linux."""
    sync_file_range_write = 2
    with suppress(OSError, AttributeError), open(path, "rb") as file:
        libc = ctypes.CDLL("libc.so.6")
        libc.sync_file_range(file.fileno(), ctypes.c_int64(0), ctypes.c_int64(0), sync_file_range_write)


def copy_or_link(source: str, target: str) -> None:
    """Make `target` a file with the bytes of `source`: a hard link where the file system allows, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
