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
def test_workers_are_the_leaves_below_a_process(demo: ModuleType) -> None:
    leaf = "import sys; print(flush=True); sys.stdin.read()"
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {leaf!r}])"
    with subprocess.Popen([sys.executable, "-c", middle], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the leaf is running
        workers = demo.workers_of(process.pid)
        assert len(workers) == 1
        assert process.pid not in workers
        process.communicate(b"")


@pytest.mark.slow
def test_the_demo_keeps_its_promises() -> None:
    done = subprocess.run([sys.executable, str(DEMO)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same in all three runs") >= 7
