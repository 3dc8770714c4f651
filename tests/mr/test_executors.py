"""Every executor keeps the contract; Ray's cluster stays on this machine and asks for its token."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mr
import mr.executors.ray as on_ray
from mr.errors import ExecutorError
from mr.executors.inline import InlineExecutor
from mr.executors.local import LocalExecutor
from mr.executors.ray import RayExecutor, refuse_many_nodes
from mr.testing import check_executor

MEMORY_BYTES = 1 << 30


def test_inline_keeps_the_contract() -> None:
    check_executor(lambda home: InlineExecutor(home, MEMORY_BYTES))


@pytest.mark.parametrize("workers", [1, 2])
def test_local_keeps_the_contract(workers: int) -> None:
    check_executor(lambda home: LocalExecutor(home, workers, MEMORY_BYTES))


@pytest.mark.ray
def test_ray_keeps_the_contract_on_loopback_behind_a_token(capfd: pytest.CaptureFixture[str]) -> None:
    """One cluster for all that is checked: starting one takes seconds."""
    before = dict(os.environ)

    def make(home: Path) -> RayExecutor:
        executor = RayExecutor(home, 2, MEMORY_BYTES, None)
        try:
            assert dict(os.environ) == before
            assert executor._temporary is not None
            check_addresses(executor._temporary)
            check_attach(str(executor._ray.get_runtime_context().gcs_address), home)
        except BaseException:
            executor.close()
            raise
        folders.append(Path(executor._temporary))
        return executor

    folders: list[Path] = []
    check_executor(make)
    assert not folders[0].exists()
    assert capfd.readouterr().out == ""  # deaths of workers are ours to report


def check_addresses(folder: str) -> None:
    """All ports that processes of the cluster listen on are on the loopback address."""
    mine = {os.getpid()} | {int(p.name) for p in Path("/proc").glob("[0-9]*") if folder in command(p)}
    mine |= {pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if parent(pid) in mine}
    mine |= {pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if parent(pid) in mine}
    sockets = {name for pid in mine for name in open_files(pid)}
    listening = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                listening.append(fields[1].rpartition(":")[0])
    assert len(listening) >= 4  # gcs, raylet, workers and we
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert set(listening) <= loopback
    commands = [command(Path(f"/proc/{pid}")) for pid in mine]
    assert any("/raylet/raylet" in text for text in commands)
    assert not [text for text in commands if re.search(r"/(monitor|log_monitor|dashboard)\.py", text)], "not needed"


def command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def open_files(pid: int) -> set[str]:
    found = set()
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            found.add(os.readlink(link))
    except OSError:
        pass
    return found


ATTACH = """
import os, sys
from pathlib import Path
from mr.errors import ExecutorError
from mr.executors.ray import RayExecutor
try:
    RayExecutor(Path(sys.argv[2]), 1, 1 << 30, sys.argv[1])
except ExecutorError as error:
    print(error)
"""


def check_attach(address: str, home: Path) -> None:
    """Without the token nobody gets in."""
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    command = [sys.executable, "-c", ATTACH, address, str(home)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert re.match(r"Ray cannot be started or reached: .*RAY_AUTH_TOKEN", done.stdout), done
    assert "InvalidAuthToken" in done.stderr
    assert on_ray._TOKEN not in environment.values()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"),
        ("ray://somewhere:10001", "give the host:port"),
        ("somewhere", "give the host:port"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_at_once(tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(ExecutorError, match=message):
        RayExecutor(tmp_path, 1, MEMORY_BYTES, address)


def test_a_cluster_of_several_nodes_is_refused() -> None:
    refuse_many_nodes("head:6379", [{"Alive": True}, {"Alive": False}])
    with pytest.raises(ExecutorError, match=r"head:6379 has 2 nodes.*one node, or --on local"):
        refuse_many_nodes("head:6379", [{"Alive": True}, {"Alive": True}, {"Alive": False}])


@pytest.mark.parametrize("on", ["local", "ray"])
def test_no_workers_are_refused(tmp_path: Path, on: str) -> None:
    with pytest.raises(ExecutorError, match="--workers must be at least 1"):
        LocalExecutor(tmp_path, 0, MEMORY_BYTES) if on == "local" else RayExecutor(tmp_path, 0, MEMORY_BYTES, None)


def test_prints_go_to_the_log_of_the_task_and_the_first_to_stderr(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def talk(n: int) -> int:
        print("at", n)
        return n

    with mr.Session(on="local", workers=1, home=tmp_path):
        assert mr.from_items(range(50)).map(talk).count() == 50
    shown = capfd.readouterr()
    assert shown.out == ""
    told = [line for line in shown.err.splitlines() if line.startswith("[task 0.0] ")]
    assert told[:20] == [f"[task 0.0] at {n}" for n in range(20)]
    assert len(told) == 21
    (log,) = (tmp_path / "logs").iterdir()
    assert log.read_text().splitlines() == [f"at {n}" for n in range(50)]
