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


def show(name: str, title: str, rows_max: int = 5) -> None:
    """Print the first rows of one of the report's tables."""
    filesystem = fsspec.filesystem("dfs", store=ENVIRONMENT["DFS_STORE"])
    parts = sorted(filesystem.glob(f"report/{name}/part-*.parquet"))
    rows = pads.dataset(parts, filesystem=filesystem, format="parquet").head(rows_max).to_pylist()
    table = Table(title=title, title_justify="left")
    for column, value in rows[0].items():
        table.add_column(
            column, justify="right" if isinstance(value, int) else "left", overflow="ellipsis", max_width=60
        )
    for row in rows:
        table.add_row(*(f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()))
    console.print(table)


def report() -> None:
    """Print the tables of the report and one of the lines that did not parse."""
    show("unique_hosts", "Visitors by day", rows_max=8)
    show("hours", "The first hours, by status")
    show("urls", "Most requested")
    show("referrers", "Where requests come from")
    show("unparsed", "A line that did not parse", rows_max=1)


def workers_of(pid: int) -> dict[int, float]:
    """The processes below `pid` that have none below them, with the seconds of CPU that each has used."""
    parents, seconds = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        parents[int(stat.parent.name)] = int(fields[1])
        seconds[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    below = {pid}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return {child: seconds[child] for child in below - {pid} if child not in parents.values()}


def kill_a_worker(process: subprocess.Popen[str]) -> None:
    """Send SIGKILL to the busiest worker as soon as it is in the middle of its work."""
    while process.poll() is None:
        worker, seconds = max(workers_of(process.pid).items(), key=lambda item: item[1], default=(0, 0.0))
        if seconds > 0.2:
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
    survived = digests(finish(killed))
    for name, digest in digests(inline).items():
        equal = digest == digests(again)[name] == survived[name]
        console.print(f"  {name:<13} {digest[:32]}  {'the same in all three runs' if equal else 'DIFFERENT'}")
    if not digests(inline) == digests(again) == survived:
        sys.exit("the runs differ")


if __name__ == "__main__":
    main()
