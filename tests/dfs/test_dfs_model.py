"""The store against a plain dict: any sequence of changes, care, damage, kills and lost nodes.

Damage hits one node at a time, as two copies promise to survive; what is damaged next must be repaired before.
"""

from __future__ import annotations

import atexit
import functools
import os
import random
import shutil
import signal
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dfs import failpoints
from dfs.changes import (
    Copy,
    DropSnapshot,
    MakeDir,
    Move,
    PutFile,
    PutFolder,
    Remove,
    SetReplicas,
    SetRetention,
    TakeSnapshot,
)
from dfs.creation import init_store
from dfs.errors import CareRefused, NotFound
from dfs.gc import collect
from dfs.health import examine
from dfs.members import add_node, drain_node, remove_node
from dfs.repair import repair
from dfs.scrub import scrub
from dfs.store import open_store
from dfs.testing import damage_local

FILES = ["a", "b", "d/x", "d/y", "d/s/z", "e/x"]
FOLDERS = ["d", "e", "d/s"]
SIZES = [0, 1, 900, 5_000, 70_000, 300_000]  # rows, a file, several files
SNAPSHOTS = ["one", "two"]
State = dict[str, bytes]

files, folders = st.sampled_from(FILES), st.sampled_from(FOLDERS)
contents = st.tuples(st.sampled_from(SIZES), st.integers(0, 2))
nodes = st.integers(0, 2)


@functools.cache
def content(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def draw_ids(patch: pytest.MonkeyPatch, seed: int) -> None:
    """Node ids, and so placement, are the same in every run."""
    draw = random.Random(seed)
    patch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=draw.getrandbits(128), version=4))


@functools.cache
def template() -> Path:
    """An empty store of three nodes, two copies, no history."""
    path = Path(tempfile.mkdtemp(prefix="dfs-model-")) / "s"
    atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    folders = [path / f"n{n}" for n in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        draw_ids(patch, 1)
        made = init_store(path, nodes=folders, replicas=2, chunk_bytes_avg=1 << 18, durability="none", retention_days=0)
        made.close()
    return path


def below(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")


class StoreModel(RuleBasedStateMachine):
    """The rules. `state` is what must be there now; `past` what was after each transaction."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="dfs-model-"))
        self.path = self.root / "s"
        shutil.copytree(template(), self.path)
        self.patch = pytest.MonkeyPatch()
        draw_ids(self.patch, 2)
        self.store = open_store(self.path)
        self.state: State = {}
        self.past: dict[int, State] = {}
        self.named: dict[str, int] = {}
        self.horizon = 0
        self.hurt: Path | None = None  # the one node that may be damaged now
        self.away = False  # it is
        self.requests = 0
        self.note()

    def teardown(self) -> None:
        try:
            self.come_back()
            self.repair_all()
            self.empty_the_trash()
        finally:
            self.store.close()
            self.patch.undo()
            shutil.rmtree(self.root)

    # -- what the rules need ---------------------------------------------------------------------------------------

    def note(self) -> None:
        """Every transaction since the last look left this state."""
        for txn in range(max(self.past, default=-1) + 1, self.store.txn() + 1):
            self.past[txn] = dict(self.state)

    def publish(self, *changes: object) -> None:
        self.requests += 1
        self.store.publish(changes, request_id=f"r{self.requests}")  # type: ignore[arg-type]
        self.note()

    def stored(self, size: int, seed: int) -> tuple[bytes, object]:
        data = content(size, seed)
        return data, self.store.write_file(data)

    def reopen(self) -> None:
        self.store.close()
        self.store = open_store(self.path)

    def folder(self, number: int) -> Path:
        return sorted(self.store.node_paths().values())[number]

    def may_hurt(self, node: Path) -> bool:
        return self.hurt in (None, node) and not self.away

    def reads(self, expected: State, at: int | str | None) -> None:
        found = {info.path: self.store.open(info.path, at).read() for info in self.store.find("", at)}
        assert found.keys() == expected.keys()
        assert all(found[path] == expected[path] for path in found)

    # -- changes ---------------------------------------------------------------------------------------------------

    @rule(path=files, what=contents)
    def put(self, path: str, what: tuple[int, int]) -> None:
        data, manifest = self.stored(*what)
        self.state[path] = data
        self.publish(PutFile(path, manifest))  # type: ignore[arg-type]

    @rule(what=contents)
    def store_and_forget(self, what: tuple[int, int]) -> None:
        self.stored(*what)

    @rule(folder=folders, names=st.sets(st.sampled_from("xyzw"), max_size=3), what=contents)
    def put_folder(self, folder: str, names: set[str], what: tuple[int, int]) -> None:
        data, manifest = self.stored(*what)
        self.state = {path: was for path, was in self.state.items() if not below(path, folder)}
        self.state |= {f"{folder}/{name}": data for name in names}
        self.publish(PutFolder(folder, dict.fromkeys(names, manifest), mode="replace"))  # type: ignore[arg-type]

    @rule(folder=folders, name=st.sampled_from(["p", "q", "r"]), what=contents)
    def append(self, folder: str, name: str, what: tuple[int, int]) -> None:
        path = f"{folder}/{name}"
        if path not in self.state:
            self.state[path], manifest = self.stored(*what)
            self.publish(PutFolder(folder, {name: manifest}, mode="append"))  # type: ignore[dict-item]

    @rule(src=files, dst=files)
    def move_file(self, src: str, dst: str) -> None:
        if src in self.state and src != dst:
            self.state[dst] = self.state.pop(src)
            self.publish(Move(src, dst, replace=True))

    @rule(src=folders, dst=folders)
    def move_folder(self, src: str, dst: str) -> None:
        if self.store.exists(src) and not self.store.exists(dst) and not below(dst, src):
            moved = {f"{dst}{path[len(src) :]}": data for path, data in self.state.items() if below(path, src)}
            self.state = {path: data for path, data in self.state.items() if not below(path, src)} | moved
            self.publish(Move(src, dst))

    @rule(src=files, dst=files)
    def copy_file(self, src: str, dst: str) -> None:
        if src in self.state and src != dst:
            self.state[dst] = self.state[src]
            self.publish(Copy(src, dst, replace=True))

    @rule(src=folders, dst=st.sampled_from(["c", "e"]))
    def copy_folder(self, src: str, dst: str) -> None:
        if self.store.exists(src) and src != dst:
            copied = {f"{dst}{path[len(src) :]}": data for path, data in self.state.items() if below(path, src)}
            self.state = {path: data for path, data in self.state.items() if not below(path, dst)} | copied
            self.publish(Copy(src, dst, replace=True))

    @rule(path=st.sampled_from([*FILES, *FOLDERS, "c"]))
    def remove(self, path: str) -> None:
        if self.store.exists(path):
            self.state = {p: data for p, data in self.state.items() if p != path and not below(p, path)}
            self.publish(Remove(path, recursive=True))

    @rule(folder=folders)
    def make_folder(self, folder: str) -> None:
        self.publish(MakeDir(folder))

    # -- history ---------------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(SNAPSHOTS))
    def take_snapshot(self, name: str) -> None:
        if name not in self.named:
            self.publish(TakeSnapshot(name))
            self.named[name] = self.store.txn()

    @rule(name=st.sampled_from(SNAPSHOTS))
    def drop_snapshot(self, name: str) -> None:
        if self.named.pop(name, None) is not None:
            self.publish(DropSnapshot(name))

    @rule(name=st.sampled_from(SNAPSHOTS), path=st.sampled_from([*FILES, *FOLDERS]))
    def restore(self, name: str, path: str) -> None:
        if name in self.named and self.store.exists(path, name):
            old = self.past[self.named[name]]
            same = {p: data for p, data in old.items() if p == path or below(p, path)}
            self.state = {p: data for p, data in self.state.items() if p != path and not below(p, path)} | same
            self.publish(Copy(path, path, at=self.named[name], replace=True))

    @rule(days=st.sampled_from([0, 7]))
    def set_retention(self, days: int) -> None:
        self.publish(SetRetention(days))

    @rule(path=st.sampled_from([*FILES, "d", ""]), replicas=st.sampled_from([None, 1, 2, 3]))
    def set_replicas(self, path: str, replicas: int | None) -> None:
        if self.hurt is None and self.store.exists(path) and replicas != 1:  # one copy promises nothing
            self.publish(SetReplicas(path, replicas))

    @rule(share=st.floats(0, 1))
    def read_the_past(self, share: float) -> None:
        txn = int(share * self.store.txn())
        if txn >= self.horizon or txn in self.named.values():
            self.reads(self.past[txn], txn)
        else:
            with pytest.raises(NotFound):
                self.store.find("", txn)

    # -- care ------------------------------------------------------------------------------------------------------

    @rule(forget_pins=st.booleans(), dry_run=st.booleans(), force=st.booleans())
    def collect(self, forget_pins: bool, dry_run: bool, force: bool) -> None:
        if forget_pins:
            self.store.pins.close()
        if self.away:
            with pytest.raises(CareRefused):
                collect(self.store, force=True)
            return
        planned = collect(self.store, dry_run=True)
        if planned.braked and not force:
            with pytest.raises(CareRefused):
                collect(self.store)
        elif not dry_run:
            done = collect(self.store, force=force)
            assert (done.chunks, done.copies, done.bytes) == (planned.chunks, planned.copies, planned.bytes)
            self.horizon = done.expired_before
            self.note()

    @rule()
    def scrub(self) -> None:
        done = scrub(self.store, restart=True)
        assert not done.lost
        assert not done.failures
        if self.hurt is None:
            assert not done.damaged
        if not self.away:
            self.hurt = None

    @rule()
    def repair_all(self) -> None:
        if self.away:
            assert repair(self.store).missing == 0
            return
        assert repair(self.store, health=examine(self.store, read_data=True)).complete
        self.hurt = None
        health = examine(self.store, read_data=True)
        assert not health.damaged
        assert not health.misplaced
        assert not health.over_replicated

    # -- what goes wrong -------------------------------------------------------------------------------------------

    @rule()
    def open_again(self) -> None:
        self.reopen()

    @rule(path=files, what=contents, logged=st.booleans())
    def kill(self, path: str, what: tuple[int, int], logged: bool) -> None:
        """Another process puts a file and is killed before it publishes, or between log and COMMIT: then it counts."""
        self.store.close()
        self.requests += 1
        child = os.fork()
        if child == 0:
            try:
                self._put_and_die(path, content(*what), logged)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        self.store = open_store(self.path)
        if logged:
            self.state[path] = content(*what)
        self.note()

    def _put_and_die(self, path: str, data: bytes, logged: bool) -> None:
        self.patch.undo()  # the parent goes on with the same numbers
        os.environ["DFS_FAILPOINTS"] = "commit.logged=kill"
        failpoints._armed.cache_clear()
        store = open_store(self.path)
        manifest = store.write_file(data)
        if logged:
            store.publish([PutFile(path, manifest)], request_id=f"r{self.requests}")
        os.kill(os.getpid(), signal.SIGKILL)

    @rule(node=nodes, share=st.floats(0, 1), how=st.sampled_from(["flip", "delete", "truncate", "zero", "extend"]))
    def damage(self, node: int, share: float, how: str) -> None:
        folder = self.folder(node)
        if self.may_hurt(folder):
            [store] = [self.store.replicated.nodes[i] for i, path in self.store.node_paths().items() if path == folder]
            held = [chunk for chunk, _ in store.listing()]
            if held:
                self.hurt = folder
                damage_local(folder, held[int(share * (len(held) - 1))], how)  # type: ignore[arg-type]

    @rule(node=nodes)
    def lose_all_chunks(self, node: int) -> None:
        folder = self.folder(node)
        if self.may_hurt(folder):
            self.hurt = folder
            self.store.close()
            shutil.rmtree(folder / "chunks")
            (folder / "chunks").mkdir()
            for file in folder.glob("small-*"):
                file.unlink()
            self.store = open_store(self.path)

    @rule(node=nodes)
    def go_away(self, node: int) -> None:
        folder = self.folder(node)
        three = any(copies == 3 for _, _, copies in self.store.namespace.needed())
        if self.may_hurt(folder) and not three:
            self.hurt, self.away = folder, True
            self.store.close()
            folder.rename(self.root / "away")
            self.store = open_store(self.path)

    @precondition(lambda self: self.away)
    @rule()
    def come_back(self) -> None:
        if self.away:
            assert self.hurt is not None
            self.store.close()
            (self.root / "away").rename(self.hurt)
            self.away = False
            self.store = open_store(self.path)

    @precondition(lambda self: self.hurt is None)
    @rule(node=nodes)
    def replace_node(self, node: int) -> None:
        folder = self.folder(node)
        name = f"new{self.requests}"
        self.requests += 1
        add_node(self.store, self.path / name)
        drain_node(self.store, str(folder))
        self.store.pins.close()
        if collect(self.store, dry_run=True).chunks:  # what nothing needs stays on a drained node until it is collected
            collect(self.store, force=True)
            self.horizon = self.store.namespace.settings()["horizon"]
        remove_node(self.store, str(folder))
        self.note()

    # -- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def everything_reads_as_it_was_put(self) -> None:
        self.reads(self.state, None)
        for name, txn in self.named.items():
            self.reads(self.past[txn], name)

    def empty_the_trash(self) -> None:
        """In the end: without history and pins, only what is there now is stored, and nothing is left over."""
        for name in list(self.named):
            self.drop_snapshot(name)
        self.publish(SetRetention(0))
        self.store.pins.close()
        collect(self.store, force=True)
        health = examine(self.store, read_data=True)
        assert not health.damaged
        assert not health.orphaned
        assert {c for c, _, _ in self.store.namespace.needed()} >= {
            ref.id for path in self.state for ref in self.store.chunks(path)
        }
        assert not [name for folder in self.store.node_paths().values() for name in os.listdir(folder / "tmp")]
        assert not list((self.path / "pins").glob("*.pin"))
        self.reads(self.state, None)


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        StoreModel,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_store_behaves_like_a_dict() -> None:  # F34, F35, F36, F39, F40
    run(examples=12, steps=30)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_store_behaves_like_a_dict_for_long() -> None:  # F34, F35, F36, F39, F40
    run(examples=400, steps=60)
