"""The peers: who they are, whether they are there, and their scripts in `peers/`.

`peers/<workload>_<peer>.py` runs in the peers' own environment (`make bench-peers`), `.sh` with what Debian has:
SCRIPT OUTPUT CORES INPUT... Each is written as that peer's documentation would have it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from benchmarks.generate import WORK
from benchmarks.harness import CORES, Contestant, remove

HERE = Path(__file__).parent
PYTHON = HERE / ".venv" / "bin" / "python"
SLOW, SLOWEST = 2, 1
"""Rounds of peers that take half a minute, and minutes."""


@dataclass(frozen=True)
class Peer:
    """`distribution`: a package in the peers' environment; `commands`: programs that must be there, too; `rounds_max`:
    how often it runs at most, after its warm-up."""

    title: str
    distribution: str = ""
    commands: tuple[str, ...] = ()
    rounds_max: int = Contestant.rounds_max


PEERS = {
    "duckdb": Peer("DuckDB", "duckdb"),
    "polars": Peer("Polars", "polars"),
    "daft": Peer("Daft", "daft"),
    "sort": Peer("GNU sort", commands=("sort",)),
    "awk": Peer("tr + awk", commands=("tr", "awk")),
    "dask": Peer("Dask Bag, str.split", "dask"),
    "dask_generator": Peer("Dask Bag, the same generator", "dask"),
    "dask_frame": Peer("Dask DataFrame", "dask", rounds_max=SLOW),
    "spark": Peer("Spark DataFrame", "pyspark", ("java",), rounds_max=SLOW),
    "spark_rdd": Peer("Spark RDD, the same generator", "pyspark", ("java",), rounds_max=SLOW),
    "spark_merge": Peer("Spark, sort-merge join", "pyspark", ("java",), rounds_max=SLOW),
    "spark_broadcast": Peer("Spark, broadcast join", "pyspark", ("java",), rounds_max=SLOW),
    "ray_data": Peer("Ray Data", "ray", rounds_max=SLOW),
    "mrjob": Peer("mrjob", "mrjob", rounds_max=SLOWEST),
    "goaccess": Peer("GoAccess", commands=("goaccess",), rounds_max=SLOW),
}
ENVIRONMENT = {
    "POLARS_MAX_THREADS": str(CORES),
    "OMP_NUM_THREADS": str(CORES),
    "LC_ALL": "C",
    "PYTHONWARNINGS": "ignore",
    "PYTHONHASHSEED": "0",  # Spark's Python workers must agree on it
    "DAFT_ANALYTICS_ENABLED": "0",
    "DO_NOT_TRACK": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@cache
def _installed() -> dict[str, str]:
    """Packages of the peers' environment and their versions; none if it is not there."""
    if not PYTHON.exists():
        return {}
    code = "import importlib.metadata as m\nfor d in m.distributions(): print(d.name.lower(), d.version)"
    lines = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(line.split() for line in lines)


@cache
def _command_version(command: str) -> str:
    """The first line that a program says about its version, without its copyright."""
    for option in ("--version", "-W version"):
        done = subprocess.run([command, *option.split()], capture_output=True, text=True, check=False)
        if done.returncode == 0 and (found := re.search(r"\d+(\.\d+)+\S*", done.stdout or done.stderr)):
            return f"{command} {found[0]}"
    return command


def lacking(peer: Peer) -> str:
    """What must be installed before `peer` can run; empty if nothing."""
    if peer.distribution and peer.distribution not in _installed():
        return f"{peer.distribution} is not installed (`make bench-peers`)"
    absent = [command for command in peer.commands if shutil.which(command) is None]
    return f"there is no command {' and no '.join(absent)} (benchmarks/README.md names the packages)" if absent else ""


def peers_of(
    workload: str, wanted: Sequence[str] | None, inputs: Sequence[Path], result: Callable[[Path], object]
) -> tuple[list[Contestant], str]:
    """All peers that have a script for `workload` and are there, and a note: versions, and who was left out.

    `wanted`: only these (names as in PEERS), or None for all. `result` reads the file or folder that they write.
    """
    found: list[Contestant] = []
    notes = [f"millrace {version('millrace')}"]
    for name, peer in PEERS.items():
        script = next(HERE.glob(f"peers/{workload}_{name}.*"), None)
        if script is None or (wanted is not None and name not in wanted):
            continue
        if missing := lacking(peer):
            print(f"  skipped {peer.title}: {missing}", file=sys.stderr)
            notes.append(f"{peer.title} not run ({missing})")
            continue
        found.append(_contestant(peer, script, inputs, result))
        versions = [_command_version(command) for command in peer.commands]
        notes += [f"{peer.distribution} {_installed()[peer.distribution]}"] if peer.distribution else []
        notes += versions
    return found, ", ".join(dict.fromkeys(notes))


def _contestant(peer: Peer, script: Path, inputs: Sequence[Path], result: Callable[[Path], object]) -> Contestant:
    output = WORK / f"out-{script.stem}"
    program = ["bash"] if script.suffix == ".sh" else [str(PYTHON)]
    command = [*program, str(script), str(output), str(CORES), *map(str, inputs)]
    path = f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}"  # Spark and mrjob look for `python3` there
    return Contestant(
        peer.title,
        command,
        lambda: result(output),
        {**ENVIRONMENT, "PATH": path, "PYSPARK_PYTHON": str(PYTHON), "SPARK_LOCAL_DIRS": str(WORK / "spark")},
        lambda: remove(output),
        peer.rounds_max,
    )
