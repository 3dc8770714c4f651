"""Publication: how the outputs of a job become visible, and what was there before.

dfs://: all outputs of the job appear in one metadata transaction. Local folders: parts are gathered in a sibling
`.<name>.mr-<job>` and appear by one rename, `_SUCCESS` inside. Other URLs: final names, `_SUCCESS` last. All or nothing
over several outputs holds for dfs:// only. Publishing again after a crash gives the same state.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from blake3 import blake3
from msgspec import Struct

from mr.errors import OutputError, PlanError
from mr.outlets import digest_file
from mr.plan import Mode, Read
from mr.storage import (
    StoreChange,
    copy_or_link,
    destination,
    exchange,
    file_system,
    publish_to_store,
    store_bytes,
    store_names,
    store_read,
    store_version,
    system_of,
)
from mr.tasks import Output, PartFile

SUCCESS = "_SUCCESS"


class Target(Struct, frozen=True):
    """An output of a job: where, how, and whether it is one file. `extension` is that of its parts."""

    path: str
    mode: Mode
    one_file: bool
    extension: str

    @property
    def where(self) -> str:
        """The path as publications name it."""
        return destination(self.path)


class Part(Struct, frozen=True):
    """A file of an output and its name there, as `day=2026-01-01/part-00000.csv` ("" for a single file)."""

    name: str
    file: PartFile


def parts_of(target: Target, outputs: Sequence[Output], before: Iterable[str] = ()) -> list[Part]:
    """The parts worth keeping: those with rows, or one without if there is none.

    They are numbered in each folder in the order of tasks, from behind the names that were there `before`.
    """
    files = [file for output in outputs for file in output.parts]
    kept = [file for file in files if file.rows] or files[:1]
    following: dict[str, int] = {}
    for name in before:
        folder, _, last = name.rpartition("/")
        if numbered := re.match(r"part-(\d+)", last):
            following[folder] = max(following.get(folder, 0), int(numbered[1]) + 1)
    parts = []
    for file in kept:
        number = following.get(file.folder, 0)
        following[file.folder] = number + 1
        parts.append(Part(f"{file.folder}/part-{number:05d}{target.extension}".lstrip("/"), file))
    return [Part("", kept[0])] if target.one_file else parts


def describe(target: Target, parts: Sequence[Part]) -> dict[str, Any]:
    """What is reported of a published output; `digest` is BLAKE3 over the digests of its parts."""
    digest = blake3("".join(part.file.digest for part in parts).encode()).hexdigest()
    return {
        "path": target.path,
        "files": len(parts),
        "rows": sum(part.file.rows for part in parts),
        "bytes": sum(part.file.bytes for part in parts),
        "digest": str(digest),
    }


def success_file(parts: Sequence[Part], before: Mapping[str, Any] | None = None, request: str = "") -> bytes:
    """The bytes of `_SUCCESS`: parts with rows and digests; for an append also those from before, and the requests."""
    entries = [{"name": p.name, "rows": p.file.rows, "digest": p.file.digest} for p in parts]
    content: dict[str, Any] = {"version": 1, "parts": entries}
    if before is not None:
        content["parts"] = [*before["parts"], *entries]
        content["appended"] = [*before.get("appended", ()), request]
    content["rows"] = sum(entry["rows"] for entry in content["parts"])
    return (json.dumps(content, indent=1) + "\n").encode()


# --- what is there ---------------------------------------------------------------------------------------------------


def version_of(target: Target) -> str | None:
    """What identifies the content at a destination, None where nothing is. Raises OutputError."""
    system = system_of(target.path)
    if system == "dfs":
        return store_version(target.path)
    if system == "local":
        path = Path(target.where)
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file())
            seen = [(str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
            return str(blake3(json.dumps(seen).encode()).hexdigest())
        if path.exists():
            return json.dumps([path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ino])
        return None
    remote = _remote_files(target)
    return str(blake3(json.dumps(remote).encode()).hexdigest()) if remote else None


def _remote_files(target: Target) -> list[tuple[str, str]]:
    system, root = file_system(target.path)
    return [(name, str(system.ukey(name))) for name in sorted(system.find(root))] if system.exists(root) else []


def check_overlaps(targets: Sequence[Target], reads: Sequence[Read]) -> None:
    """Raise PlanError for outputs that lie in each other or in an input."""
    for i, target in enumerate(targets):
        for other in targets[i + 1 :]:
            if _within(target.where, other.where) or _within(other.where, target.where):
                raise PlanError(f"outputs {target.path} and {other.path} overlap")
        for path in (path for read in reads for path in read.paths):
            if _within(target.where, destination(path)):
                raise PlanError(f"output {target.path} lies inside the input {path}; the job would read its own output")
            if _within(destination(path), target.where) and target.mode != "append":
                raise OutputError(f"input {path} lies inside the output {target.path}, which would replace it")


def _within(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or below it; either may be a glob, which stands for all that it can match."""
    pairs = zip(_components(path), _components(folder), strict=False)
    for one, other in pairs:
        if "**" in (one, other):
            return True
        if not (one == other or fnmatchcase(one, other) or fnmatchcase(other, one)):
            return False
    return len(_components(path)) >= len(_components(folder))


def _components(path: str) -> list[str]:
    real = os.path.realpath(path) if system_of(path) == "local" else path
    return real.rstrip("/").split("/")


def check(target: Target) -> None:
    """Refuse a destination that its mode does not allow, before anything runs. Raises OutputError."""
    if target.mode == "append":
        if target.one_file:
            raise PlanError(f"{target.path}: append needs a folder; one file cannot be appended to")
    elif target.mode == "error" and _occupied(target):
        raise OutputError(
            f"{target.path} exists already; use --overwrite or --append (in Python mode=), or another path"
        )
    if system_of(target.path) == "local":
        _check_local(target)


def _occupied(target: Target) -> bool:
    path = Path(target.where)
    if system_of(target.path) == "local" and path.is_dir():
        return any(path.iterdir())
    return version_of(target) is not None


def _check_local(target: Target) -> None:
    path = Path(target.where)
    if path.is_dir() and target.one_file:
        raise OutputError(f"{path} is a folder; an output that ends in {target.extension} is one file")
    if path.is_file() and not target.one_file:
        raise OutputError(f"{path} is a file; an output without {target.extension} at its end is a folder")
    if path.is_dir() and any(path.iterdir()) and not (path / SUCCESS).exists():
        raise OutputError(f"{path} was not written by a job (no {SUCCESS}): it is not replaced; remove it yourself")
    ancestor = next(p for p in path.parents if p.exists())
    if not ancestor.is_dir():
        raise OutputError(f"{path} cannot be written: {ancestor} is not a folder")
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be written: no permission in {ancestor}")


# --- publishing ------------------------------------------------------------------------------------------------------


def publish(
    targets: Sequence[tuple[Target, Sequence[Output]]],
    runs: Path,
    request: str,
    versions: Mapping[str, str | None],
    failpoint: Callable[[str], None],
) -> list[tuple[str, dict[str, Any]]]:
    """Make all outputs visible; returns for each its version now and its report.

    `runs` holds the local part files; `request` names this publication, the same when it is tried again; `versions`
    are what was there when the job began: a destination that changed since is refused. Raises OutputError.
    """
    changes: list[StoreChange] = []
    staged: list[Staged] = []
    reports = []
    try:
        for target, outputs in targets:
            version = versions[target.where]
            if system_of(target.path) == "dfs":
                change, parts = _store_change(target, outputs, version, request)
                changes.append(change)
            else:
                stage = _stage if system_of(target.path) == "local" else _upload
                ready, parts = stage(target, outputs, runs, request, version)
                staged.append(ready)
            reports.append((target, describe(target, parts)))
        failpoint("publish.staged")
        if changes:
            publish_to_store(changes, request)
        failpoint("publish.store")
        for ready in staged:
            ready.finish()
    except OSError as error:
        raise OutputError(f"an output cannot be written: {error}") from None
    finally:
        for ready in staged:
            if ready.folder is not None:
                _remove(ready.folder)
    return [(version_of(target) or "", report) for target, report in reports]


class Staged(Struct, frozen=True):
    """An output that is ready: `finish` makes it appear; `folder` is where it waits (None: nowhere of ours)."""

    finish: Callable[[], None]
    folder: Path | None = None


def _store_change(
    target: Target, outputs: Sequence[Output], version: str | None, request: str
) -> tuple[StoreChange, list[Part]]:
    """The change of the store that publishes an output: the same when it is tried again after a crash."""
    before, names = None, list[str]()
    if target.mode == "append" and version is not None:
        raw = store_read(f"{target.path.rstrip('/')}/{SUCCESS}", int(version))
        before = json.loads(raw) if raw else {"parts": []}
        names = store_names(target.path, int(version))
    parts = parts_of(target, outputs, names)
    manifests = {part.name: part.file.manifest for part in parts}
    if not target.one_file:
        manifests[SUCCESS] = store_bytes(success_file(parts, before, request))
    return StoreChange(target.path, target.mode, manifests, version), parts


def _stage(
    target: Target, outputs: Sequence[Output], runs: Path, request: str, version: str | None
) -> tuple[Staged, list[Part]]:
    """Gather the parts beside the destination."""
    path = Path(target.where)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.mr-{request[:16]}")
    _remove(staging)
    if target.one_file:
        parts = parts_of(target, outputs)
        _gather(parts, runs, staging)
        return Staged(lambda: _appear_file(staging, target, version), staging), parts
    before = _success_of(path) if target.mode == "append" else None
    names = [entry["name"] for entry in before["parts"]] if before else []
    if before is not None and request in before.get("appended", ()):  # appended before a crash, but not noted
        count = len(parts_of(target, outputs))
        return Staged(lambda: None), parts_of(target, outputs, names[: len(names) - count])
    parts = parts_of(target, outputs, names)
    _gather(parts, runs, staging, success_file(parts, before, request))
    if before is not None:
        return Staged(lambda: _append_folder(staging, path), staging), parts
    return Staged(lambda: _appear_folder(staging, target, version), staging), parts


def _gather(parts: Sequence[Part], runs: Path, staging: Path, success: bytes | None = None) -> None:
    """Make `staging` durable: a folder with `success`, without it the one part itself. On an error it is removed."""
    try:
        if success is not None:
            staging.mkdir()
            (staging / SUCCESS).write_bytes(success)
            _sync(staging / SUCCESS)
        for part in parts:
            (staging / part.name).parent.mkdir(parents=True, exist_ok=True)
            copy_or_link(str(runs / part.file.path), str(staging / part.name))
            _sync(staging / part.name)
        for folder in sorted({(staging / part.name).parent for part in parts if part.name}):
            _sync_upwards(folder, staging)
        _sync(staging)
    except OSError:
        _remove(staging)
        raise


def _remove(path: Path) -> None:
    """Remove a file or folder of ours, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _sync_upwards(folder: Path, top: Path) -> None:
    """Make the names in `folder` durable, and those of all folders from it up to `top`."""
    while folder != top:
        _sync(folder)
        folder = folder.parent


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _appear_file(staging: Path, target: Target, version: str | None) -> None:
    path = Path(target.where)
    if version_of(target) != version and digest_file(path) != digest_file(staging):
        raise OutputError(f"{path} has changed since the job began; it is left alone")
    os.replace(staging, path)
    _sync(path.parent)


def _appear_folder(staging: Path, target: Target, version: str | None) -> None:
    """Rename the staged folder into place, and what was there away first: if it is what was there at the start, or the
    very same output, published before a crash that kept it from being noted."""
    path = Path(target.where)
    old = path.with_name(f".{path.name}.mr-old-{staging.name[-16:]}")
    renamed = old.exists() and not path.exists()  # a try before this one was killed between the two renames
    if not renamed and version_of(target) != version and _success_of(path) != _success_of(staging):
        raise OutputError(f"{path} has changed since the job began; it is left alone")
    if not renamed:
        _remove(old)
    if not (path.exists() and exchange(staging, path)):
        if path.exists():
            os.rename(path, old)
        os.rename(staging, path)
    _sync(path.parent)
    _remove(old)


def _append_folder(staging: Path, path: Path) -> None:
    """Move the staged parts in, `_SUCCESS` last. A name that is taken must be the same part, moved before a crash."""
    parts = sorted(p.relative_to(staging) for p in staging.rglob("*") if p.is_file() and p.name != SUCCESS)
    for part in parts:
        if (path / part).exists() and digest_file(path / part) != digest_file(staging / part):
            raise OutputError(f"{path / part} exists, but {SUCCESS} does not list it: it is not replaced; remove it")
    for part in parts:
        (path / part).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / part, path / part)
        _sync_upwards((path / part).parent, path)
    _sync(path)
    os.replace(staging / SUCCESS, path / SUCCESS)
    _sync(path)


def _success_of(path: Path) -> dict[str, Any] | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        found: dict[str, Any] = json.loads((path / SUCCESS).read_bytes())
        return found
    return None


def _upload(
    target: Target, outputs: Sequence[Output], runs: Path, request: str, version: str | None
) -> tuple[Staged, list[Part]]:
    """Write parts under their final names; the removal of what was there comes first, `_SUCCESS` last."""
    if target.mode == "append":
        raise PlanError(f"{target.path}: append works for local folders and dfs:// only")
    system, root = file_system(target.path)
    parts = parts_of(target, outputs)

    def finish() -> None:
        if system.exists(root):
            system.rm(root, recursive=True)
        for part in parts:
            remote = f"{root.rstrip('/')}/{part.name}" if part.name else root
            system.makedirs(remote.rpartition("/")[0], exist_ok=True)
            system.put_file(str(runs / part.file.path), remote)
        if not target.one_file:
            system.pipe_file(f"{root.rstrip('/')}/{SUCCESS}", success_file(parts))

    return Staged(finish), parts
