"""What `Store.publish` is told: changes of the namespace, and the manifests of files. Frozen values and their JSON.
Pure.

The JSON is what the operation log keeps (docs/formats/namespace.md), so it is canonical: the same change gives the same
bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

from dfs.chunking import RecordsMode
from dfs.errors import DfsError, UsageProblem
from dfs.ids import ChunkId, content_id
from dfs.paths import normalise

ANY: Final = "any"  # expected_version=ANY: whatever is there
Expected = int | None | Literal["any"]


@dataclass(frozen=True)
class ChunkRef:
    """One chunk of a file: where it lies in the file (bytes), how many records begin in it, whether its last record
    goes on in the next."""

    id: ChunkId
    offset: int
    length: int
    records: int | None
    continues: bool


@dataclass(frozen=True)
class FileManifest:
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
        offset, total, records_mode, content_id([(r.id, r.length) for r in refs]), tuple(refs), new_chunks
    )


@dataclass(frozen=True)
class PutFile:
    """Bind `path` to a file. Raises AlreadyExists when a folder is there, Conflict when the version is not the expected
    one."""

    path: str
    manifest: FileManifest
    expected_version: Expected = ANY


@dataclass(frozen=True)
class PutFolder:
    """Bind `path` to a folder of `files` (relative path -> manifest) by changing one dentry.

    mode: "create" - nothing may be there; "replace" - what is there goes; "append" - files are added to the folder,
    none of them may exist.
    """

    path: str
    files: Mapping[str, FileManifest]
    mode: Literal["create", "replace", "append"] = "create"
    expected_version: Expected = ANY


@dataclass(frozen=True)
class Remove:
    """Unbind a file or folder. A folder that is not empty needs `recursive`."""

    path: str
    recursive: bool = False


@dataclass(frozen=True)
class Move:
    """Bind what is at `src` to `dst` instead; nothing may be at `dst`."""

    src: str
    dst: str


@dataclass(frozen=True)
class MakeDir:
    """Make an empty folder (and its parents). Nothing happens when it is there."""

    path: str


Change = PutFile | PutFolder | Remove | Move | MakeDir


def changes_to_json(changes: Sequence[Change]) -> list[Mapping[str, Any]]:
    """The changes as JSON values, with normalised paths. Raises InvalidPath."""
    return [_to_json(change) for change in changes]


def _to_json(change: Change) -> dict[str, Any]:
    match change:
        case PutFile(path, manifest, expected):
            return {"op": "put_file", "path": normalise(path), "manifest": manifest.to_json(), "expected": expected}
        case PutFolder(path, files, mode, expected):
            if mode not in ("create", "replace", "append"):
                raise UsageProblem(f"mode {mode!r} of folder {path!r}: create, replace or append")
            content = {normalise(name): manifest.to_json() for name, manifest in files.items()}
            if "" in content or len(content) < len(files):
                raise UsageProblem(f"folder {path!r} has a file without a name, or one name twice")
            return {"op": "put_folder", "path": normalise(path), "files": content, "mode": mode, "expected": expected}
        case Remove(path, recursive):
            return {"op": "remove", "path": normalise(path), "recursive": recursive}
        case Move(src, dst):
            return {"op": "move", "src": normalise(src), "dst": normalise(dst)}
        case MakeDir(path):
            return {"op": "make_dir", "path": normalise(path)}
    raise UsageProblem(f"not a change: {change!r}")


def changes_from_json(values: Sequence[Mapping[str, Any]]) -> list[Change]:
    """The inverse of `changes_to_json`. Raises DfsError for an operation of a newer release."""
    return [_from_json(value) for value in values]


def _from_json(value: Mapping[str, Any]) -> Change:
    op = value["op"]
    if op == "put_file":
        return PutFile(value["path"], FileManifest.from_json(value["manifest"]), value["expected"])
    if op == "put_folder":
        files = {name: FileManifest.from_json(manifest) for name, manifest in value["files"].items()}
        return PutFolder(value["path"], MappingProxyType(files), value["mode"], value["expected"])
    if op == "remove":
        return Remove(value["path"], value["recursive"])
    if op == "move":
        return Move(value["src"], value["dst"])
    if op == "make_dir":
        return MakeDir(value["path"])
    raise DfsError(f"operation {op!r} is of a newer release; update millrace")


def canonical_json(value: object) -> bytes:
    """One encoding for one value: keys sorted, no blanks, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
