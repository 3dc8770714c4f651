"""`dfs put` killed at each write, fsync, link and unlink: nothing acknowledged is lost, nothing half-done seen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dfs
from dfs.repair import plan_health, survey

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")]


@pytest.mark.parametrize("calls", ["write,pwrite64", "fsync,fdatasync", "link,linkat", "unlink,unlinkat", "ftruncate"])
def test_a_put_killed_anywhere_is_whole_or_absent(tmp_path: Path, calls: str) -> None:  # F5, F12, F34
    nodes = [tmp_path / "n1", tmp_path / "n2"]
    dfs.init_store(tmp_path / "s", nodes=nodes, replicas=2, chunk_bytes_avg=1 << 16).close()
    data = b"".join(b"%d a line\n" % i for i in range(30_000))
    put = [sys.executable, "-c", "from dfs.cli import main; main()", "put", str(tmp_path / "f"), "f"]
    environment = {**os.environ, "DFS_STORE": str(tmp_path / "s")}
    stored = None
    for point in range(1, 60):
        data += b"killed at %d\n" % point
        (tmp_path / "f").write_bytes(data)
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}"]
        done = subprocess.run(
            [*strace, "-e", f"inject={calls}:signal=SIGKILL:when={point}", *put], env=environment, capture_output=True
        )
        with dfs.open_store(tmp_path / "s") as store:
            found = store.open("f").read() if store.exists("f") else None
            needed = frozenset(store.referenced())
            assert not plan_health(needed, survey(store.replicated, needed, True, lambda _: None), 2).damaged
        assert found == data or (done.returncode != 0 and found == stored)
        stored = found
        assert all(os.listdir(node / "tmp") == [] for node in nodes)
        if done.returncode == 0:
            return
    raise AssertionError("it was killed 59 times: more points than expected")
