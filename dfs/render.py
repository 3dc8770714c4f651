"""How the command line shows things: lines for people, or JSON lines (each with a `type`). Data goes to stdout; hints
and progress go to stderr, progress on a terminal only."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import asdict

if TYPE_CHECKING:
    from dfs.metadata import FileInfo

_REDRAW_S = 0.1  # a terminal over ssh can follow this
_RATE_WINDOW_S = 5.0  # the rate is that of the last seconds: what a person wants to know when it stalls
_BAR_CELLS = 24


class Output:
    """Writes one command's answer: `line` for data, `hint` and `detail` for what people like to know beside it."""

    def __init__(self, as_json: bool, verbosity: int = 0) -> None:
        self.as_json = as_json
        self.verbosity = verbosity
        terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._shows_progress = terminal and not as_json and verbosity >= 0
        self._progress: Progress | None = None

    def line(self, text: str, kind: str, **values: Any) -> None:
        """One line of the answer: `text` for people, or `values` with `type: kind`."""
        self.clear()
        click.echo(json.dumps({"type": kind, **values}) if self.as_json else text)

    def hint(self, text: str) -> None:
        """A line on stderr for people, unless they asked for quiet."""
        if self.verbosity >= 0 and not self.as_json:
            self.clear()
            click.echo(text, err=True)

    def detail(self, text: str) -> None:
        """A line on stderr for those who asked for more."""
        if self.verbosity > 0:
            self.clear()
            click.echo(text, err=True)

    def clear(self) -> None:
        """Remove the status line, if there is one."""
        if self._progress is not None:
            self._progress.clear()

    @contextmanager
    def progress(
        self, verb: str, size: int | None = None, files: int | None = None, noun: str = "files"
    ) -> Iterator[Progress]:
        """A status line for as long as the block runs; `size` in bytes and `files` are what is to be done, if known."""
        self._progress = Progress(verb, self._shows_progress, size, files, noun)
        try:
            yield self._progress
        finally:
            self.clear()
            self._progress = None

    def entry(self, info: FileInfo, time_ms: int, human: bool) -> None:
        """One line of `ls`."""
        records = "" if info.records is None else f"{info.records:,}"
        size = "-" if info.kind == "dir" else shown_bytes(info.size, human)
        name = visible(info.path) + ("/" if info.kind == "dir" else "")
        self.line(
            f"{moment(time_ms)} {size:>14} {records:>13} {info.version:>6}  {name}",
            info.kind,
            **entry_values(info),
            time_ms=time_ms,
        )


class Progress:
    """A status line that is drawn over itself: share, bytes, rate, time left, files, and what is done now. Any thread
    may add to it."""

    def __init__(self, verb: str, shown: bool, size: int | None, files: int | None, noun: str) -> None:
        self._verb = verb
        self._noun = noun
        self._shown = shown
        self._size_total = size
        self._files_total = files
        self._size = self._files = 0
        self._name = ""
        self._lock = threading.Lock()
        self._drawn_at = self._began = time.monotonic()
        self._is_drawn = False
        self._samples: deque[tuple[float, int, int]] = deque([(self._began, 0, 0)])

    def add(self, size: int = 0, files: int = 0, name: str | None = None) -> None:
        """So many more bytes and files are done; `name` is what is worked on."""
        if not self._shown:
            return
        with self._lock:
            self._size += size
            self._files += files
            self._name = self._name if name is None else name
            now = time.monotonic()
            if now - self._drawn_at >= _REDRAW_S:
                self._drawn_at = now
                self._draw(now)

    def count(self, done: int, todo: int | None = None) -> None:
        """So many files are done altogether, of so many."""
        self._files_total = todo
        self.add(files=done - self._files)

    def reach(self, files: int, size: int) -> None:
        """So many files and bytes are done altogether."""
        self.add(size - self._size, files - self._files)

    def _draw(self, now: float) -> None:
        self._samples.append((now, self._size, self._files))
        while len(self._samples) > 2 and now - self._samples[0][0] > _RATE_WINDOW_S:
            self._samples.popleft()
        since, size, files = self._samples[0]
        seconds = max(now - since, 1e-6)
        rates = ((self._size - size) / seconds, (self._files - files) / seconds)
        done = ((self._size, self._size_total), (self._files, self._files_total))
        columns = shutil.get_terminal_size().columns - 1
        text = progress_text(self._verb, *done, rates, self._name, columns, self._noun)
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)
        self._is_drawn = True

    def clear(self) -> None:
        """Take the line away."""
        with self._lock:
            if self._is_drawn:
                click.echo("\r\x1b[K", nl=False, err=True)
                self._is_drawn = False


def progress_text(
    verb: str,
    size: tuple[int, int | None],
    files: tuple[int, int | None],
    rates: tuple[float, float],
    name: str,
    width: int,
    noun: str = "files",
) -> str:
    """A status line of at most `width` characters. `size` (bytes) and `files` are (done, to do if known), `rates` are
    per second.

    >>> progress_text("put", (5_000_000, 10_000_000), (1, 4), (2_500_000.0, 0.5), "a.log", 200)
    'put [############............]  50%  5.0 MB/10.0 MB  2.5 MB/s  0:02 left  1/4 files  a.log'
    >>> progress_text("gc", (0, None), (120, None), (0.0, 40.0), "", 200, "copies")
    'gc  120 copies  40/s'
    """
    parts = []
    (done, todo), rate = (size, rates[0]) if size[1] or size[0] else (files, rates[1])
    if todo:
        share = min(done / todo, 1.0)
        cells = int(share * _BAR_CELLS)
        parts.append(f"[{'#' * cells}{'.' * (_BAR_CELLS - cells)}] {share:>4.0%}")
    if size[0] or size[1]:
        total = f"/{human_bytes(size[1])}" if size[1] else ""
        parts.append(f" {human_bytes(size[0])}{total}  {human_bytes(int(rates[0]))}/s")
    if todo and rate > 0 and done >= todo / 100:  # before that it is a guess
        parts.append(f" {clock(int((todo - min(done, todo)) / rate))} left")
    if files[1]:
        parts.append(f" {files[0]:,}/{files[1]:,} {noun}")
    elif files[0]:
        parts.append(f" {files[0]:,} {noun}" + ("" if size[0] else f"  {rates[1]:,.0f}/s"))
    text = " ".join([verb, *parts])
    room = width - len(text) - 2
    return f"{text}  {visible(name)[:room]}"[:width] if name and room > 3 else text[:width]


def clock(seconds: int) -> str:
    """
    >>> clock(62), clock(3723)
    ('1:02', '1:02:03')
    """
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def entry_values(info: FileInfo) -> dict[str, Any]:
    """A FileInfo for JSON; its `kind` is the line's type."""
    return {name: value for name, value in asdict(info).items() if name != "kind"}


def moment(time_ms: int) -> str:
    """A time in ms since the epoch, in local time, to the minute; a dash for none."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(time_ms / 1000)) if time_ms else f"{'-':>16}"


def shown_bytes(size: int, human: bool) -> str:
    """A number of bytes: as it is, or with a unit."""
    return human_bytes(size) if human else str(size)


def human_bytes(size: int) -> str:
    """
    >>> human_bytes(999), human_bytes(1_234_567)
    ('999 B', '1.2 MB')
    """
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def visible(path: str) -> str:
    """A path on one line of a terminal: control characters are shown as escapes.

    >>> visible("a\\nb")
    'a\\\\nb'
    """
    if path.isprintable():
        return path
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in path)


def counted(count: int, noun: str, plural: str = "") -> str:
    """
    >>> counted(1, "file"), counted(2000, "file"), counted(2, "copy", "copies")
    ('1 file', '2,000 files', '2 copies')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def ratio(part: int, whole: int) -> float | None:
    """How many times `whole` goes into `part`, to two places; None when it is nothing.

    >>> ratio(300, 100), ratio(0, 0)
    (3.0, None)
    """
    return round(part / whole, 2) if whole else None


def total(values: Iterable[int | None]) -> int:
    """Sum of those that are known."""
    return sum(value or 0 for value in values)
