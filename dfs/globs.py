"""Patterns in paths of the store: `*`, `?` and `[...]` stand for parts of one name, as in a shell; names that begin
with a dot match too."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

from dfs.errors import NotFound
from dfs.paths import join, normalise

if TYPE_CHECKING:
    from dfs.store import Store

_MAGIC = frozenset("*?[")


def expand(store: Store, pattern: str, at: int) -> list[str]:
    """The paths that a pattern names after transaction `at`, in order. A path that exists stands for itself, whatever
    is in it; one without any of `*?[` always does. Raises NotFound when nothing matches, InvalidPath."""
    path = normalise(pattern)
    if _MAGIC.isdisjoint(path) or store.exists(path, at):
        return [path]
    found = [""]
    for part in path.split("/"):
        if _MAGIC.isdisjoint(part):
            found = [child for folder in found if store.exists(child := join(folder, part), at)]
        else:
            found = [join(folder, name) for folder in found for name in _names(store, folder, at, part)]
    if not found:
        raise NotFound(f"nothing in the store matches {pattern}")
    return found


def _names(store: Store, folder: str, at: int, pattern: str) -> list[str]:
    if store.stat(folder, at).kind != "dir":
        return []
    names = [info.path.rpartition("/")[2] for info in store.ls(folder, at)]
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]
