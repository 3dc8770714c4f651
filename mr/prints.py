"""What user code prints in a worker: all to the task's log, the first lines also to stderr with the task's name."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TextIO

LINES_SHOWN = 20


class _Prints(io.TextIOBase):
    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._log: TextIO | None = None
        self._left = LINES_SHOWN
        self._line = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._log is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._log = open(self._path, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        self._log.write(text)
        if self._left:
            *lines, self._line = (self._line + text).split("\n")
            for line in lines[: self._left]:
                self._show(line)
            self._left -= min(self._left, len(lines))
            if not self._left:
                self._show(f"... the rest is in {self._path}")
        return len(text)

    def _show(self, line: str) -> None:
        print(f"[{self._name}] {line}", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._left and self._line:
            self._show(self._line)
        if self._log is not None:
            self._log.close()


@contextmanager
def prints_to(path: Path, name: str) -> Iterator[None]:
    """Send what is printed inside to the log `path`, made when something is; its first lines also to stderr."""
    prints = _Prints(path, name)
    try:
        with redirect_stdout(prints):
            yield
    finally:
        prints.end()
