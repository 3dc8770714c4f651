"""`make demo`: the whole of it, and how it finds a worker to kill."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("millrace_demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_are_the_grandchildren_of_a_submit(demo: ModuleType) -> None:
    worker = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"
    zygote = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"
    submit = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {zygote!r}])"
    with subprocess.Popen([sys.executable, "-c", submit], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())  # it is running
        assert list(demo.workers_of(process.pid)) == [pid]
        process.communicate(b"")


@pytest.mark.slow
def test_the_demo_keeps_its_promises() -> None:
    done = subprocess.run([sys.executable, str(DEMO)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same in all three runs") >= 7
