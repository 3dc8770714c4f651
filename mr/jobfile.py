"""Loading a job from a file or module, from a snapshot of its sources.

The job file and the modules beside it that it imports are copied under MR_HOME/code/<digest> and imported from there,
so that editing them while a job runs changes nothing. Their functions travel to workers by value.
"""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import cloudpickle
from blake3 import blake3

from mr.errors import PlanError, in_user_code
from mr.fingerprint import is_library
from mr.job_function import Job


def load_job(target: str, home: Path) -> Job[...]:
    """The job that "FILE.py", "FILE.py:JOB", "module" or "module:JOB" names.

    Raises PlanError in one line: no such file, a syntax error with its line, an import that fails, no job, or several
    of which none is named.
    """
    source, _, wanted = target.partition(":") if not target.endswith(":") else (target[:-1], "", "")
    path = Path(source)
    module = _from_file(path, home) if source.endswith(".py") or path.is_file() else _from_module(source)
    jobs = {name: value for name, value in vars(module).items() if isinstance(value, Job)}
    jobs = {job.name: job for job in jobs.values() if job.__module__ == module.__name__}
    if wanted:
        if wanted not in jobs:
            raise PlanError(f"{source} has no job {wanted!r}; it has {', '.join(jobs) or 'none'}")
        return jobs[wanted]
    if not jobs:
        raise PlanError(f"{source} has no job; decorate a function with @mr.job")
    if len(jobs) > 1:
        raise PlanError(f"{source} has {len(jobs)} jobs ({', '.join(jobs)}); name one: {source}:{next(iter(jobs))}")
    return next(iter(jobs.values()))


def _from_module(name: str) -> types.ModuleType:
    sys.path.insert(0, "")
    try:
        module = importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise PlanError(f"no job file or module {name!r} ({error})") from None
        raise in_user_code(error, name) from error
    finally:
        sys.path.remove("")
    if not is_library(name):
        cloudpickle.register_pickle_by_value(module)
    return module


def _from_file(path: Path, home: Path) -> types.ModuleType:
    if not path.is_file():
        raise PlanError(f"no job file {path}")
    path = path.resolve()
    sources = sources_of(path)
    digest = str(blake3(b"".join(k.encode() + b"\0" + v[1] + b"\0" for k, v in sorted(sources.items()))).hexdigest())
    folder = home / "code" / digest
    for name, (original, text) in sources.items():
        copy = folder / (name.replace(".", "/") + ("/__init__.py" if original.name == "__init__.py" else ".py"))
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(text)
    finder = _Snapshot(sources)
    sys.meta_path.insert(0, finder)
    for name in sources:
        sys.modules.pop(name, None)
    try:
        module = importlib.import_module(path.stem)
    except Exception as error:
        raise in_user_code(error, str(path)) from error
    for name in sources:
        if name in sys.modules:
            cloudpickle.register_pickle_by_value(sys.modules[name])
    return module


def sources_of(path: Path) -> dict[str, tuple[Path, bytes]]:
    """Module name -> (file, source) of a job file and of the modules beside it that it imports, directly or not.

    Raises PlanError for a syntax error, with its line.
    """
    found: dict[str, tuple[Path, bytes]] = {}
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
        found[name] = (file, text)
        for wanted in _imports(tree):
            pending += _beside(path.parent, wanted)
    return found


def _imports(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
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


class _Snapshot(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports the modules of a job from the sources that were read once, under their original file names."""

    def __init__(self, sources: dict[str, tuple[Path, bytes]]) -> None:
        self._sources = sources

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self._sources:
            return None
        file = self._sources[name][0]
        package = file.name == "__init__.py"
        return importlib.util.spec_from_loader(name, self, origin=str(file), is_package=package)

    def get_source(self, name: str) -> str:
        return importlib.util.decode_source(self._sources[name][1])

    def is_package(self, name: str) -> bool:
        return self._sources[name][0].name == "__init__.py"

    def exec_module(self, module: types.ModuleType) -> None:
        file, text = self._sources[module.__name__]
        module.__file__ = str(file)
        exec(compile(text, str(file), "exec", dont_inherit=True), module.__dict__)


__all__ = ["load_job", "sources_of"]
