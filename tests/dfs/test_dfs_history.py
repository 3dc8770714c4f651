"""Versions, diff, retention: random histories against a model of plain dicts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfs.changes import (
    Change,
    Copy,
    DropSnapshot,
    Expire,
    FileManifest,
    MakeDir,
    Move,
    PutFile,
    PutFolder,
    Remove,
    SetReplicas,
    TakeSnapshot,
    build_manifest,
    changes_to_json,
)
from dfs.errors import DfsError, NotFound
from dfs.ids import ChunkId
from dfs.metadata import Namespace
from dfs.transactions import Committer


def manifest(text: str) -> FileManifest:
    data = text.encode()
    return build_manifest([(ChunkId.of(data), len(data), 1, False)], "lines", 1)


def make_namespace(folder: Path) -> Namespace:
    folder.mkdir(exist_ok=True)
    Namespace.create(folder / "store.db", {"uuid": "u", "durability": "none"}, [("n", "n")])
    return Namespace(folder / "store.db")


class Bench:
    """A namespace without nodes, and its committer."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.committer = Committer(namespace, [], 0, "u")
        self.requests = 0

    def run(self, *changes: Change) -> int:
        self.requests += 1
        return self.committer.commit(changes_to_json(changes), f"r{self.requests}", 1000 * self.requests)

    @property
    def now(self) -> int:
        return self.namespace.last()[0]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with closing(make_namespace(tmp_path)) as namespace:
        yield Bench(namespace)


# -- the model --------------------------------------------------------------------------------------------------------


class Rejected(Exception):
    pass


class Entry(NamedTuple):
    """What a path leads to: a node (shared by copies of a file), the binding, since when it holds; a file's text."""

    node: int
    binding: int
    since: int
    text: str | None


State = dict[str, Entry]


def parent_of(path: str) -> str:
    return path.rpartition("/")[0]


def inside(path: str, folder: str) -> bool:
    return folder == "" or path == folder or path.startswith(folder + "/")


def moved_path(path: str, old: str, new: str) -> str:
    return new + path[len(old) :]


@dataclass
class Model:
    """The state after every transaction, as a dict from path to entry; the root is ""."""

    states: list[State] = field(default_factory=lambda: [{"": Entry(1, 0, 0, None)}])
    now: State = field(default_factory=dict)
    ids: int = 1
    txn: int = 0
    horizon: int = 0
    snapshots: dict[str, int] = field(default_factory=dict)
    replicas: dict[int, int] = field(default_factory=dict)
    changed: set[tuple[int, int]] = field(default_factory=set)
    ended: dict[int, int] = field(default_factory=dict)

    def run(self, changes: list[Change]) -> None:
        draft = copy.deepcopy(self)
        draft.txn += 1
        draft.now = dict(self.states[-1])
        for change in changes:
            draft.apply(change)
        draft.states.append(draft.now)
        self.__dict__ = draft.__dict__

    def apply(self, change: Change) -> None:
        match change:
            case PutFile(path, file):
                old = self.now.get(path)
                self.reject(path == "" or (old is not None and old.text is None))
                self.bind(path, self.new_id(), file.content_id)
            case PutFolder(path, files, mode):
                self.put_folder(path, {name: file.content_id for name, file in files.items()}, mode)
            case Remove(path, recursive):
                self.reject(path == "" or path not in self.now)
                self.reject(not recursive and self.now[path].text is None and len(self.below(self.now, path)) > 1)
                self.unbind(path)
            case Move(src, dst, over):
                self.move(src, dst, over)
            case Copy(src, dst, at, over):
                self.copy(src, dst, at, over)
            case MakeDir(path):
                self.folder(path)
            case SetReplicas(path, count):
                self.reject(path not in self.now)
                self.replicas.pop(self.now[path].node, None)
                if count is not None:
                    self.replicas[self.now[path].node] = count
            case TakeSnapshot(name, at):
                self.reject(name in self.snapshots or (at is not None and at not in self.retained(self.txn - 1)))
                self.snapshots[name] = self.txn if at is None else at
            case DropSnapshot(name):
                self.reject(name not in self.snapshots)
                del self.snapshots[name]
            case Expire(before):
                self.reject(before > self.txn)
                self.horizon = max(self.horizon, before)
            case _:
                raise AssertionError(change)

    def reject(self, wrong: bool) -> None:
        if wrong:
            raise Rejected

    def new_id(self) -> int:
        self.ids += 1
        return self.ids

    def below(self, state: State, path: str) -> State:
        return {name: entry for name, entry in state.items() if inside(name, path)}

    def touch(self, path: str) -> None:
        """Note a change in the folder that `path` lies in, and all above."""
        while path:
            path = parent_of(path)
            self.changed.add((self.now[path].node, self.txn))

    def folder(self, path: str) -> None:
        if path in self.now:
            self.reject(self.now[path].text is not None)
        else:
            self.folder(parent_of(path))
            self.now[path] = Entry(self.new_id(), self.new_id(), self.txn, None)
            self.touch(path)

    def bind(self, path: str, node: int, text: str | None) -> None:
        self.folder(parent_of(path))
        old = self.now.get(path)
        if old is not None:
            self.unbind(path)
            if old.node in self.replicas:
                self.replicas.setdefault(node, self.replicas[old.node])
        self.now[path] = Entry(node, self.new_id(), self.txn, text)
        self.touch(path)

    def unbind(self, path: str) -> State:
        self.touch(path)
        gone = self.below(self.now, path)
        for name in gone:
            del self.now[name]
        self.ended[gone[path].binding] = self.txn
        return gone

    def put_folder(self, path: str, files: dict[str, str], mode: str) -> None:
        old = self.now.get(path)
        self.reject(old is not None and mode == "create")
        if mode == "append" and old is not None:
            self.reject(old.text is not None)
        else:
            self.reject(path == "")
            self.bind(path, self.new_id(), None)
        for name, text in sorted(files.items()):
            full = f"{path}/{name}" if path else name
            self.folder(parent_of(full))
            self.reject(full in self.now)
            self.bind(full, self.new_id(), text)

    def move(self, src: str, dst: str, over: bool) -> None:
        self.reject(src not in self.now or src == "" or inside(dst, src))
        old, moved = self.now.get(dst), self.now[src]
        self.reject(old is not None and (not over or old.text is None or moved.text is None))
        tree = self.unbind(src)
        self.bind(dst, moved.node, moved.text)
        for name, entry in tree.items():
            if name != src:
                self.now[moved_path(name, src, dst)] = entry

    def copy(self, src: str, dst: str, at: int | None, over: bool) -> None:
        self.reject(at is None and inside(dst, src))
        self.reject(at is not None and at not in self.retained(self.txn - 1))
        state = self.now if at is None else self.states[at]
        tree = self.below(dict(state), src)
        self.reject(src not in tree)
        if dst == "":
            self.reject(tree[src].text is not None or not over)
            for name in [name for name in self.now if name and "/" not in name]:
                self.unbind(name)
            del tree[src]
        else:
            self.reject(dst in self.now and not over)
        for name, entry in sorted(tree.items()):
            full = moved_path(name, src, dst).removeprefix("/") if dst or src else name
            if dst and not src:
                full = f"{dst}/{name}" if name else dst
            self.bind(full, self.new_id() if entry.text is None else entry.node, entry.text)

    # -- what is asked of it

    def retained(self, now: int | None = None, horizon: int | None = None) -> list[int]:
        first = self.horizon if horizon is None else horizon
        newest = self.txn if now is None else now
        return sorted({*range(first, newest + 1), *(txn for txn in self.snapshots.values() if txn <= newest)})

    def version(self, path: str, at: int) -> int | None:
        state = self.states[at]
        if path not in state:
            return None
        names = path.split("/") if path else []
        way = [state["/".join(names[:depth])].since for depth in range(len(names) + 1)]
        if state[path].text is None:
            way += [txn for node, txn in self.changed if node == state[path].node and txn <= at]
        return max(way)

    def replicas_of(self, path: str, at: int) -> int | None:
        node = self.states[at][path].node
        if node in self.replicas:
            return self.replicas[node]
        return self.replicas_of(parent_of(path), at) if path else None


# -- histories --------------------------------------------------------------------------------------------------------

TEXTS = ("1", "22", "333", "4444")
FILES = {text: manifest(text) for text in TEXTS}
TEXT_OF = {file.content_id: text for text, file in FILES.items()}


def some_path(random: Random) -> str:
    return "/".join(random.choice("abc") for _ in range(random.choice((1, 1, 2, 2, 3))))


def there(random: Random, model: Model) -> str:
    """A path that is there, mostly, and seldom the root."""
    found = sorted(model.states[-1])[1:]
    return random.choice(found) if found and random.random() < 0.9 else random.choice(("", some_path(random)))


def some_number(random: Random, model: Model) -> int | None:
    return random.choice((None, random.choice(model.retained()), random.choice(model.retained()), random.randint(0, 9)))


def some_change(random: Random, model: Model) -> Change:
    def file() -> FileManifest:
        return FILES[random.choice(TEXTS)]

    def folder() -> dict[str, FileManifest]:
        return {some_path(random): file() for _ in range(random.randint(0, 3))}

    makers: list[Callable[[], Change]] = [
        lambda: PutFile(some_path(random), file()),
        lambda: PutFile(f"{there(random, model)}/{random.choice('abc')}".strip("/"), file()),
        lambda: PutFolder(some_path(random), folder(), "create"),
        lambda: PutFolder(there(random, model), folder(), random.choice(("replace", "append"))),
        lambda: Remove(there(random, model), random.random() < 0.8),
        lambda: Move(there(random, model), some_path(random), random.random() < 0.5),
        lambda: Move(there(random, model), some_path(random), random.random() < 0.5),
        lambda: Copy(there(random, model), some_path(random), some_number(random, model), random.random() < 0.5),
        lambda: Copy(path := there(random, model), path, some_number(random, model), True),
        lambda: MakeDir(some_path(random)),
        lambda: SetReplicas(there(random, model), random.choice((None, 1, 2, 3))),
        lambda: TakeSnapshot(random.choice("stuv"), some_number(random, model)),
        lambda: DropSnapshot(random.choice("stuv")),
    ]
    return random.choice(makers)()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Bench]:
    """Empty namespaces, one after the other."""
    return lambda: Bench(make_namespace(tmp_path_factory.mktemp("namespace")))


def play(bench: Bench, random: Random, steps: int) -> Model:
    """The same history for both; what one rejects the other does too."""
    model = Model()
    go_on(bench, model, random, steps)
    return model


def go_on(bench: Bench, model: Model, random: Random, steps: int) -> None:
    for _ in range(steps):
        run_both(bench, model, [some_change(random, model) for _ in range(random.choice((1, 1, 1, 2, 3)))])


def run_both(bench: Bench, model: Model, step: list[Change]) -> None:
    try:
        model.run(step)
    except Rejected:
        with pytest.raises(DfsError):
            bench.run(*step)
    else:
        assert bench.run(*step) == model.txn


def check_reading(namespace: Namespace, model: Model, at: int) -> None:
    state = model.states[at]
    files = {path: entry for path, entry in state.items() if entry.text is not None}
    found = namespace.find("", at)
    assert [info.path for info in found] == sorted(files)
    assert {info.path: info.content_id for info in found} == {path: entry.text for path, entry in files.items()}
    for path, entry in state.items():
        info = namespace.stat(path, at)
        assert (info.kind == "file", info.version) == (entry.text is not None, model.version(path, at))
        assert namespace.replicas_of(path, at) == model.replicas_of(path, at)
        if entry.text is None:
            listed = {child.path: (child.kind, child.version) for child in namespace.ls(path, at)}
            wanted = [child for child in state if child and parent_of(child) == path]
            assert listed == {c: (namespace.stat(c, at).kind, model.version(c, at)) for c in wanted}
    totals = namespace.totals("", at)
    assert (totals.files, totals.folders) == (len(files), len(state) - len(files) - 1)
    assert totals.unique_chunks == len({entry.text for entry in files.values()})


@settings(max_examples=25, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_every_number_reads_as_it_was(fresh: Callable[[], Bench], random: Random) -> None:
    bench = fresh()
    with closing(bench.namespace):
        model = play(bench, random, 15)
        for at in range(model.txn + 1):
            check_reading(bench.namespace, model, at)
        assert bench.namespace.check() == []


def needed_by(model: Model, numbers: list[int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for at in numbers:
        for path, entry in model.states[at].items():
            if entry.text is not None:
                found[entry.text] = max(found.get(entry.text, 0), model.replicas_of(path, at) or 0)
    return found


def text_of(chunk: ChunkId) -> str:
    return next(text for text in TEXTS if ChunkId.of(text.encode()) == chunk)


def check_kept(namespace: Namespace, model: Model) -> None:
    """After an expiry: the tables hold what retained numbers see, and nothing else."""
    retained = model.retained()
    seen = {(path, entry) for at in retained for path, entry in model.states[at].items()}
    bindings = {entry.binding: entry for path, entry in seen if path}
    nodes = {entry.node: entry.text for _, entry in seen}
    changed = {
        (node, max(txn for other, txn in model.changed if other == node and txn <= at))
        for at in retained
        for node in {entry.node for entry in model.states[at].values()}
        if any(other == node and txn <= at for other, txn in model.changed)
    }
    ended = {model.ended[binding] for binding in bindings if binding in model.ended}
    named = {*retained, *(entry.since for entry in bindings.values()), *ended, *(txn for _, txn in changed)}
    counts = {
        table: namespace.rows(f"SELECT count(*) FROM {table}")[0][0]
        for table in ("dentry", "node", "file", "file_chunk", "changed", "replication")
    }
    files = sum(text is not None for text in nodes.values())
    assert counts == {
        "dentry": len(bindings),
        "node": len(nodes),
        "file": files,
        "file_chunk": files,
        "changed": len(changed),
        "replication": len(model.replicas.keys() & nodes.keys()),
    }
    assert [txn for (txn,) in namespace.rows("SELECT id FROM txn ORDER BY id")] == sorted(named - {0})
    assert namespace.rows("PRAGMA foreign_key_check") == []


@settings(max_examples=25, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_expiry_deletes_what_no_retained_number_sees_and_nothing_else(
    fresh: Callable[[], Bench], random: Random
) -> None:
    bench = fresh()
    with closing(bench.namespace):
        model = play(bench, random, 15)
        horizon, also = (
            random.randint(0, model.txn),
            {random.randint(0, model.txn) for _ in range(random.randint(0, 2))},
        )
        would = needed_by(model, [*model.retained(horizon=horizon), *also])
        told = bench.namespace.needed(horizon, also)
        assert {FILES[text_of(chunk)].content_id: replicas for chunk, _, replicas in told} == would
        run_both(bench, model, [Expire(horizon)])
        go_on(bench, model, random, 5)
        run_both(bench, model, [Expire(max(0, model.txn - random.randint(0, 4)))])
        for at in range(model.txn + 1):
            if at in model.retained():
                assert bench.namespace.check_kept(at) == at
                check_reading(bench.namespace, model, at)
            else:
                with pytest.raises(NotFound, match=f"transaction {at} is no longer kept"):
                    bench.namespace.check_kept(at)
        check_kept(bench.namespace, model)
        for path in {path for state in model.states for path in state}:
            check_versions(bench.namespace, model, path)
        check_differences(bench.namespace, model)


def check_versions(namespace: Namespace, model: Model, path: str) -> None:
    versions = {model.version(path, at) for at in model.retained()} - {None}
    if not versions:
        with pytest.raises(NotFound):
            namespace.versions(path)
        return
    found = namespace.versions(path)
    assert {version.txn for version in found} == versions
    assert [version.txn for version in found] == sorted(versions, reverse=True)
    for version in found:
        since = model.states[version.txn][path] if version.txn in model.retained() else None
        if since is not None:
            assert (version.kind, version.content_id) == (("dir", "") if since.text is None else ("file", since.text))
        if version.kind == "file":
            ends = [at for at in range(version.txn, model.txn + 1) if model.version(path, at) != version.txn]
            assert version.ended == (min(ends) if ends else None)


def check_differences(namespace: Namespace, model: Model) -> None:
    retained = model.retained()
    for a in retained:
        for b in retained:
            check_difference(namespace, model, a, b)


def check_difference(namespace: Namespace, model: Model, a: int, b: int) -> None:
    """The differences, applied to what was there before, give what is there after; and none of them is idle."""
    before, after = model.states[a], model.states[b]
    found = list(namespace.diff(a, b))
    assert [d.path for d in found] == sorted(d.path for d in found)
    if before == after:
        assert found == []
    moves = {d.old_path: d.path for d in found if d.kind == "moved"}
    went = {before[d.path].node for d in found if d.kind == "removed"}
    assert not went & {after[d.path].node for d in found if d.kind == "added"}, "it was moved"
    removed = {(d.path, d.is_folder) for d in found if d.kind == "removed"}
    for old, new in moves.items():
        assert old is not None
        assert old != new or any(old.startswith(f"{folder}/") for folder in moves)
        assert before[old].node == after[new].node
    left: dict[str, tuple[str, Entry]] = {}
    for path, entry in before.items():
        if (path, entry.text is None) in removed:
            continue
        holders = [folder for folder in moves if folder == path or path.startswith(f"{folder}/")]
        origin = max(holders, key=len, default=None)
        now = path if origin is None else moved_path(path, origin, moves[origin])
        assert now not in left
        left[now] = (path, entry)
    for difference in found:
        if difference.kind == "added":
            assert difference.path not in left
            left[difference.path] = ("", after[difference.path])
        if difference.kind == "modified":
            path, entry = left[difference.path]
            assert entry.text not in (None, after[difference.path].text)
            assert difference.old_path == (path if path != difference.path else None)
            left[difference.path] = (path, after[difference.path])
        for size, state, path in (
            (difference.size_before, before, difference.old_path or difference.path),
            (difference.size_after, after, difference.path),
        ):
            if size is not None:
                assert len(TEXT_OF[str(state[path].text)]) == size
    assert {path: entry.text for path, (_, entry) in left.items()} == {path: e.text for path, e in after.items()}
    if not moves:
        plain = {path for path in before.keys() | after.keys() if _text(before, path) != _text(after, path)}
        assert {d.path for d in found} == plain


def _text(state: State, path: str) -> object:
    return state[path].text if path in state else "absent"


@settings(max_examples=25, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_differences_and_versions_are_those_of_the_states(fresh: Callable[[], Bench], random: Random) -> None:
    bench = fresh()
    with closing(bench.namespace):
        model = play(bench, random, 15)
        check_differences(bench.namespace, model)
        for path in {path for state in model.states for path in state}:
            check_versions(bench.namespace, model, path)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_many_histories(fresh: Callable[[], Bench], block: int) -> None:
    for seed in range(block * 50, block * 50 + 50):
        random, bench = Random(seed), fresh()
        with closing(bench.namespace):
            model = play(bench, random, random.choice((8, 15, 30)))
            check_differences(bench.namespace, model)
            for _ in range(2):
                run_both(bench, model, [Expire(max(0, model.txn - random.randint(0, 12)))])
                go_on(bench, model, random, 6)
            run_both(bench, model, [Expire(max(0, model.txn - random.randint(0, 4)))])
            for at in model.retained():
                check_reading(bench.namespace, model, at)
            check_kept(bench.namespace, model)
            check_differences(bench.namespace, model)
            for path in {path for state in model.states for path in state}:
                check_versions(bench.namespace, model, path)
