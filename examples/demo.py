#!/usr/bin/env python
"""`make demo`: what Millrace does, on an access log, with the commands that you would type.

Everything it makes is in `.demo/`: the log, a store on three nodes, the journal. It ends with an error if a promise is
not kept.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.dataset as pads
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / ".demo"
LOG = DEMO / "access.log"
ENVIRONMENT = {**os.environ, "DFS_STORE": str(DEMO / "store"), "MR_HOME": str(DEMO / "home")}
BIN = Path(sys.executable).parent
JOB = ["mr", "submit", "jobs/log_analytics.py", "--input", "dfs://logs/access.log", "--top", "10", "--json"]
console = Console(highlight=False)


def start(*command: str) -> subprocess.Popen[str]:
    """Show a command as it would be typed and start it."""
    shown = [str(Path(word).relative_to(ROOT)) if word.startswith(str(ROOT)) else word for word in command]
    console.print(f"[bold]$ {shlex.join(shown)}", soft_wrap=True)
    program = [sys.executable] if command[0] == "python" else [str(BIN / command[0])]
    return subprocess.Popen([*program, *command[1:]], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a command; the result that its last line of JSON tells. Ends the demo where the command failed."""
    out, _ = process.communicate()
    if process.returncode != 0:
        sys.exit(f"{out}\nthe command ended with code {process.returncode}")
    lines = [line for line in out.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {}


def run(*command: str) -> dict[str, Any]:
    return finish(start(*command))


def rows_of(name: str, rows_max: int) -> list[dict[str, Any]]:
    """The first rows of one of the report's tables."""
    filesystem = fsspec.filesystem("dfs", store=ENVIRONMENT["DFS_STORE"])
    parts = sorted(filesystem.glob(f"report/{name}/part-*.parquet"))
    rows: list[dict[str, Any]] = pads.dataset(parts, filesystem=filesystem).head(rows_max).to_pylist()
    return rows


def show(name: str, title: str, rows_max: int = 5) -> None:
    """Print the first rows of one of the report's tables."""
    rows = rows_of(name, rows_max)
    table = Table(title=title, title_justify="left")
    for column, value in rows[0].items():
        table.add_column(column, justify="right" if isinstance(value, int) else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()))
    console.print(table)


def report() -> None:
    """Print the tables of the report and one of the lines that did not parse."""
    show("unique_hosts", "Visitors by day", rows_max=8)
    show("hours", "The first hours, by status")
    show("urls", "Most requested")
    show("referrers", "Where requests come from")
    (bad,) = rows_of("unparsed", 1)
    console.print(f"Kept apart: {bad['path']}, line {bad['line']:,}, byte {bad['offset']:,}: {bad['error']}:")
    console.print(f"  {bad['raw']}", markup=False, soft_wrap=True)


def workers_of(pid: int) -> dict[int, float]:
    """The workers of the `mr submit` that is process `pid`, with the seconds of CPU that each has used.

    They are its grandchildren: it starts one process, which imports what they need and forks them.
    """
    parents, seconds = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        parents[int(stat.parent.name)] = int(fields[1])
        seconds[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return {process: seconds[process] for process, parent in parents.items() if parents.get(parent) == pid}


def kill_a_worker(process: subprocess.Popen[str]) -> None:
    """Send SIGKILL to the busiest worker as soon as it is in the middle of its work (where there is /proc)."""
    if not Path("/proc/self/stat").exists():
        console.print("  no worker is killed: this system has no /proc to find one in")
        return
    while process.poll() is None:
        worker, seconds = max(workers_of(process.pid).items(), key=lambda item: item[1], default=(0, 0.0))
        if seconds >= 0.02:
            os.kill(worker, signal.SIGKILL)
            console.print(f"  killed worker {worker} after {seconds:.2f} s of work")
            return
        time.sleep(0.01)
    sys.exit("the job ended before a worker could be killed")


def digests(result: dict[str, Any]) -> dict[str, str]:
    return {name: output["digest"] for name, output in result["outputs"].items()}


def main() -> None:
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir()
    console.rule("A log, and a store that keeps everything twice on three nodes")
    run("python", "examples/generate_log.py", str(LOG), "--lines", "200000", "--days", "7")
    nodes = [option for n in (1, 2, 3) for option in ("--node", str(DEMO / f"node-{n}"))]
    run("dfs", "init", str(DEMO / "store"), *nodes, "--replicas", "2", "--chunk-size", "1MiB")
    run("dfs", "put", str(LOG), "dfs://logs/access.log", "--json")

    console.rule("The report")
    first = run(*JOB, "--output", "dfs://report")
    report()

    console.rule("Another day: only what changed is stored and computed")
    run("python", "examples/generate_log.py", str(LOG), "--append-day")
    put = run("dfs", "put", str(LOG), "dfs://logs/access.log", "--json")
    again = run(*JOB, "--output", "dfs://report", "--overwrite")
    console.print(
        f"{again['tasks_reused']} of {again['tasks_run'] + again['tasks_reused']} tasks reused "
        f"({again['seconds']:.1f} s instead of {first['seconds']:.1f} s), "
        f"{put['new_chunks']} of {put['chunks']} chunks new"
    )

    console.rule("The same bytes, whatever happens")
    inline = run(*JOB, "--output", "dfs://inline", "--on", "inline", "--no-reuse")
    killed = start(*JOB, "--output", "dfs://killed", "--on", "local", "--workers", "4", "--no-reuse")
    kill_a_worker(killed)
    result = finish(killed)
    survived = digests(result)
    for trouble in result["troubles"]:
        console.print(f"  survived: {trouble}", markup=False, soft_wrap=True)
    for name, digest in digests(inline).items():
        equal = digest == digests(again)[name] == survived[name]
        console.print(f"  {name:<13} {digest[:32]}  {'the same in all three runs' if equal else 'DIFFERENT'}")
    if not digests(inline) == digests(again) == survived:
        sys.exit("the runs differ")


if __name__ == "__main__":
    main()
