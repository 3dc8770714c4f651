"""Crashes between two durable steps: each named point is hit, and what it leaves is put right by the next start."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kills import VERBS, check_after, make_template

import dfs
from dfs.failpoints import NAMES

HIT_BY = {  # point -> (the verb that is killed there, at which hit)
    "commit.appended": ("put large", 1),  # on one node of three
    "commit.logged": ("put folder", 1),
    "checkpoint.copied": ("checkpoint", 1),
    "checkpoint.written": ("checkpoint", 1),  # before anything older is dropped
    "rebuild.ready": ("rebuild", 1),
    "rebuild.renamed": ("rebuild", 1),
    "gc.expired": ("gc", 1),  # metadata gone, files there
    "gc.deleting": ("gc", 2),  # deleted on one node only
    "repair.copied": ("repair", 1),
    "scrub.found": ("scrub", 1),
    "drain.marked": ("drain", 1),
}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_crash_at_each_failpoint_is_survived(memory_path: Path, name: str) -> None:  # F5, F6, F34, F36
    """A name that no test hits fails here."""
    verb, hit = HIT_BY[name]
    root = memory_path / "s"
    make_template(root, VERBS[verb])
    program = str(Path(__file__).with_name("kills.py"))
    environment = {**os.environ, "DFS_FAILPOINTS": f"{name}=kill@{hit}"}
    done = subprocess.run([sys.executable, program, verb, str(root)], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    check_after(root, VERBS[verb])


def test_names_are_registered_and_used_once() -> None:
    used = [
        name
        for module in Path(dfs.__file__).parent.rglob("*.py")
        for name in re.findall(r"^ +failpoint\(\"([\w.]+)\"\)", module.read_text(), re.MULTILINE)
    ]
    assert sorted(used) == sorted(NAMES)


def test_an_armed_failpoint_can_raise_and_a_wrong_name_is_refused(tmp_path: Path) -> None:
    program = "import dfs, sys; dfs.open_store(sys.argv[1]).publish([dfs.MakeDir('a')], request_id='1')"
    for armed, told in (("commit.logged=raise", "failpoint commit.logged"), ("commit.lgged=kill", "DFS_FAILPOINTS")):
        dfs.init_store(tmp_path / "s").close()
        environment = {**os.environ, "DFS_FAILPOINTS": armed}
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "s")], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert told in done.stderr
        shutil.rmtree(tmp_path / "s")
