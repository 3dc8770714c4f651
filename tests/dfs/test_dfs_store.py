"""Store: files, folders, versions, transactions, damage, crashes, several processes."""

from __future__ import annotations

import contextlib
import errno
import io
import multiprocessing
import os
import pickle
import random
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dfs
from dfs import ANY, Copy, MakeDir, Move, PutFile, PutFolder, Remove, SetReplicas, Store, members
from dfs.errors import (
    AlreadyExists,
    BadInput,
    ChunkLost,
    Conflict,
    NoStore,
    NotEnoughNodes,
    NotFound,
    StoreDamaged,
    StoreLocked,
    Unsupported,
    UsageProblem,
    WrongKind,
)
from dfs.health import examine
from dfs.oplog import OpLog
from dfs.testing import Damage, damage_local
from dfs.transactions import Committer

AVERAGE = 1 << 15


def lines(count: int, seed: int = 1) -> bytes:
    source = random.Random(seed)
    return b"".join(b"%d %s\n" % (i, source.randbytes(12).hex().encode()) for i in range(count))


LOG = lines(12_000)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    nodes = [tmp_path / f"n{i}" for i in range(3)]
    with dfs.init_store(tmp_path / "s", nodes=nodes, replicas=2, chunk_bytes_avg=AVERAGE) as made:
        yield made


def publish(store: Store, *changes: dfs.Change, request: str = "") -> int:
    return store.publish(changes, request_id=request or f"r{store.txn()}-{random.random()}")


def put(store: Store, path: str, data: bytes, **options: Any) -> dfs.FileManifest:
    manifest = store.write_file(data, **options)
    publish(store, PutFile(path, manifest))
    return manifest


def paths(store: Store, top: str = "", at: int | None = None) -> list[str]:
    return [info.path for info in store.find(top, at)]


def content(store: Store, path: str, at: int | None = None) -> bytes:
    with store.open(path, at) as file:
        return file.read()


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file_comes_back(store: Store) -> None:
    manifest = put(store, "logs/a.log", LOG)
    info = store.stat("dfs://logs/a.log")
    assert (info.kind, info.size, info.records, info.records_mode) == ("file", len(LOG), 12_000, "lines")
    assert info.content_id == manifest.content_id
    assert content(store, "logs/a.log") == LOG
    refs = store.chunks("logs/a.log")
    assert len(refs) == info.chunk_count > 4
    assert [ref.offset for ref in refs] == [sum(r.length for r in refs[:i]) for i in range(len(refs))]
    parts = [store.read_chunk(ref.id, path="logs/a.log") for ref in refs]
    assert b"".join(parts) == LOG
    assert [b"".join(store.read_blocks(ref.id, 1000)) for ref in refs] == parts
    assert [ref.records for ref in refs] == [part.count(b"\n") for part in parts]
    assert all(len(store.nodes_of(ref.id)) == 2 for ref in refs)
    assert store.txn() == 1
    assert store.version("logs/a.log") == 1


def test_chunks_below_a_folder_are_those_of_each_file(store: Store) -> None:
    for name in ("a/b/c.log", "a/b.log", "a/b/d/e.log", "ab.log"):
        put(store, name, LOG[: 50_000 * len(name)])
    put(store, "a/empty", b"")
    at = store.txn()
    put(store, "a/b.log", LOG[:10])
    store.publish([dfs.Remove("a/b/d", recursive=True)], request_id="later")
    for path in ("", "a", "a/b", "a/b.log", "a/empty"):
        for moment in (at, store.txn()):
            expected = {info.path: store.chunks(info.path, moment) for info in store.find(path, moment)}
            found = store.chunks_below(path, moment)
            assert found == {name: refs for name, refs in expected.items() if refs}
    assert any(len(refs) > 2 for refs in store.chunks_below("a", at).values())


def test_files_can_be_read_from_anywhere(store: Store) -> None:
    put(store, "f", LOG)
    with store.open("f") as file:
        for at in (0, 70_000, 1, len(LOG) - 3, len(LOG), len(LOG) + 5):
            file.seek(at)
            assert file.read(200) == LOG[at : at + 200]
        file.seek(-4, io.SEEK_END)
        assert file.read() == LOG[-4:]
        file.seek(0)
        assert list(file) == LOG.splitlines(keepends=True)
        with pytest.raises(ValueError):
            file.seek(-1)


@pytest.mark.parametrize("data", [b"", b"\n", b"x", b"no newline at the end\nx"])
def test_small_files(store: Store, data: bytes) -> None:
    put(store, "f", data)
    assert content(store, "f") == data
    assert store.stat("f").records == len(data.splitlines())


def test_an_inserted_line_is_one_or_two_new_chunks(store: Store) -> None:
    first = put(store, "f", LOG)
    assert first.new_chunks == len(first.chunks)
    second = store.write_file(LOG[:500] + b"\n" + LOG[500:])
    assert 1 <= second.new_chunks <= 2
    assert store.write_file(LOG).new_chunks == 0
    assert store.write_file(io.BytesIO(LOG)).content_id == first.content_id


def test_repeated_chunks_count_as_new_once(store: Store) -> None:
    manifest = store.write_file(bytes(4 * AVERAGE * 8))
    assert manifest.records is None
    assert len(manifest.chunks) == 8
    assert manifest.new_chunks == 1


def test_records_modes(store: Store) -> None:
    assert store.write_file(b"a\nb\n", name_hint="x.parquet").records is None
    assert store.write_file(b"a\nb\n", name_hint="x.parquet", records="lines").records == 2
    assert store.write_file(b"a\nb\n", records="none").records_mode == "none"
    with pytest.raises(UsageProblem):
        store.write_file(b"", records="words")  # type: ignore[arg-type]


def test_many_small_files_at_once(store: Store) -> None:
    sources = [(f"{i}", b"file %d\n" % (i % 50)) for i in range(120)] + [("big", LOG), ("empty", b""), ("last", b"x")]
    manifests = list(store.write_files((name, io.BytesIO(data)) for name, data in sources))
    publish(store, PutFolder("out", dict(zip((name for name, _ in sources), manifests, strict=True))))
    assert all(content(store, f"out/{name}") == data for name, data in sources)
    assert sum(m.new_chunks for m in manifests[:120]) == 50
    assert manifests[-3] == store.write_file(LOG) or manifests[-3].chunks == store.write_file(LOG).chunks


def test_a_stream_that_fails_is_bad_input(store: Store) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise EOFError("compressed file ended early")

    with pytest.raises(BadInput, match="ended early"):
        store.write_file(Broken())  # type: ignore[arg-type]


def test_manifests_travel_as_json(store: Store) -> None:
    manifest = store.write_file(LOG)
    assert dfs.FileManifest.from_json(manifest.to_json()) == manifest


# -- names and time ---------------------------------------------------------------------------------------------------


def test_folders_listing_and_order(store: Store) -> None:
    manifest = store.write_file(b"x")
    publish(store, *[PutFile(path, manifest) for path in ("a/b", "a.b", "a/c/d", "B", "ä", "a b")])
    assert paths(store) == sorted(["a/b", "a.b", "a/c/d", "B", "ä", "a b"], key=str.encode)
    assert paths(store, "a/c") == ["a/c/d"]
    assert paths(store, "a/b") == ["a/b"]
    assert [(i.path, i.kind) for i in store.ls("a")] == [("a/b", "file"), ("a/c", "dir")]
    assert [i.path for i in store.ls("B")] == ["B"]
    publish(store, MakeDir("empty/sub"))
    assert store.stat("empty/sub").kind == "dir"
    assert store.find("empty") == []
    for call in (store.stat, store.find, store.ls, store.chunks, store.open):
        with pytest.raises(NotFound):
            call("nowhere")
    with pytest.raises(WrongKind):
        store.open("a")


def test_history_can_be_read_at_any_transaction(store: Store) -> None:
    put(store, "a", b"1")
    put(store, "a", b"2")
    publish(store, Move("a", "b/c"))
    publish(store, Remove("b", recursive=True))
    assert [content(store, "a", at) for at in (1, 2)] == [b"1", b"2"]
    assert content(store, "b/c", 3) == b"2"
    assert [paths(store, at=at) for at in range(5)] == [[], ["a"], ["a"], ["b/c"], []]
    with pytest.raises(UsageProblem):
        store.stat("", at=5)


def test_moving_a_folder_moves_all_below_it(store: Store) -> None:
    manifest = store.write_file(b"x")
    publish(store, PutFolder("out", {"a/b": manifest, "c": manifest}))
    publish(store, Move("out", "deep/er/out"))
    assert paths(store) == ["deep/er/out/a/b", "deep/er/out/c"]
    with pytest.raises(UsageProblem):
        publish(store, Move("deep", "deep/er/again"))
    with pytest.raises(NotFound):
        publish(store, Move("out", "x"))
    put(store, "taken", b"1")
    with pytest.raises(AlreadyExists):
        publish(store, Move("taken", "deep"))


def test_folder_modes(store: Store) -> None:
    one, two = store.write_file(b"1"), store.write_file(b"2")
    publish(store, PutFolder("out", {"p0": one}))
    with pytest.raises(AlreadyExists):
        publish(store, PutFolder("out", {"p1": one}))
    publish(store, PutFolder("out", {"p1": two, "d/p2": two}, "append"))
    assert paths(store) == ["out/d/p2", "out/p0", "out/p1"]
    with pytest.raises(AlreadyExists):
        publish(store, PutFolder("out", {"p1": two}, "append"))
    publish(store, PutFolder("out", {"q": one}, "replace"))
    assert paths(store) == ["out/q"]
    publish(store, PutFolder("new", {"q": one}, "append"))
    publish(store, PutFolder("empty", {}))
    assert store.ls("empty") == []
    with pytest.raises(WrongKind):
        publish(store, PutFolder("out/q", {"r": one}, "append"))
    with pytest.raises(UsageProblem):
        publish(store, PutFolder("", {"r": one}, "replace"))


def test_a_transaction_may_change_one_path_twice(store: Store) -> None:
    one, two = store.write_file(b"1"), store.write_file(b"2")
    publish(store, PutFile("a", one), PutFile("a", two), Move("a", "b"), PutFile("a", one), Remove("a"))
    assert paths(store) == ["b"]
    assert content(store, "b") == b"2"
    publish(store, Remove("b"), PutFile("b", one))
    assert (content(store, "b"), content(store, "b", 1)) == (b"1", b"2")


def test_versions_of_folders(store: Store) -> None:
    put(store, "d/a", b"1")  # 1
    put(store, "d/b", b"2")  # 2
    put(store, "e", b"3")  # 3
    assert (store.version("d"), store.version("d/a"), store.version(""), store.version("f")) == (2, 1, 3, None)
    publish(store, Remove("d/b"))  # 4
    assert (store.version("d"), store.version("d/a"), store.version("d", at=3)) == (4, 1, 2)
    publish(store, Move("d", "g"))  # 5
    assert store.version("g/a") == 5
    assert store.stat("g").version == 5


def test_expected_versions(store: Store) -> None:  # F37
    one, two = store.write_file(b"1"), store.write_file(b"2")
    publish(store, PutFile("a", one, None))
    with pytest.raises(AlreadyExists):
        publish(store, PutFile("a", two, None))
    publish(store, PutFile("a", two, 1))
    with pytest.raises(Conflict):
        publish(store, PutFile("a", one, 1))
    publish(store, PutFolder("d", {"x": one}, "create", None))
    put(store, "d/y", b"y")
    with pytest.raises(Conflict):
        publish(store, PutFolder("d", {"z": one}, "replace", 3))
    publish(store, PutFolder("d", {"z": one}, "replace", store.version("d")))
    publish(store, PutFile("a", one, ANY))
    assert paths(store) == ["a", "d/z"]


def test_nothing_is_changed_on_an_error(store: Store) -> None:
    manifest = store.write_file(b"x")
    for bad in (Remove("nowhere"), PutFile("a/b/c", manifest), Remove(""), Move("a", "a"), PutFile("a/../b", manifest)):
        with pytest.raises(dfs.DfsError):
            publish(store, PutFile("a", manifest), PutFile("z", manifest), bad)
    assert store.txn() == 0
    assert paths(store) == []
    put(store, "d/f", b"")
    with pytest.raises(WrongKind):
        publish(store, Remove("d"))
    with pytest.raises(AlreadyExists):
        publish(store, PutFile("d", manifest))


def test_a_request_is_done_once(store: Store) -> None:  # F2
    one, two = store.write_file(b"1"), store.write_file(b"2")
    assert publish(store, PutFile("a", one), request="same") == 1
    publish(store, PutFile("a", two))
    assert publish(store, PutFile("a", one), request="same") == 1
    assert content(store, "a") == b"2"
    with pytest.raises(Conflict):
        publish(store, PutFile("b", one), request="same")
    for bad in ("", "new\nline"):
        with pytest.raises(UsageProblem):
            store.publish([], request_id=bad)


def test_chunks_the_store_does_not_hold_are_refused(store: Store, tmp_path: Path) -> None:
    with dfs.init_store(tmp_path / "other") as other:
        foreign = other.write_file(b"never stored in the first one")
    with pytest.raises(UsageProblem, match="not in this store"):
        publish(store, PutFile("a", foreign))


@pytest.mark.parametrize(
    "name", ["a\nb", "a\\b", "‮rtl", " ", "-rf", "CON", "é", "e\u0301", "A", "a", "%2e%2e", "'; DROP TABLE"]
)
def test_odd_names_come_back_exactly(store: Store, name: str) -> None:  # F52
    put(store, f"odd/{name}", b"x")
    assert paths(store) == [f"odd/{name}"]
    assert content(store, f"odd/{name}") == b"x"


# -- stores -----------------------------------------------------------------------------------------------------------


def test_a_store_is_found_by_argument_environment_or_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two", "data/millrace/store"):
        dfs.init_store(tmp_path / name).close()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("DFS_STORE", raising=False)
    assert dfs.open_store().path == tmp_path / "data/millrace/store"
    monkeypatch.setenv("DFS_STORE", str(tmp_path / "two"))
    assert dfs.open_store().path == tmp_path / "two"
    assert dfs.open_store(tmp_path / "one").path == tmp_path / "one"
    with pytest.raises(NoStore):
        dfs.open_store(tmp_path / "none")


def test_what_init_refuses(tmp_path: Path) -> None:
    dfs.init_store(tmp_path / "s", nodes=[tmp_path / "n"]).close()
    with pytest.raises(AlreadyExists):
        dfs.init_store(tmp_path / "s")
    with pytest.raises(AlreadyExists):
        dfs.init_store(tmp_path / "t", nodes=[tmp_path / "m", tmp_path / "n"])
    assert not (tmp_path / "m").exists()
    for options in ({"replicas": 2}, {"nodes": [tmp_path / "a", tmp_path / "a"]}, {"chunk_bytes_avg": 1}):
        with pytest.raises(UsageProblem):
            dfs.init_store(tmp_path / "u", **options)


def test_an_init_that_failed_can_be_tried_again(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(dfs.DfsError, match="cannot be made"):
        dfs.init_store(tmp_path / "s", nodes=[tmp_path / "n1", tmp_path / "file" / "n2"])
    dfs.init_store(tmp_path / "s", nodes=[tmp_path / "n1", tmp_path / "n2"]).close()


def test_a_store_can_be_moved_and_pickled(tmp_path: Path) -> None:
    with dfs.init_store(tmp_path / "s", chunk_bytes_avg=AVERAGE) as store:
        put(store, "f", LOG)
        with pickle.loads(pickle.dumps(store)) as other:
            assert content(other, "f") == LOG
    os.rename(tmp_path / "s", tmp_path / "moved")
    with dfs.open_store(tmp_path / "moved") as store:
        assert (store.sizes.avg, store.replicas) == (AVERAGE, 1)
        assert content(store, "f") == LOG


@pytest.mark.parametrize("how", ["delete", "empty", "truncate", "foreign", "garbage", "newer"])
def test_a_broken_namespace_is_refused_and_never_made_anew(store: Store, how: str) -> None:  # F19, F60
    import apsw

    put(store, "f", LOG)
    store.close()
    file = store.path / "store.db"
    data = file.read_bytes()
    if how == "delete":
        file.unlink()
    elif how in ("foreign", "newer"):
        pragma = {"foreign": "application_id = 7", "newer": "user_version = 99"}[how]
        apsw.Connection(str(file)).execute(f"PRAGMA {pragma}")
    else:
        file.write_bytes({"empty": b"", "truncate": data[: len(data) // 2], "garbage": b"x" * 9000}[how])
    expected = {"delete": NoStore, "foreign": NoStore, "newer": Unsupported}.get(how, StoreDamaged)
    with pytest.raises(expected):
        dfs.open_store(store.path)
    assert file.exists() == (how != "delete")


def test_a_flipped_bit_in_the_namespace_is_found(store: Store) -> None:  # F18
    publish(store, PutFolder("d", {f"file-{i}": store.write_file(b"x") for i in range(300)}))
    store.close()
    data = bytearray((store.path / "store.db").read_bytes())
    at = data.index(b"file-150")
    data[at] ^= 1
    (store.path / "store.db").write_bytes(data)
    with dfs.open_store(store.path) as damaged:
        with pytest.raises(StoreDamaged):
            damaged.find("")
        assert damaged.check_namespace() != []


# -- the operation log ------------------------------------------------------------------------------------------------


def test_an_old_namespace_is_refused(store: Store, tmp_path: Path) -> None:  # F19: a lost WAL, a restored backup
    put(store, "a", b"1")
    store.close()
    shutil.copy(store.path / "store.db", tmp_path / "backup.db")
    with dfs.open_store(store.path) as opened:
        put(opened, "b", b"2")
        put(opened, "c", b"3")
    shutil.copy(tmp_path / "backup.db", store.path / "store.db")
    with pytest.raises(StoreDamaged, match="old copy"):
        dfs.open_store(store.path)


def test_a_logged_transaction_is_rolled_forward(store: Store, tmp_path: Path) -> None:  # F5, F6
    put(store, "a", b"1")
    store.close()
    shutil.copy(store.path / "store.db", tmp_path / "before.db")
    with dfs.open_store(store.path) as opened:
        manifest = opened.write_file(b"2")
        assert publish(opened, PutFile("b", manifest), request="lost answer") == 2
        lagging = opened.node_paths()[opened.nodes_of(manifest.chunks[0].id)[0]]
    shutil.copy(tmp_path / "before.db", store.path / "store.db")  # as if the process died before its COMMIT
    (segment,) = (lagging / "oplog").iterdir()
    segment.write_bytes(segment.read_bytes()[:-5])  # and while it wrote to this node
    with dfs.open_store(store.path) as opened:
        assert opened.txn() == 2
        assert content(opened, "b") == b"2"
        assert publish(opened, PutFile("b", manifest), request="lost answer") == 2
        assert publish(opened, Remove("a")) == 3
    assert len(list((lagging / "oplog").iterdir())) == 2, "a torn segment is left as it is"
    with dfs.open_store(store.path) as opened:
        assert paths(opened) == ["b"]


def test_too_few_nodes_for_the_log_change_nothing(store: Store) -> None:
    manifest = store.write_file(b"x")
    store.close()
    folders = list(store.node_paths().values())
    for folder in folders[:2]:
        os.rename(folder, folder.with_suffix(".away"))
    with dfs.open_store(store.path) as opened:
        assert len(opened.absent) == 2
        with pytest.raises((NotEnoughNodes, UsageProblem)):
            publish(opened, PutFile("a", manifest))
        with pytest.raises(NotEnoughNodes):
            publish(opened, MakeDir("d"))
        with pytest.raises(NotEnoughNodes):
            opened.write_file(b"y")
    for folder in folders[:2]:
        os.rename(folder.with_suffix(".away"), folder)
    with dfs.open_store(store.path) as opened:
        assert opened.txn() == 0
        publish(opened, PutFile("a", manifest))


def test_what_the_log_took_back_does_not_come_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:  # F11
    real = os.fsync

    def fail(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr("dfs.oplog.os.fsync", fail)
        with pytest.raises(NotEnoughNodes):
            publish(store, MakeDir("failed"))
    with pytest.raises(NotEnoughNodes, match="suspect"):
        publish(store, MakeDir("other"))
    for folder in store.node_paths().values():
        (folder / "suspect").unlink()
    assert publish(store, MakeDir("other")) == 1
    assert [info.path for info in store.ls("")] == ["other"]


# -- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["delete", "zero", "truncate", "flip"])
def test_reads_go_on_when_every_first_replica_is_damaged_and_heal_it(store: Store, how: Damage) -> None:  # F14, F15
    put(store, "big", LOG)
    put(store, "small", b"small")
    folders = store.node_paths()
    refs = [*store.chunks("big"), *store.chunks("small")]
    first = {ref.id: store.nodes_of(ref.id)[0] for ref in refs}
    for ref in refs:
        damage_local(folders[first[ref.id]], ref.id, how)
    assert content(store, "big") == LOG
    assert content(store, "small") == b"small"
    assert store.counts["healed"] == store.counts["failover"] == len(refs)
    store.counts.clear()
    assert content(store, "big") == LOG
    assert not store.counts
    for ref in refs:
        assert store.nodes_of(ref.id)[0] == first[ref.id]
        store.replicated.nodes[first[ref.id]].get(ref.id)


def test_a_chunk_without_a_good_copy_names_file_chunk_and_nodes(store: Store) -> None:  # F4
    put(store, "d/f", LOG)
    ref = store.chunks("d/f")[1]
    nodes = store.nodes_of(ref.id)
    damage_local(store.node_paths()[nodes[0]], ref.id, "zero")
    damage_local(store.node_paths()[nodes[1]], ref.id, "delete")
    with pytest.raises(ChunkLost) as caught:
        content(store, "d/f")
    assert all(part in str(caught.value) for part in ("d/f", ref.id, *nodes))
    assert store.write_file(LOG).new_chunks == 1, "a put of the same file restores it"
    assert content(store, "d/f") == LOG


def test_a_read_in_blocks_heals_what_is_damaged(store: Store) -> None:  # F14
    noise = random.Random(1).randbytes(200_000)
    for name, data in (("packed", LOG), ("raw", noise)):
        put(store, name, data)
        ref = store.chunks(name)[0]
        bad = store.nodes_of(ref.id)[0]
        damage_local(store.node_paths()[bad], ref.id, "flip")
        assert b"".join(store.read_blocks(ref.id, 1000)) == data[: ref.length]
        assert store.replicated.nodes[bad].get(ref.id) == data[: ref.length]
    assert store.counts["healed"] == 2


def test_a_put_heals_what_is_damaged(store: Store) -> None:
    put(store, "f", LOG)
    for ref in store.chunks("f"):
        damage_local(store.node_paths()[store.nodes_of(ref.id)[1]], ref.id, "flip")
    assert store.write_file(LOG).new_chunks == 0
    for ref in store.chunks("f"):
        for node in store.replicated.order(ref.id)[:2]:
            node.get(ref.id)


def test_a_missing_node_is_read_around(store: Store) -> None:
    put(store, "f", LOG)
    store.close()
    gone = next(iter(store.node_paths().values()))
    os.rename(gone, gone.with_suffix(".away"))
    with dfs.open_store(store.path) as opened:
        assert content(opened, "f") == LOG
        put(opened, "g", LOG + b"more\n")
        assert len(opened.absent) == 1
    os.rename(gone.with_suffix(".away"), gone)
    with dfs.open_store(store.path) as opened:
        assert content(opened, "g") == LOG + b"more\n"


# -- several at once --------------------------------------------------------------------------------------------------


def _publish_many(path: str, name: str, count: int) -> None:
    with dfs.open_store(path) as store:
        for i in range(count):
            manifest = store.write_file(b"%s %d\n" % (name.encode(), i))
            store.publish([PutFile(f"{name}/{i}", manifest), PutFile("last", manifest)], request_id=f"{name}-{i}")


def test_two_processes_publish_and_readers_see_whole_transactions(store: Store) -> None:  # F37, F39
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=_publish_many, args=(str(store.path), name, 15)) for name in ("p", "q")]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        at = store.txn()
        files = [info for info in store.find("", at) if info.path != "last"]
        assert len(files) == at
        if at:
            newest = max(files, key=lambda info: info.version)
            assert store.stat("last", at).content_id == newest.content_id
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert store.txn() == 30
    assert len(paths(store)) == 31


def test_threads_share_a_store(store: Store) -> None:
    failures: list[BaseException] = []

    def work(index: int) -> None:
        try:
            data = lines(2000, seed=index % 2)
            put(store, f"t/{index}", data)
            assert content(store, f"t/{index}") == data
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(paths(store)) == 6


def test_a_thread_that_ends_leaves_no_files_open(store: Store) -> None:
    put(store, "a", b"small")
    chunk = store.chunks("a")[0].id

    def use() -> None:
        assert store.read_chunk(chunk) == b"small"
        assert store.exists("a")

    counts = []
    for _ in range(4):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        counts.append(len(os.listdir("/dev/fd")))
    assert counts[0] == counts[-1]


def test_another_thread_does_not_drop_the_locks_of_the_process(store: Store) -> None:
    store.exists("a")
    thread = threading.Thread(target=store.exists, args=("a",))
    thread.start()
    thread.join()
    try_lock = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+b');"
        "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)"  # SQLite's shared bytes
    )
    done = subprocess.run([sys.executable, "-c", try_lock, str(store.path / "store.db")], capture_output=True)
    assert b"BlockingIOError" in done.stderr


def test_one_of_many_racing_writers_wins(store: Store) -> None:  # F37
    manifests = [store.write_file(b"%d" % i) for i in range(6)]
    results: list[object] = []

    def race(manifest: dfs.FileManifest) -> None:
        try:
            results.append(publish(store, PutFile("a", manifest, None)))
        except AlreadyExists:
            results.append("lost")

    threads = [threading.Thread(target=race, args=(m,)) for m in manifests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, results)) == ["1"] + ["lost"] * 5


def test_a_writer_that_waits_too_long_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:  # F20
    import apsw

    monkeypatch.setattr("dfs.database.BUSY_TIMEOUT_MS", 1)
    with dfs.open_store(store.path) as impatient:
        holder = apsw.Connection(str(store.path / "store.db"), vfs="cksmvfs")
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreLocked):
            publish(impatient, MakeDir("d"))
        holder.execute("ROLLBACK")
        holder.close()
        assert publish(impatient, MakeDir("d")) == 1


def test_a_damaged_page_of_small_chunks_is_read_around_reported_and_healed(store: Store) -> None:  # F18
    data = {f"f{i}": b"small file %d " % i * 20 for i in range(400)}
    manifests = store.write_files(data.items(), records="none")
    publish(store, PutFolder("d", dict(zip(data, manifests, strict=True))))
    folder = next(iter(store.node_paths().values()))
    store.close()
    page = bytearray((folder / "small-1.db").read_bytes())
    page[len(page) // 2 + 100] ^= 4
    (folder / "small-1.db").write_bytes(page)
    with dfs.open_store(store.path) as opened:
        health = examine(opened, read_data=True)
        assert health.damaged
        assert not health.missing
        assert all(content(opened, f"d/{name}") == value for name, value in data.items())
        assert opened.counts["healed"] > 0
        assert not examine(opened, read_data=True).damaged


def test_a_node_that_was_away_gets_the_log_it_missed(store: Store, tmp_path: Path) -> None:
    put(store, "a", b"before")
    folders = sorted(store.node_paths().items())
    store.close()
    away = folders[0][1]
    away.rename(tmp_path / "elsewhere")
    with dfs.open_store(store.path) as without:
        for number in range(3):
            publish(without, MakeDir(f"d{number}"))
        newest = without.txn()
    (tmp_path / "elsewhere").rename(away)
    with dfs.open_store(store.path) as again:
        last = OpLog(away).last()
        assert last is not None
        assert last.txn == newest
        publish(again, MakeDir("later"))
    assert [record.txn for record in OpLog(away).records()] == list(range(1, newest + 2))


def test_a_number_of_copies_said_for_one_file_takes_none_from_another(store: Store) -> None:
    shared = lines(2_000)
    put(store, "cheap", shared)
    put(store, "precious", shared)
    publish(store, SetReplicas("cheap", 1), Copy("precious", "also/precious"))
    assert {replicas or store.replicas for _, _, replicas in store.namespace.needed()} == {2}
    publish(store, SetReplicas("cheap", 3))
    assert {replicas or store.replicas for _, _, replicas in store.namespace.needed()} == {3}
    publish(store, Remove("precious"), Remove("also", recursive=True), SetReplicas("cheap", 1))
    now = store.txn()
    assert {replicas for _, _, replicas in store.namespace.needed(horizon=now)} == {1}


def test_a_store_that_was_opened_before_a_fork_is_refused_in_the_child(store: Store) -> None:
    put(store, "a", b"1")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        told = []
        for attempt in (lambda: store.stat("a"), lambda: store.write_file(b"2"), lambda: publish(store, MakeDir("d"))):
            try:
                attempt()
            except UsageProblem as error:
                told.append("open it again" in str(error))
        os.write(writing, repr(told).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"[True, True, True]"
    assert content(store, "a") == b"1"


def test_an_open_store_follows_nodes_that_come_and_go(store: Store, tmp_path: Path) -> None:
    data = lines(5_000)
    put(store, "a", data)
    errors: list[Exception] = []

    def repeat(stop: threading.Event, act: Callable[[int], object]) -> threading.Thread:
        def work() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                try:
                    act(number)
                except Exception as error:
                    errors.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    done, added = threading.Event(), threading.Event()
    with contextlib.ExitStack() as stack:
        stale, other = (stack.enter_context(dfs.open_store(store.path)) for _ in range(2))
        for event in (done, added):
            stack.callback(event.set)
        readers = [repeat(done, lambda _: content(stale, "a") == data or 1 / 0) for _ in range(2)]
        with dfs.open_store(store.path) as third:
            writer = repeat(added, lambda number: third.write_file(b"%d" % number * 9_000))
            for number in range(3):
                members.add_node(other, tmp_path / f"new{number}")
                publish(third, MakeDir(f"d{number}"))
            added.set()
            writer.join(30)
        for node in list(store.node_paths()):
            members.drain_node(other, node)
            members.remove_node(other, node)
        done.set()
        for thread in readers:
            thread.join(30)
        assert errors == []
        assert content(stale, "a") == data
        assert stale.reload() or len(stale.node_paths()) == 3


def test_a_transaction_waits_for_nodes_that_were_just_added(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Committer.commit

    def late(self: Committer, *arguments: Any) -> int:
        monkeypatch.setattr(Committer, "commit", real)
        with dfs.open_store(store.path) as other:
            members.add_node(other, tmp_path / "new")
        return real(self, *arguments)

    monkeypatch.setattr(Committer, "commit", late)
    txn = publish(store, MakeDir("d"))
    last = OpLog(tmp_path / "new").last()
    assert last is not None
    assert last.txn == txn


def test_a_request_that_is_stored_and_asked_again_is_the_same(store: Store) -> None:  # F2
    data = lines(500)
    txn = publish(store, PutFile("a", store.write_file(data)), request="one")
    again = store.write_file(data)
    assert again.new_chunks == 0
    assert publish(store, PutFile("a", again), request="one") == txn == store.txn()
