"""What people see on a terminal: live progress, the result of a job, tables of jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from mr.errors import InputError
from mr.explain import human_bytes
from mr.journal import JobRow
from mr.progress import Snapshot
from mr.results import JobResult
from mr.storage import list_files

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from mr.dataset import Dataset

LABEL_WIDTH = 60


class ProgressDisplay:
    """A live table on stderr, one line a stage: tasks done, records, bytes, rate."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._started = time.monotonic()
        self._shown_troubles = 0

    def update(self, snapshot: Snapshot) -> None:
        """Show a new snapshot; troubles are printed above the table as they come."""
        if self._live is None:  # not before workers have something to do
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), refresh_per_second=8, transient=True)
            self._live.start()
        for line in snapshot.troubles[self._shown_troubles :]:
            self._live.console.print(line, style="yellow", highlight=False, markup=False)
        self._shown_troubles = len(snapshot.troubles)
        self._live.update(progress_table(snapshot, time.monotonic() - self._started))

    def close(self) -> None:
        """Take the table away."""
        if self._live is not None:
            self._live.stop()


def progress_table(snapshot: Snapshot, seconds: float) -> Table:
    """The stages of a running job as a table."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("stage", "tasks", "records", "read", "rate"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage in snapshot.stages:
        running = [item for item in snapshot.running if item[0].stage == stage.id]
        records = stage.records + sum(r for _, r, _ in running)
        read = stage.bytes + sum(b for _, _, b in running)
        total = "?" if stage.total is None else str(stage.total)
        reused = f" ({stage.reused} reused)" if stage.reused else ""
        rate = f"{human_bytes(read / seconds)}/s" if running and seconds > 0 else ""
        table.add_row(
            stage.label[:LABEL_WIDTH], f"{stage.done}/{total}{reused}", f"{records:,}", human_bytes(read), rate
        )
    return table


def print_result(name: str, result: JobResult) -> None:
    """What a job did, on stdout."""
    tasks = f"{result.tasks_run} tasks run, {result.tasks_reused} reused"
    print(f"{name}: {result.state} in {result.seconds:.2f} s, {tasks}")
    for key, output in result.outputs.items():
        size = f"{output.rows:,} rows, {output.files} files, {human_bytes(output.bytes)}"
        print(f"  {key}: {output.path}  {size}  {output.digest[:16]}")
    for counter, n in result.counters.items():
        print(f"  {counter}: {n:,}")
    for note in result.notes:
        print(f"  {note}")
    for trouble in result.troubles:
        print(f"  survived: {trouble}")


def print_jobs(rows: Sequence[JobRow]) -> None:
    """Jobs as a table, the newest first."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("job", "name", "state", "started", "seconds", "run", "reused"):
        table.add_column(name)
    for row in rows:
        seconds = "" if row.ended is None else f"{row.ended - row.started:.1f}"
        run, reused = row.report.get("tasks_run", ""), row.report.get("tasks_reused", "")
        table.add_row(str(row.id), row.name, row.state, _time(row.started), seconds, str(run), str(reused))
    Console().print(table)


def print_status(row: JobRow, history: Sequence[str]) -> None:
    """One job in detail."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"job {row.id} {row.name}: {row.state}, started {_time(row.started)}, key {row.key[:16]}")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("stage", "tasks", "reused", "records", "read", "seconds"):
        table.add_column(name)
    for stage in row.report.get("stages", ()):
        read, seconds = human_bytes(stage["bytes"]), f"{sum(stage['seconds']):.2f}"
        counts = (str(stage["total"]), str(stage["reused"]), f"{stage['records']:,}")
        table.add_row(stage["label"][:LABEL_WIDTH], *counts, read, seconds)
    console.print(table)
    for key, output in row.report.get("outputs", {}).items():
        console.print(f"output {key}: {output['path']}  {output['rows']:,} rows  {output['digest'][:16]}")
    for counter, n in row.report.get("counters", {}).items():
        console.print(f"counter {counter}: {n:,}")
    for line in history:
        console.print(line)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def open_any(path: str) -> Dataset:
    """A dataset of whatever format the files at a path have, told by their extension.

    Raises InputNotFound, InputError.
    """
    import mr

    files = list_files(path)
    if not files:
        raise InputError(f"{path} holds no files")
    name = files[0].path.lower()
    for codec in (".gz", ".bz2", ".xz", ".zst"):
        name = name.removesuffix(codec)
    openers: dict[str, Callable[[str], Dataset]] = {
        ".parquet": mr.read_parquet,
        ".csv": mr.read_csv,
        **dict.fromkeys((".json", ".jsonl", ".ndjson"), mr.read_json),
        **dict.fromkeys((".arrow", ".arrows", ".feather", ".ipc"), mr.read_arrow),
        ".warc": mr.read_warc,
    }
    opener = next((openers[e] for e in openers if name.endswith(e)), mr.read_text)
    return opener(path)
