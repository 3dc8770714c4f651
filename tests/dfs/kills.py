"""Verbs of the store that are killed at each system call, and what must hold afterwards.

Run as a program it is a fork server: for each line of its input it forks a child that waits, so that strace can be
attached to it, and then does one verb on one store. So a point costs hundredths of a second. With two arguments it does
one verb (the first) on one store (the second).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

if __name__ == "__main__":
    import one_thread  # noqa: F401

import dfs
from dfs import Store, checkpoint, gc, members, oplog, rebuild, repair, scrub
from dfs.errors import DfsError, NoStore, StoreDamaged
from dfs.health import examine
from dfs.testing import damage_local

Files = dict[str, bytes]
_dice = random.Random(3)
SMALL, LARGE, OTHER = _dice.randbytes(900), _dice.randbytes(180_000), _dice.randbytes(180_000)
KEPT: Files = {"kept/large": LARGE, "kept/small": SMALL, "folder/a": b"a" * 70, "folder/b": OTHER[:100_000]}


@dataclass(frozen=True)
class Verb:
    """`act` on a store that `prepare` has made ready; the files then are `after` (None: as before)."""

    act: Callable[[Path], object]
    after: Files | None = None
    prepare: Callable[[Path], object] = lambda root: None


def opened(do: Callable[[Store], object]) -> Callable[[Path], object]:
    def act(root: Path) -> object:
        with dfs.open_store(root) as store:
            return do(store)

    return act


def put(store: Store, files: Files, request: str) -> None:
    store.publish([dfs.PutFile(path, manifest) for path, manifest in written(store, files).items()], request_id=request)


def written(store: Store, files: Files) -> dict[str, dfs.FileManifest]:
    """Manifests that are the same when the chunks were stored by an earlier try."""
    made = zip(files, store.write_files(files.items()), strict=True)
    return {path: replace(manifest, new_chunks=0) for path, manifest in made}


def put_folder(store: Store) -> None:
    files = {"x": b"x" * 80, "deep/y": OTHER[100_000:], "deep/z": b""}
    store.publish([dfs.PutFolder("folder", written(store, files), mode="replace")], request_id="folder")


def lose_chunks(root: Path) -> None:
    """The first node has only half of its chunks."""
    with dfs.open_store(root) as store:
        node = next(iter(store.replicated.nodes.values()))
        node.delete_many([chunk for number, (chunk, _) in enumerate(list(node.listing())) if number % 2])


def damage_chunks(root: Path) -> None:
    with dfs.open_store(root) as store:
        node = next(iter(store.replicated.nodes))
        folder = store.node_paths()[node]
        chunks = [chunk for chunk, _ in store.replicated.nodes[node].listing()]
    for number, chunk in enumerate(chunks):
        if number % 2:
            damage_local(folder, chunk, ("flip", "truncate", "zero")[number % 3])  # type: ignore[arg-type]


def make_garbage(root: Path) -> None:
    with dfs.open_store(root) as store:
        put(store, {"gone/large": OTHER, "gone/small": b"gone"}, "gone")
        store.publish([dfs.Remove("gone", recursive=True), dfs.SetRetention(0)], request_id="remove gone")


def make_segments(root: Path) -> None:
    """Several checkpoints and many segments of the log, some of which a checkpoint drops."""
    oplog.OPLOG_SEGMENT_BYTES_MAX = 1
    with dfs.open_store(root) as store:
        for number in range(6):
            put(store, {"kept/small": SMALL[number:]}, f"segment {number}")
            if number % 2:
                checkpoint.write(store)
        put(store, {"kept/small": SMALL}, "segments")


def write_checkpoint(store: Store) -> None:
    oplog.OPLOG_SEGMENT_BYTES_MAX = 1
    checkpoint.write(store)


def lose_database(root: Path) -> None:
    make_segments(root)
    data = bytearray((root / "store.db").read_bytes())
    data[5_000:9_000] = bytes(4_000)
    (root / "store.db").write_bytes(data)


def run_rebuild(root: Path) -> None:
    with contextlib.suppress(DfsError):
        rebuild.rebuild(root)
    dfs.open_store(root).close()


def drain(store: Store) -> None:
    members.drain_node(store, sorted(store.node_paths())[0])


VERBS = {
    "put small": Verb(opened(lambda store: put(store, {"new": b"new"}, "put")), KEPT | {"new": b"new"}),
    "put large": Verb(opened(lambda store: put(store, {"new": OTHER}, "put")), KEPT | {"new": OTHER}),
    "overwrite": Verb(opened(lambda store: put(store, {"kept/large": OTHER}, "put")), KEPT | {"kept/large": OTHER}),
    "put folder": Verb(
        opened(put_folder),
        {name: data for name, data in KEPT.items() if not name.startswith("folder")}
        | {"folder/x": b"x" * 80, "folder/deep/y": OTHER[100_000:], "folder/deep/z": b""},
    ),
    "remove": Verb(
        opened(lambda store: store.publish([dfs.Remove("folder", recursive=True)], request_id="remove")),
        {name: data for name, data in KEPT.items() if not name.startswith("folder")},
    ),
    "gc": Verb(opened(lambda store: gc.collect(store, force=True)), None, make_garbage),
    "repair": Verb(opened(lambda store: repair.repair(store, now=True)), None, lose_chunks),
    "scrub": Verb(opened(lambda store: scrub.scrub(store, restart=True)), None, damage_chunks),
    "checkpoint": Verb(opened(write_checkpoint), None, make_segments),
    "rebuild": Verb(run_rebuild, None, lose_database),
    "drain": Verb(opened(drain)),
}


def make_template(root: Path, verb: Verb) -> None:
    """A store that is ready for a verb: three nodes inside it, so that it can be copied."""
    nodes = [root / name for name in ("n1", "n2", "n3")]
    with dfs.init_store(root, nodes=nodes, replicas=2, chunk_bytes_avg=1 << 17) as store:
        put(store, KEPT, "kept")
    verb.prepare(root)


def contents(store: Store) -> Files:
    """Every file, read and verified."""
    return {info.path: store.open(info.path).read() for info in store.find("")}


def check_after(root: Path, verb: Verb) -> None:
    """Assert what must hold after a verb was killed: what was acknowledged is there, old or new; the verb can be done
    again; repaired, the store is whole; nothing is left over."""
    try:
        with dfs.open_store(root) as store:
            assert contents(store) in (KEPT, verb.after or KEPT)
            assert store.check_namespace() == []
            assert all(store.read_chunk(chunk) for chunk, _, _ in store.namespace.needed()), "a dangling reference"
            assert all(os.listdir(folder / "tmp") == [] for folder in store.node_paths().values())
    except (StoreDamaged, NoStore):
        if verb.act is not run_rebuild:
            raise
    verb.act(root)
    with dfs.open_store(root) as store:
        assert contents(store) == (verb.after or KEPT)
        store.namespace.set_local("safe_mode", None)
        repair.repair(store, now=True)
        gc.collect(store, force=True)
        health = examine(store, read_data=True)
        assert not health.damaged
        assert store.check_namespace() == []
        assert contents(store) == (verb.after or KEPT)
    left = [str(path) for pattern in ("*.new*", "*.pin", "tmp/*") for path in root.rglob(pattern)]
    assert left == []


def serve() -> None:
    """See the top."""
    libc = ctypes.CDLL(None)
    for line in sys.stdin:
        verb, root = json.loads(line)
        waiting, go = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(go)
            libc.prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER: where only parents may trace
            os.read(waiting, 1)
            try:
                VERBS[verb].act(Path(root))
            except BaseException as error:
                sys.stderr.write(f"{verb}: {type(error).__name__}: {error}\n")
                os._exit(1)
            os._exit(0)
        os.close(waiting)
        print(child, flush=True)
        sys.stdin.readline()  # strace is attached
        os.close(go)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        VERBS[sys.argv[1]].act(Path(sys.argv[2]))
    else:
        serve()
