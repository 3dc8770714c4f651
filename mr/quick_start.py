"""What keeps the start of a process short: pandas is imported when somebody uses it, not when pyarrow makes an array.

Where pandas is installed, the first array that pyarrow makes imports it, to know its types: 0.2 s of every process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

import pyarrow as pa


def defer_pandas() -> None:
    """Let pyarrow do without pandas until this process imports it. No effect where that has happened."""
    if "pandas" in sys.modules or any(isinstance(finder, _PandasFinder) for finder in sys.meta_path):
        return
    finder = _PandasFinder()
    sys.meta_path.insert(0, finder)
    pa.array([0])  # pyarrow looks for it once, and then only where its API cannot do without
    finder.hides = False


class _PandasFinder(MetaPathFinder):
    """Hides pandas, then lets it be imported as ever and tells pyarrow that it is there."""

    hides = True

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "pandas":
            return None
        if self.hides:
            raise ModuleNotFoundError("No module named 'pandas'", name=fullname)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _PandasLoader(spec.loader)
        return spec


class _PandasLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        pa.Table.from_pandas(module.DataFrame())  # needs pandas, so pyarrow looks for it again
