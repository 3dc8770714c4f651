"""How the command line shows things: lines for people, or JSON lines (each with a `type`). Data goes to stdout,
progress to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import click

from dfs.metadata import FileInfo
from dfs.repair import Finding, Health


class Output:
    """Writes one command's answer."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._progress = sys.stderr.isatty() and not as_json
        self._shown = False

    def line(self, text: str, kind: str, **values: Any) -> None:
        """One line of the answer: `text` for people, or `values` with `type: kind`."""
        self.clear()
        click.echo(json.dumps({"type": kind, **values}) if self.as_json else text)

    def progress(self, text: str) -> None:
        """Replace the status line; on a terminal only."""
        if self._progress:
            click.echo(f"\r\x1b[K{text[:100]}", nl=False, err=True)
            self._shown = True

    def clear(self) -> None:
        """Remove the status line."""
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)
            self._shown = False

    def entry(self, info: FileInfo) -> None:
        """One line of `ls` and `find`."""
        records = "" if info.records is None else f"{info.records:,}"
        size = "" if info.kind == "dir" else human_bytes(info.size)
        name = visible(info.path) + ("/" if info.kind == "dir" else "")
        self.line(f"{size:>10} {records:>14} {info.version:>6}  {name}", info.kind, **entry_values(info))

    def health(self, health: Health, files: dict[str, list[str]]) -> None:
        """What fsck found, each kind apart."""
        kinds = (
            ("missing", health.missing),
            ("corrupt", health.corrupt),
            ("under-replicated", health.under_replicated),
            ("orphaned", health.orphaned),
        )
        for kind, findings in kinds:
            for finding in findings:
                self._finding(kind, finding, files.get(finding.chunk, []))
        counts = {kind.replace("-", "_"): len(findings) for kind, findings in kinds}
        told = ", ".join(f"{len(findings)} {kind}" for kind, findings in kinds)
        state = "damaged" if health.damaged else "healthy"
        self.line(f"{state}: {health.chunks} chunks, {told}", "result", state=state, chunks=health.chunks, **counts)

    def _finding(self, kind: str, finding: Finding, files: list[str]) -> None:
        good, bad = finding.copies.good, finding.copies.bad
        where = f"good on {len(good)} nodes" + "".join(f"; bad on {node}: {why}" for node, why in bad)
        self.line(
            f"{kind:<17}{finding.chunk}  {', '.join(map(visible, files)) or '(no file)'}  ({where})",
            kind,
            chunk=finding.chunk,
            files=files,
            good=list(good),
            bad=[{"node": node, "reason": why} for node, why in bad],
        )


def entry_values(info: FileInfo) -> dict[str, Any]:
    """A FileInfo for JSON; its `kind` is the line's type."""
    return {name: value for name, value in asdict(info).items() if name != "kind"}


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
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in path)


def counted(count: int, noun: str) -> str:
    """
    >>> counted(1, "file"), counted(2000, "file")
    ('1 file', '2,000 files')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def total(values: Iterable[int | None]) -> int:
    """Sum of those that are known."""
    return sum(value or 0 for value in values)
