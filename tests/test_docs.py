"""The examples in docstrings run, and every public function and method has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dfs
import jobs
import mr
import mr.session


def modules() -> list[str]:
    names = [
        m.name for package in (mr, dfs, jobs) for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    return sorted(["mr", "dfs", "jobs", *names])


@pytest.mark.parametrize("name", modules())
def test_examples(name: str, inline: mr.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    before = mr.session._Current.session
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    mr.session._Current.session = before
    assert result.failed == 0


def public(owner: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The functions that users call on `owner`: of a module by `__all__`, of a class those without underscore."""
    names = owner.__all__ if isinstance(owner, ModuleType) else [n for n in dir(owner) if not n.startswith("_")]
    for name in names:
        value = inspect.getattr_static(owner, name) if inspect.isclass(owner) else getattr(owner, name)
        if (
            inspect.isfunction(value)
            or inspect.isclass(value)
            or isinstance(value, (property, classmethod, staticmethod))
        ):
            yield f"{where}.{name}", value


def test_everything_public_is_documented_with_an_example() -> None:
    found = dict(public(mr, "mr"))
    for owner in (mr.Dataset, mr.GroupedDataset, mr.Session):
        found |= dict(public(owner, f"mr.{owner.__name__}"))
    assert {"mr.read_text", "mr.Dataset.map", "mr.Dataset.take", "mr.GroupedDataset.agg", "mr.Session.close"} <= set(
        found
    )
    undocumented = [name for name, value in found.items() if not (value.__doc__ or "").strip()]
    assert undocumented == []
    wanted = [
        n for n, v in found.items() if not (inspect.isabstract(v) or (inspect.isclass(v) and issubclass(v, Exception)))
    ]
    without = [name for name in wanted if ">>>" not in inspect.getdoc(found[name])]  # type: ignore[operator]
    assert without == []
