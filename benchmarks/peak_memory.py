"""`python -m benchmarks.peak_memory [--json FILE] -- COMMAND...`: peak memory, wall and processor time of a command.

Memory is what the promise of `--memory` counts: anonymous and shared memory of the whole process tree, shared pages
counted once (Pss_Anon + Pss_Shmem of /proc/PID/smaps_rollup), sampled every 50 ms. Processor time is that of all
processes of the tree: this process adopts orphans (PR_SET_CHILD_SUBREAPER), so those whose parent did not wait for them
are counted too. Figures go to stderr; the exit code is the command's. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.05
ORPHANS_SECONDS = 2.0
NEAR = 0.9
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Figures:
    """What a command took. MB are 10^6 bytes; `processes` is how many there were at the peak."""

    peak_mb: float
    processes: int
    wall_seconds: float
    user_seconds: float
    system_seconds: float
    exit_code: int


def tree_of(root: int) -> list[int]:
    """The process `root` and all that descend from it, as far as they live."""
    children: dict[int, list[int]] = defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                stat = Path("/proc", name, "stat").read_bytes()
                children[int(stat[stat.rindex(b")") + 2 :].split()[1])].append(int(name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children[pid]
    return found


def memory_bytes(pid: int) -> int:
    """Anonymous and shared memory of one process in proportion to its sharers; 0 when it is gone."""
    try:
        lines = Path("/proc", str(pid), "smaps_rollup").read_bytes().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith((b"Pss_Anon:", b"Pss_Shmem:")))


def resident_bytes(pid: int) -> int:
    """Anonymous and shared memory of one process, shared pages counted in full; 0 when it is gone.

    The kernel keeps this sum. For `memory_bytes` it walks over all that is mapped, files too: of large ones, twenty
    times a second, that took as much processor time as the command. So that is asked for only near the highest sum.
    """
    try:
        lines = Path("/proc", str(pid), "status").read_bytes().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith((b"RssAnon:", b"RssShmem:")))


def measure(command: list[str]) -> Figures:
    """Run `command` to its end and measure it. Raises OSError if it cannot be started."""
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError("this system cannot adopt orphans (prctl PR_SET_CHILD_SUBREAPER)")
    peak, highest, processes = 0, 0, 0
    started = time.monotonic()
    process = subprocess.Popen(command)
    while True:
        tree = [pid for pid in tree_of(os.getpid()) if pid != os.getpid()]
        resident = sum(map(resident_bytes, tree))
        highest = max(highest, resident)
        if resident > max(peak, NEAR * highest):  # else the exact figure, which is never above it, is no new peak
            total = sum(map(memory_bytes, tree))
            if total > peak:
                peak, processes = total, len(tree)
        with suppress(subprocess.TimeoutExpired):
            process.wait(SAMPLE_SECONDS)
            break
    wall = time.monotonic() - started
    _reap(time.monotonic() + ORPHANS_SECONDS)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Figures(peak / 1e6, processes, wall, used.ru_utime, used.ru_stime, process.returncode)


def _reap(deadline: float) -> None:
    with suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peak_memory", description=__doc__)
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to this file")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="what to run, after --")
    given = parser.parse_args()
    try:
        found = measure(given.command)
    except OSError as error:
        sys.exit(f"peak_memory: {error}")
    if given.json is not None:
        given.json.write_text(json.dumps(asdict(found)) + "\n")
    used = f"{found.user_seconds:.2f} s user, {found.system_seconds:.2f} s system"
    peak = f"peak {found.peak_mb:,.0f} MB in {found.processes} processes"
    print(f"{peak}, {found.wall_seconds:.2f} s wall, {used}", file=sys.stderr)
    return found.exit_code if found.exit_code >= 0 else 128 - found.exit_code


if __name__ == "__main__":
    sys.exit(main())
