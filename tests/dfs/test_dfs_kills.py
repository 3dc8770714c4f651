"""Each verb of the store killed at each system call that changes something: nothing acknowledged is lost, nothing half
is seen, the next start is clean."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from kills import VERBS, check_after, make_template

CALLS = (
    *("write", "pwrite64", "writev", "pwritev", "pwritev2", "fsync", "fdatasync", "ftruncate", "truncate", "fallocate"),
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir"),
)
SHARDS = 4  # of a verb's points, so that the long sweep is spread over processes
QUICK = 100  # points in the short sweep

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


class Killer:
    """Runs verbs in children of a fork server, under strace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("kills.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, verb: str, root: Path, *options: str) -> int:
        """Exit code of the verb; minus the signal that killed it."""
        child = self._ask(json.dumps([verb, str(root)]))
        traced = ["strace", "-f", "-p", child, "-o", str(self.folder / "trace"), "-e", f"trace={','.join(CALLS)}"]
        with subprocess.Popen([*traced, *options], stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            assert "attached" in strace.stderr.readline()
            code = int(self._ask("go"))
            strace.communicate()
        return code

    def _ask(self, line: str) -> str:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()
        return self._server.stdout.readline().strip()

    def close(self) -> None:
        self._server.communicate()

    def points(self, verb: str, template: Path) -> list[tuple[str, int]]:
        """(call, which one) of everything that a verb does, in order."""
        root = self.folder / "dry"
        shutil.copytree(template, root)
        assert self.run(verb, root) == 0
        shutil.rmtree(root)
        seen: Counter[str] = Counter()
        found = []
        for call in re.findall(r"^\d+ +(\w+)\(", (self.folder / "trace").read_text(), re.MULTILINE):
            seen[call] += 1
            found.append((call, seen[call]))
        return found


@pytest.fixture
def killer(memory_path: Path) -> Iterator[Killer]:
    made = Killer(memory_path)
    yield made
    made.close()


def sweep(killer: Killer, verb: str, wanted: slice, quick: int | None = None) -> None:
    template = killer.folder / "template"
    make_template(template, VERBS[verb])
    points = killer.points(verb, template)
    if quick is not None:
        points = [points[len(points) * at // quick] for at in range(quick)]
    survived = 0
    for call, number in points[wanted]:
        root = killer.folder / "store"
        shutil.copytree(template, root)
        code = killer.run(verb, root, "-e", f"inject={call}:signal=SIGKILL:when={number}")
        survived += code == 0  # SQLite's pages depend on random ids: the last call may not come
        assert code in (0, -9), (call, number, code)
        try:
            check_after(root, VERBS[verb])
        except BaseException as error:
            raise AssertionError(f"{verb} killed at {call} number {number}: {error}") from error
        shutil.rmtree(root)
    assert survived <= max(1, len(points) // 20)


@pytest.mark.parametrize("verb", VERBS)
def test_a_killed_verb_loses_nothing(killer: Killer, verb: str) -> None:  # F5, F6, F12, F34
    share = QUICK // len(VERBS) + (list(VERBS).index(verb) < QUICK % len(VERBS))
    sweep(killer, verb, slice(None), share)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_killed_anywhere_loses_nothing(killer: Killer, verb: str, shard: int) -> None:  # F5, F6, F12, F34
    sweep(killer, verb, slice(shard, None, SHARDS))
