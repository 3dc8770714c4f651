"""`with fs.transaction:` of `dfs://`: all changes made inside are published together, or none."""

from __future__ import annotations

from typing import Any

from fsspec.transaction import Transaction

from dfs.changes import Change
from dfs.errors import UsageProblem
from dfs.handles import WriteFile


class DfsTransaction(Transaction):  # type: ignore[misc]
    """Collects the changes of one file system until it ends, then publishes them as one.

    A block inside another one joins it: left by an exception, it takes back its own changes only. What is read
    inside is what was there before. A file that is still open at the end makes the whole transaction fail.
    """

    def __init__(self, fs: Any, **options: Any) -> None:
        super().__init__(fs, **options)
        self.changes: list[Change] = []
        self.writing: dict[WriteFile, None] = {}  # files opened inside and not closed yet, in order
        self._blocks: list[tuple[bool, int, list[WriteFile]]] = []  # joins another? and what it found there

    def start(self) -> None:
        self.fs._intrans = True

    def __enter__(self) -> DfsTransaction:
        self._blocks.append((self.fs._intrans, len(self.changes), list(self.writing)))
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        joins, before, writing = self._blocks.pop()
        if not joins:
            self.complete(commit=kind is None)
        elif kind is not None:
            del self.changes[before:]
            self._discard([file for file in self.writing if file not in writing])

    def complete(self, commit: bool = True) -> None:
        """Publish what was collected, or drop it. Raises as `Store.publish`, and UsageProblem for open files."""
        fs, still_open = self.fs, [file for file in self.writing if not file.closed]
        fs._intrans, fs._transaction = False, None
        self._discard(still_open)
        if commit and still_open:
            names = ", ".join(f"dfs://{file.path}" for file in still_open[:3])
            raise UsageProblem(
                f"{len(still_open)} files are still open at the end of the transaction ({names}); "
                "nothing was published: close them inside"
            )
        if commit and self.changes:
            fs._publish(self.changes)

    def _discard(self, files: list[WriteFile]) -> None:
        for file in files:
            del self.writing[file]
            file.discard()
