"""Snapshots of a job's sources: the job file and the modules beside it that it imports.

A snapshot lies in MR_HOME/code/<digest> and is what master and workers import the job's modules from, so that editing
them while a job runs changes nothing, and a class means the same everywhere. Modules keep their original file names,
which is what tracebacks and messages show. `sources.json` maps module names to those.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from blake3 import blake3
from msgspec import Struct

from mr.errors import JournalError, PlanError

INDEX = "sources.json"


class Source(Struct, frozen=True):
    """A module's original file and its text."""

    file: Path
    text: bytes

    @property
    def is_package(self) -> bool:
        return self.file.name == "__init__.py"


def take(sources: Mapping[str, Source], home: Path) -> str:
    """Copy sources under `home` and return the digest that names the copy.

    Raises JournalError where `home` cannot be written.
    """
    index = {name: str(source.file) for name, source in sorted(sources.items())}
    hasher = blake3(json.dumps(index).encode())
    for name in index:
        hasher.update(len(sources[name].text).to_bytes(8, "little") + sources[name].text)
    digest = str(hasher.hexdigest())
    folder = home / "code" / digest
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, source in sources.items():
            _keep(folder / f"{name}.py", source.text)
        _keep(folder / INDEX, json.dumps(index).encode())
    except OSError as error:
        raise JournalError(f"MR_HOME {home} cannot be used: {error}") from None
    return digest


def _keep(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. One that a crash cut short is written again: its name does not tell."""
    if path.is_file() and path.read_bytes() == data:
        return
    temp = path.with_name(f".{path.name}.{os.getpid()}")
    temp.write_bytes(data)
    os.replace(temp, path)


def load(home: Path, digest: str) -> dict[str, Source]:
    """The sources of a snapshot."""
    folder = home / "code" / digest
    index = json.loads((folder / INDEX).read_text())
    return {name: Source(Path(file), (folder / f"{name}.py").read_bytes()) for name, file in index.items()}


class _Active:
    """The snapshot that this process imports from; at most one at a time."""

    digest = ""
    finder: SnapshotFinder | None = None


def activate(home: Path, digest: str) -> None:
    """Import the modules of this snapshot from it from now on; modules of another snapshot are forgotten."""
    if digest == _Active.digest:
        return
    if _Active.finder is not None:
        sys.meta_path.remove(_Active.finder)
        for name in _Active.finder.sources:
            sys.modules.pop(name, None)
    finder = SnapshotFinder(load(home, digest))
    for name in finder.sources:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, finder)
    _Active.digest, _Active.finder = digest, finder


def sources_of(path: Path) -> dict[str, Source]:
    """The sources by module name of a job file and of the modules beside it that it imports, directly or not.

    Raises PlanError for a syntax error, with its line.
    """
    found: dict[str, Source] = {}
    pending = [(path.stem, path)]
    while pending:
        name, file = pending.pop()
        if name in found:
            continue
        text = file.read_bytes()
        try:
            tree = ast.parse(text, filename=str(file))
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            message = getattr(error, "msg", str(error))
            raise PlanError(f"{file.name}:{line}: SyntaxError: {message}") from None
        found[name] = Source(file, text)
        package = name if found[name].is_package else name.rpartition(".")[0]
        for wanted in _imports(tree, package):
            pending += _beside(path.parent, wanted)
    return found


def _imports(tree: ast.AST, package: str) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            with suppress(ImportError):  # beyond the topmost package: importing it will say so
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names


def _beside(folder: Path, name: str) -> list[tuple[str, Path]]:
    """The files in `folder` that importing `name` would load: its packages and itself."""
    files = []
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        base = folder.joinpath(*parts[:depth])
        candidates = (base / "__init__.py", base.with_suffix(".py"))
        files += [(".".join(parts[:depth]), file) for file in candidates if file.is_file()]
    return files


class SnapshotFinder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports the modules of a snapshot under their original file names."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources = sources

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self.sources:
            return None
        source = self.sources[name]
        return importlib.util.spec_from_loader(name, self, origin=str(source.file), is_package=source.is_package)

    def get_source(self, name: str) -> str:
        return importlib.util.decode_source(self.sources[name].text)

    def is_package(self, name: str) -> bool:
        return self.sources[name].is_package

    def exec_module(self, module: types.ModuleType) -> None:
        source = self.sources[module.__name__]
        module.__file__ = str(source.file)
        exec(compile(source.text, str(source.file), "exec", dont_inherit=True), module.__dict__)
