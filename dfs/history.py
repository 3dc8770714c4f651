"""Questions over time: the versions of a path, and what differs between two transactions.

A folder is the same folder while it is the same node, wherever it is moved; what did not change below it is not looked
at (table `changed`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from dfs.errors import NotFound
from dfs.marking import FOREVER, ROOT
from dfs.paths import join

if TYPE_CHECKING:
    from dfs.metadata import Namespace


class PathVersion(Struct, frozen=True):
    """What a path held since transaction `txn`, until `ended` replaced, changed or removed it (None: it still does).

    Size in bytes, 0 for a folder; content_id "" for a folder.
    """

    txn: int
    ended: int | None
    time_ms: int
    kind: Literal["file", "dir"]
    size: int
    content_id: str


class Difference(Struct, frozen=True):
    """One file, or one folder, that is not as it was. Sizes in bytes, None where there is no file.

    A folder that was moved is one difference, and what changed inside it follows under its new path. `old_path` is
    where the same file or folder was: of what was moved, and of what was modified within a folder that was. (Moved with
    both paths the same: it stayed, or came back, while the folder around it moved.)
    """

    kind: Literal["added", "removed", "modified", "moved"]
    path: str
    old_path: str | None
    size_before: int | None
    size_after: int | None
    is_folder: bool


def versions_of(namespace: Namespace, path: str) -> list[PathVersion]:
    """See `Namespace.versions`."""
    horizon = namespace.settings()["horizon"]
    single = [snapshot.txn for snapshot in namespace.snapshots()]
    found = []
    for node, kind, size, content, begun, ended in _intervals(namespace, path):
        cuts = [begun]
        if kind == "dir":
            rows = namespace.rows(
                "SELECT txn FROM changed WHERE node = ? AND txn > ? AND txn < ? ORDER BY txn", node, begun, ended
            )
            cuts += [txn for (txn,) in rows]
        for since, until in zip(cuts, [*cuts[1:], ended], strict=True):
            if until > horizon or any(since <= txn < until for txn in single):
                end = None if until == FOREVER else until
                found.append(PathVersion(since, end, namespace.time_ms(since), kind, size, content))
    if not found:
        raise NotFound(f"no version of dfs://{path} is kept")
    return sorted(found, key=lambda version: version.txn, reverse=True)


def _intervals(namespace: Namespace, path: str) -> list[tuple[int, Literal["file", "dir"], int, str, int, int]]:
    """(node, kind, size, content id, since, until) of all that a path led to."""
    lives: list[tuple[int, Literal["file", "dir"], int, str, int, int]] = [(ROOT, "dir", 0, "", 0, FOREVER)]
    for name in path.split("/") if path else ():
        below = []
        for parent, _, _, _, begun, ended in lives:
            rows = namespace.rows(
                "SELECT d.node, n.kind, coalesce(f.size, 0), lower(hex(coalesce(f.content_id, x''))),"
                "  max(d.from_txn, ?3), min(d.to_txn, ?4)"
                " FROM dentry d JOIN node n ON n.id = d.node LEFT JOIN file f ON f.node = d.node"
                " WHERE d.parent = ?1 AND d.name = ?2 AND max(d.from_txn, ?3) < min(d.to_txn, ?4)",
                *(parent, name, begun, ended),
            )
            below += rows
        lives = below
    return lives


class _Entry(Struct, frozen=True):
    """What a name in a folder led to; `size` and `content` are None for a folder.

    `place` is where an entry of before would be after, had nothing but the folders around it been moved.
    """

    node: int
    path: str
    place: str
    size: int | None
    content: bytes | None


def compare(namespace: Namespace, a: int, b: int, path: str) -> Iterator[Difference]:
    """See `Namespace.diff`."""
    return iter(_Comparison(namespace, a, b, path).run())


def _carried(path: str, moved: Mapping[str | None, str]) -> str:
    """Where the nearest folder above that was moved takes a path."""
    above = path
    while above:
        above = above.rpartition("/")[0]
        if above in moved:
            return join(moved[above], path[len(above) :].lstrip("/"))
    return path


class _Comparison:
    """The difference between two numbers. Files that are there only before or only after are gathered, then paired by
    node: the pairs were moved. For a folder its node says at once where it went or came from."""

    def __init__(self, namespace: Namespace, a: int, b: int, path: str) -> None:
        self._namespace = namespace
        self._a, self._b = a, b
        self._path = path
        self._found: list[Difference] = []
        self._gone: list[_Entry] = []
        self._new: list[_Entry] = []
        self._folders: list[tuple[_Entry | None, _Entry | None]] = []  # to be opened, before and after
        self._changed_below = self._changed_folders()

    def run(self) -> list[Difference]:
        before, after = self._top(self._a), self._top(self._b)
        if before is None and after is None:
            raise NotFound(f"dfs://{self._path} is neither in transaction {self._a} nor in {self._b}")
        self._pair(before, after)
        while self._folders:
            old, new = self._folders.pop()
            if old and new:
                self._compare_folders(old, new)
            elif old:
                self._open_gone(old)
            elif new:
                self._open_new(new)
        self._pair_files()
        moved = {d.old_path: d.path for d in self._found if d.kind == "moved" and d.is_folder}
        found = [d for d in self._found if d.path != d.old_path or _carried(d.path, moved) != d.path]
        return sorted(found, key=lambda d: (d.path, d.kind))

    def _changed_folders(self) -> dict[int, list[tuple[str, int]]]:
        """Folder -> (name, node) of folders in it, there before and after, in or below which something changed."""
        low, high = sorted((self._a, self._b))
        rows = self._namespace.rows(
            "SELECT DISTINCT d.parent, d.name, d.node FROM changed c CROSS JOIN dentry d ON d.node = c.node"
            " WHERE c.txn > ?1 AND c.txn <= ?2 AND d.from_txn <= ?1 AND d.to_txn > ?2",
            *(low, high),
        )
        below = defaultdict(list)
        for parent, name, node in rows:
            below[parent].append((name, node))
        return below

    def _top(self, at: int) -> _Entry | None:
        found = self._namespace.resolve(self._path, at)
        if found is None:
            return None
        rows = self._namespace.rows("SELECT size, content_id FROM file WHERE node = ?", found.node)
        return _Entry(found.node, self._path, self._path, *(rows[0] if rows else (None, None)))

    def _pair(self, before: _Entry | None, after: _Entry | None) -> None:
        """What one name led to, before and after."""
        old_folder = before if before is not None and before.content is None else None
        new_folder = after if after is not None and after.content is None else None
        if old_folder and new_folder and self._are_apart(old_folder, new_folder):
            self._folders += [(old_folder, None), (None, new_folder)]
        elif old_folder or new_folder:
            self._folders.append((old_folder, new_folder))
        old_file = None if old_folder else before
        new_file = None if new_folder else after
        if old_file and new_file:
            self._compare_files(old_file, new_file)
        elif old_file:
            self._gone.append(old_file)
        elif new_file:
            self._new.append(new_file)

    def _compare_files(self, before: _Entry, after: _Entry) -> None:
        if before.content != after.content:
            old_path = before.path if before.path != after.path else None
            self._found.append(Difference("modified", after.path, old_path, before.size, after.size, False))

    def _are_apart(self, before: _Entry, after: _Entry) -> bool:
        """Whether two folders of one name are different ones because one of them was moved."""
        if before.node == after.node:
            return False
        return self._place(before.node, self._b) is not None or self._place(after.node, self._a) is not None

    def _place(self, node: int, at: int) -> str | None:
        """Path of a folder at a number; None when it is not there, or outside of what is compared."""
        names: list[str] = []
        while node != ROOT:
            rows = self._namespace.rows(
                "SELECT parent, name FROM dentry WHERE node = ?1 AND from_txn <= ?2 AND to_txn > ?2", node, at
            )
            if not rows:
                return None
            node, name = rows[0]
            names.append(name)
        path = "/".join(reversed(names))
        return path if not self._path or f"{path}/".startswith(f"{self._path}/") else None

    def _compare_folders(self, before: _Entry, after: _Entry) -> None:
        """Two states of a folder, or a folder and the one that replaced it."""
        same = before.node == after.node
        old = self._entries(before, after.path, self._a, self._b if same else None)
        new = self._entries(after, after.path, self._b, self._a if same else None)
        for name in old.keys() | new.keys():
            self._pair(old.get(name), new.get(name))
        if same:
            for name, node in self._changed_below.get(before.node, ()):
                paths = (join(before.path, name), join(after.path, name))
                self._folders.append((_Entry(node, *paths, None, None), _Entry(node, paths[1], paths[1], None, None)))

    def _open_gone(self, folder: _Entry) -> None:
        if self._place(folder.node, self._b) is None:  # else it was moved, and is met where it is now
            self._found.append(Difference("removed", folder.path, None, None, None, True))
            for entry in self._entries(folder, folder.place, self._a, None).values():
                self._pair(entry, None)

    def _open_new(self, folder: _Entry) -> None:
        old_path = self._place(folder.node, self._a)
        if old_path is None:
            self._found.append(Difference("added", folder.path, None, None, None, True))
            for entry in self._entries(folder, folder.path, self._b, None).values():
                self._pair(None, entry)
        else:
            self._found.append(Difference("moved", folder.path, old_path, None, None, True))
            self._folders.append((_Entry(folder.node, old_path, folder.path, None, None), folder))

    def _entries(self, folder: _Entry, place: str, at: int, without: int | None) -> dict[str, _Entry]:
        """Name -> entry of a folder (its place is `place`) at a number; not of dentries that hold at `without` too."""
        rows = self._namespace.rows(
            "SELECT d.name, d.node, f.size, f.content_id FROM dentry d LEFT JOIN file f ON f.node = d.node"
            " WHERE d.parent = ?1 AND d.from_txn <= ?2 AND d.to_txn > ?2"
            " AND NOT (d.from_txn <= ?3 AND d.to_txn > ?3)",
            *(folder.node, at, -1 if without is None else without),
        )
        return {
            name: _Entry(node, join(folder.path, name), join(place, name), size, content)
            for name, node, size, content in rows
        }

    def _pair_files(self) -> None:
        """What went with what came: first of one place, then of one node."""
        by_place = {entry.place: entry for entry in self._gone}
        places: defaultdict[int, list[_Entry]] = defaultdict(list)
        stayed, came = set(), []
        for entry in sorted(self._new, key=lambda e: e.path):
            old = by_place.pop(entry.path, None)
            if old is None:
                came.append(entry)
            else:
                self._compare_files(old, entry)
                stayed.add(old)
        for entry in sorted(set(self._gone) - stayed, key=lambda e: e.path, reverse=True):
            places[entry.node].append(entry)
        for entry in came:
            if places[entry.node]:
                old = places[entry.node].pop()
                self._found.append(Difference("moved", entry.path, old.path, old.size, entry.size, False))
            else:
                self._found.append(Difference("added", entry.path, None, None, entry.size, False))
        for left in places.values():
            self._found += [Difference("removed", e.path, None, e.size, None, False) for e in left]
