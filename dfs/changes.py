"""What `Store.publish` is told: changes of the namespace, and the manifests of files. Frozen values and their JSON.
Pure.

The JSON is what the operation log keeps (docs/formats/namespace.md), so it is canonical: the same change gives the same
bytes.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import orjson
from msgspec import Struct

from dfs.chunking import RecordsMode
from dfs.errors import UsageProblem
from dfs.ids import ChunkId, content_id
from dfs.options import NAME_BYTES_MAX
from dfs.paths import normalise

ANY: Final = "any"  # expected_version=ANY: whatever is there
FOLDER_MODES: Final = ("create", "replace", "append")
Expected = int | None | Literal["any"]


class ChunkRef(Struct, frozen=True):
    """One chunk of a file: where it lies in the file (bytes), how many records begin in it, whether its last record
    goes on in the next."""

    id: ChunkId
    offset: int
    length: int
    records: int | None
    continues: bool


class FileManifest(Struct, frozen=True):
    """A file whose chunks are stored but which has no path yet. Sizes in bytes; `records` is None when `records_mode`
    is "none".

    `new_chunks` is how many of its chunks the store did not hold before.
    """

    size: int
    records: int | None
    records_mode: RecordsMode
    content_id: str
    chunks: tuple[ChunkRef, ...]
    new_chunks: int

    def to_json(self) -> dict[str, Any]:
        """A value that `json.dumps` takes."""
        return {
            "size": self.size,
            "records": self.records,
            "records_mode": self.records_mode,
            "content_id": self.content_id,
            "new_chunks": self.new_chunks,
            "chunks": [[c.id, c.length, c.records, int(c.continues)] for c in self.chunks],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FileManifest:
        """The inverse of `to_json`. Raises UsageProblem when sizes, records or the content id do not fit the chunks."""
        made = build_manifest(
            [(ChunkId.parse(i), length, records, bool(continues)) for i, length, records, continues in value["chunks"]],
            value["records_mode"],
            value["new_chunks"],
        )
        if (made.size, made.records, made.content_id) != (value["size"], value["records"], value["content_id"]):
            raise UsageProblem(f"manifest of content {value['content_id']} does not fit its chunks")
        return made


def build_manifest(
    chunks: Sequence[tuple[ChunkId, int, int | None, bool]], records_mode: RecordsMode, new_chunks: int
) -> FileManifest:
    """The manifest of a file from its chunks in order, each (id, length in bytes, records, continues).

    >>> manifest = build_manifest([(ChunkId.of(b"a\\n"), 2, 1, False)], "lines", 1)
    >>> manifest.size, manifest.records, FileManifest.from_json(manifest.to_json()) == manifest
    (2, 1, True)
    """
    refs, offset = [], 0
    for chunk_id, length, records, continues in chunks:
        refs.append(ChunkRef(chunk_id, offset, length, records, continues))
        offset += length
    total = None if records_mode == "none" else sum(ref.records or 0 for ref in refs)
    return FileManifest(
        offset, total, records_mode, content_id((r.id.digest, r.length) for r in refs), tuple(refs), new_chunks
    )


class PutFile(Struct, frozen=True):
    """Bind `path` to a file. Raises AlreadyExists when a folder is there, Conflict when the version is not the expected
    one."""

    path: str
    manifest: FileManifest
    expected_version: Expected = ANY


class PutFolder(Struct, frozen=True):
    """Bind `path` to a folder of `files` (relative path -> manifest) by changing one dentry.

    mode: "create" - nothing may be there; "replace" - what is there goes; "append" - files are added to the folder,
    none of them may exist.
    """

    path: str
    files: Mapping[str, FileManifest]
    mode: Literal["create", "replace", "append"] = "create"
    expected_version: Expected = ANY


class Remove(Struct, frozen=True):
    """Unbind a file or folder. A folder that is not empty needs `recursive`."""

    path: str
    recursive: bool = False


class Move(Struct, frozen=True):
    """Bind what is at `src` to `dst` instead. Nothing may be at `dst`; with `replace`, a file there is replaced, but
    never a folder."""

    src: str
    dst: str
    replace: bool = False


class Copy(Struct, frozen=True):
    """Bind `dst` to what `src` held after transaction `at` (None: now), without its bytes being read or written: this
    is cp, and restore.

    Nothing may be at `dst`; with `replace`, what is there goes. Raises NotFound when `src` was not there, or `at` is no
    longer kept.
    """

    src: str
    dst: str
    at: int | None = None
    replace: bool = False


class MakeDir(Struct, frozen=True):
    """Make an empty folder (and its parents). Nothing happens when it is there."""

    path: str


class SetReplicas(Struct, frozen=True):
    """Keep so many copies of a file's chunks, or of all files below a folder; None: what is said above it, else the
    store's default."""

    path: str
    replicas: int | None


class TakeSnapshot(Struct, frozen=True):
    """Give transaction `at` (None: this one) a name, so that it stays readable until the name is dropped.

    The name is printable text of 1 to 255 bytes without "/", and not all digits. Raises AlreadyExists when it is taken.
    """

    name: str
    at: int | None = None


class DropSnapshot(Struct, frozen=True):
    """Forget a snapshot. Raises NotFound."""

    name: str


class SetNode(Struct, frozen=True):
    """Add a node, or change one. `capacity` in bytes, None: what the disk has. Raises AlreadyExists when another node
    has the path."""

    id: str
    path: str
    weight: float = 1.0
    capacity: int | None = None
    state: Literal["active", "draining"] = "active"


class DropNode(Struct, frozen=True):
    """Forget a node. Raises NotFound."""

    id: str


class SetRetention(Struct, frozen=True):
    """Keep history for so many days; 0: snapshots only, -1: for ever."""

    days: int


class Expire(Struct, frozen=True):
    """History begins at transaction `before`: what only older numbers see is forgotten, unless a snapshot sees it, or
    a number of `keep` (somebody still reads it)."""

    before: int
    keep: tuple[int, ...] = ()


Change = (
    PutFile
    | PutFolder
    | Remove
    | Move
    | Copy
    | MakeDir
    | SetReplicas
    | TakeSnapshot
    | DropSnapshot
    | SetNode
    | DropNode
    | SetRetention
    | Expire
)


def changes_to_json(changes: Sequence[Change]) -> list[Mapping[str, Any]]:
    """The changes as JSON values, with normalised paths. Raises InvalidPath, UsageProblem for a value that cannot be.

    >>> changes_to_json([Move("/a", "dfs://b")])
    [{'op': 'move', 'src': 'a', 'dst': 'b'}]
    """
    with collector_paused():
        return [_to_json(change) for change in changes]


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Without the garbage collector for the body: it would look again and again at the values of thousands of files,
    which are no garbage and hold no cycles, and take as long as all the rest."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _to_json(change: Change) -> dict[str, Any]:
    match change:
        case PutFile(path, manifest, expected):
            return {"op": "put_file", "path": normalise(path), "manifest": _logged(manifest), "expected": expected}
        case PutFolder(path, files, mode, expected):
            _demand(mode in FOLDER_MODES, f"mode {mode!r} of folder {path!r}", ", ".join(FOLDER_MODES))
            content = {normalise(name): _logged(manifest) for name, manifest in files.items()}
            if "" in content or len(content) < len(files):
                raise UsageProblem(f"folder {path!r} has a file without a name, or one name twice")
            return {"op": "put_folder", "path": normalise(path), "files": content, "mode": mode, "expected": expected}
        case Remove(path, recursive):
            return {"op": "remove", "path": normalise(path), "recursive": recursive}
        case Move(src, dst, replace):
            return {"op": "move", "src": normalise(src), "dst": normalise(dst), **_replace(replace)}
        case Copy(src, dst, at, replace):
            return {"op": "copy", "src": normalise(src), "dst": normalise(dst), "at": _number(at), **_replace(replace)}
        case MakeDir(path):
            return {"op": "make_dir", "path": normalise(path)}
        case SetReplicas(path, replicas):
            _demand(replicas is None or replicas >= 1, f"replica count {replicas} of {path!r}", "1 or more")
            return {"op": "set_replicas", "path": normalise(path), "replicas": replicas}
    return _settings_to_json(change)


def _logged(manifest: FileManifest) -> dict[str, Any]:
    """How many chunks were new is no part of a change: who stores and asks again must ask for the same."""
    value = manifest.to_json()
    value["new_chunks"] = 0
    return value


def _settings_to_json(change: Change) -> dict[str, Any]:
    match change:
        case TakeSnapshot(name, at):
            return {"op": "take_snapshot", "name": _snapshot_name(name), "at": _number(at)}
        case DropSnapshot(name):
            return {"op": "drop_snapshot", "name": name}
        case SetNode(node, path, weight, capacity, state):
            _demand(bool(node and path), f"node {node!r} at {path!r}", "an id and a path")
            _demand(0 < weight < float("inf"), f"weight {weight} of node {node}", "a finite number above 0")
            _demand(capacity is None or capacity > 0, f"capacity {capacity} of node {node}", "bytes above 0")
            _demand(state in ("active", "draining"), f"state {state!r} of node {node}", "active or draining")
            value = {"id": node, "path": path, "weight": float(weight), "capacity": capacity, "state": state}
            return {"op": "set_node", **value}
        case DropNode(node):
            return {"op": "drop_node", "id": node}
        case SetRetention(days):
            _demand(days >= -1, f"retention of {days} days", "0 or more, or -1 for ever")
            return {"op": "set_retention", "days": days}
        case Expire(before, keep):
            return {"op": "expire", "before": _number(before), "keep": sorted(keep)}
    raise UsageProblem(f"not a change: {change!r}")


def _demand(fits: bool, what: str, wanted: str) -> None:
    if not fits:
        raise UsageProblem(f"{what} cannot be: {wanted}")


def _replace(replace: bool) -> dict[str, bool]:
    """Written only when it is true: a move has the bytes that it had before there was a choice."""
    return {"replace": True} if replace else {}


def _number(at: int | None) -> int | None:
    _demand(at is None or 0 <= at < 1 << 62, f"transaction {at}", "0 or more")
    return at


def _snapshot_name(name: str) -> str:
    fits = name.isprintable() and "/" not in name and not name.isdecimal() and 1 <= len(name.encode()) <= NAME_BYTES_MAX
    _demand(fits, f"snapshot name {name[:80]!r}", 'printable text of 1 to 255 bytes, without "/", not all digits')
    return name


def canonical_json(value: object) -> bytes:
    """One encoding for one value: keys sorted, no blanks, UTF-8 (docs/decisions/0017-orjson-for-the-log.md).

    >>> canonical_json({"b": 1.5, "a": [None, True, "\\u00fc\\n"]})
    b'{"a":[null,true,"\\xc3\\xbc\\\\n"],"b":1.5}'
    """
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
