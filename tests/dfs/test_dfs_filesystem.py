"""`dfs://` through fsspec."""

from __future__ import annotations

import bz2
import contextlib
import gc
import gzip
import itertools
import lzma
import multiprocessing
import pickle
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.core import OpenFile

import dfs
from dfs.changes import build_manifest
from dfs.codec import Record
from dfs.errors import AlreadyExists, ChunkLost, Conflict, NotEnoughNodes, NotFound, UsageProblem, WrongKind
from dfs.filesystem import DfsFileSystem

LOG = b"".join(b"%d line of a log %d\n" % (i, i * 7919 % 10007) for i in range(12_000))


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[DfsFileSystem]:
    nodes = [tmp_path / f"n{i}" for i in range(3)]
    dfs.init_store(tmp_path / "s", nodes=nodes, replicas=2, chunk_bytes_avg=1 << 15, durability="none").close()
    made = fsspec.filesystem("dfs", store=str(tmp_path / "s"))
    yield made
    made.store.close()


def test_the_entry_point_is_registered(fs: DfsFileSystem) -> None:
    assert isinstance(fs, DfsFileSystem)
    fs.pipe("x/y.txt", b"one\ntwo\n")
    with fsspec.open("dfs://x/y.txt", "rt", store=str(fs.store.path)) as file:
        assert file.readlines() == ["one\n", "two\n"]


def test_reading(fs: DfsFileSystem) -> None:
    fs.pipe("logs/a.log", LOG)
    assert fs.cat("dfs://logs/a.log") == LOG
    assert fs.cat_file("logs/a.log", start=1000, end=2000) == LOG[1000:2000]
    assert fs.read_block("logs/a.log", 1000, 500, b"\n") in LOG
    assert (fs.head("logs/a.log", 10), fs.tail("logs/a.log", 10)) == (LOG[:10], LOG[-10:])
    info = fs.info("logs/a.log")
    assert (info["type"], info["size"], info["records"]) == ("file", len(LOG), 12_000)
    with pytest.raises(FileNotFoundError):
        fs.open("nope")
    with pytest.raises(NotFound):
        fs.info("nope")


def test_listing(fs: DfsFileSystem) -> None:
    for path in ("a/b", "a/c/d", "e"):
        fs.pipe(path, b"x")
    assert fs.ls("", detail=False) == ["a", "e"]
    assert [entry["type"] for entry in fs.ls("/")] == ["directory", "file"]
    assert fs.find("a") == ["a/b", "a/c/d"]
    assert fs.find("nope") == []
    assert set(fs.find("", maxdepth=1)) == {"e"}
    assert fs.glob("a/*") == ["a/b", "a/c"]
    assert fs.glob("**/d") == ["a/c/d"]
    assert list(fs.walk("a")) == [("a", ["c"], ["b"]), ("a/c", [], ["d"])]
    assert (fs.exists("a"), fs.isdir("a"), fs.isfile("a/b"), fs.exists("z")) == (True, True, True, False)
    assert fs.du("a") == 2


def test_changing(fs: DfsFileSystem) -> None:
    fs.pipe("a/b", b"1")
    with fs.open("a/b", "ab") as file:
        file.write(b"2")
    assert fs.cat("a/b") == b"12"
    with pytest.raises(AlreadyExists):
        fs.open("a/b", "xb")
    with pytest.raises(FileExistsError):
        fs.mkdir("a")
    fs.makedirs("a", exist_ok=True)
    fs.cp("a", "copy", recursive=True)
    before = fs.store.txn()
    fs.mv("copy", "moved")
    assert fs.store.txn() == before + 1
    assert fs.cat("moved/b") == b"12"
    fs.rm("moved", recursive=True)
    fs.rm("a/b")
    fs.rmdir("a")
    assert fs.ls("") == []
    with pytest.raises(UsageProblem):
        fs.open("a", "r+b")


def test_a_transaction_publishes_all_files_at_once(fs: DfsFileSystem) -> None:
    with fs.transaction:
        for i in range(3):
            with fs.open(f"out/{i}", "w") as file:
                file.write(f"line {i}\n")
        assert not fs.exists("out")
    assert fs.store.txn() == 1
    assert fs.find("out") == ["out/0", "out/1", "out/2"]

    def fail() -> None:
        with fs.transaction:
            fs.pipe("never", b"x")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not fs.exists("never")
    fs.pipe("after", b"x")
    assert fs.store.txn() == 2


def test_an_exception_leaves_no_half_file(fs: DfsFileSystem) -> None:
    def fail() -> None:
        with fs.open("a", "wb") as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not fs.exists("a")


def test_block_locations(fs: DfsFileSystem) -> None:
    fs.pipe("a", LOG)
    blocks = fs.block_locations("a")
    assert sum(length for _, length, _, _ in blocks) == len(LOG)
    assert all(len(nodes) == 2 for *_, nodes in blocks)
    offset, length, chunk, _ = blocks[1]
    assert [block[2] for block in fs.block_locations("a", offset, length)] == [chunk]
    assert [block[0] for block in fs.block_locations("a", offset - 1, 2)] == [0, offset]
    assert fs.store.read_chunk(chunk) == LOG[offset : offset + length]


def test_identity_and_pickling(fs: DfsFileSystem) -> None:
    fs.pipe("a", LOG)
    fs.pipe("b", LOG)
    fs.pipe("c", LOG + b"!")
    assert fs.ukey("a") == fs.ukey("b") != fs.ukey("c")
    assert fs.checksum("a") == fs.checksum("b") != fs.checksum("c")
    other = pickle.loads(pickle.dumps(fs))
    assert other.cat("a") == LOG


def test_a_past_transaction_is_read_only(fs: DfsFileSystem) -> None:
    fs.pipe("a", b"1")
    fs.pipe("a", b"2")
    past = fsspec.filesystem("dfs", store=str(fs.store.path), at=1)
    assert past.cat("a") == b"1"
    with pytest.raises(UsageProblem):
        past.rm("a")
    with pytest.raises(UsageProblem):
        past.open("a", "wb")


def test_folders_to_and_from_local(fs: DfsFileSystem, tmp_path: Path) -> None:
    (tmp_path / "in/d").mkdir(parents=True)
    (tmp_path / "in/d/x").write_bytes(b"x")
    fs.put(str(tmp_path / "in"), "in", recursive=True)
    assert fs.find("in") == ["in/d/x"]
    fs.get("in", str(tmp_path / "out"), recursive=True)
    assert (tmp_path / "out/d/x").read_bytes() == b"x"


def test_other_libraries_read_it(fs: DfsFileSystem) -> None:
    import pyarrow.csv
    import pyarrow.fs

    fs.pipe("t.csv", b"a,b\n1,2\n3,4\n")
    arrow = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))
    with arrow.open_input_file("t.csv") as file:
        assert pyarrow.csv.read_csv(file).to_pydict() == {"a": [1, 3], "b": [2, 4]}


def test_a_write_that_failed_is_not_published_by_closing_it(fs: DfsFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = fs.store.replicated.put_many, itertools.count()

    def fail_once(records: Sequence[Record], replicas: int | None = None) -> list[bool]:
        if next(calls) == 1:
            raise NotEnoughNodes("disk full")
        return real(records, replicas)

    monkeypatch.setattr(fs.store.replicated, "put_many", fail_once)

    def write() -> None:
        with OpenFile(fs, "a", "wb") as file:  # which closes the file whatever happened in it
            for at in range(0, len(LOG), 1 << 16):
                file.write(LOG[at : at + (1 << 16)])

    with pytest.raises(NotEnoughNodes):
        write()
    assert not fs.exists("a"), "a file with a hole"


def test_an_append_never_replaces_what_another_appended(fs: DfsFileSystem) -> None:
    fs.pipe("a", b"1")
    first, second = fs.open("a", "ab"), fs.open("a", "ab")
    for file, more in (first, b"2"), (second, b"3"):
        file.write(more)
    second.close()
    with pytest.raises(Conflict):
        first.close()
    assert fs.cat("a") == b"13"
    with fs.transaction:
        fs.pipe("b", b"4")
        with pytest.raises(UsageProblem):
            fs.open("b", "ab")
    assert fs.cat("b") == b"4"


def test_rmdir_does_not_remove_a_file(fs: DfsFileSystem) -> None:
    fs.pipe("a", b"1")
    with pytest.raises(WrongKind):
        fs.rmdir("a")
    assert fs.exists("a")


def test_versions_as_s3fs_names_them(fs: DfsFileSystem) -> None:
    aware = fsspec.filesystem("dfs", store=str(fs.store.path), version_aware=True)
    ids = []
    for content in (b"1", b"22", b"333"):
        with aware.open("d/f", "wb") as file:
            file.write(content)
        ids.append(file.version_id)
    assert ids == ["1", "2", "3"]
    with aware.open("d/f", version_id="2") as file:
        assert (file.read(), file.version_id, file.size) == (b"22", "2", 2)
    assert aware.cat_file("d/f", version_id="1") == aware.cat("d/f?versionId=1") == b"1"
    assert aware.info("d/f", version_id="2")["VersionId"] == "2"
    assert aware.info("d/f?versionId=2")["size"] == 2
    assert aware.info("d/f")["VersionId"] == "3"
    assert aware.cat(["d/f?versionId=1", "d/f"]) == {"d/f?versionId=1": b"1", "d/f": b"333"}
    assert [aware.exists(f"d/f?versionId={v}") for v in ("1", "4", "x", "")] == [True, False, False, False]
    with fsspec.open("dfs://d/f?versionId=1", "rb", store=str(fs.store.path)) as file:
        assert file.read() == b"1"
    aware.copy("d/f?versionId=2", "restored")
    assert fs.cat("restored") == b"22"
    for change in (aware.touch, aware.rm_file, lambda path: aware.open(path, "wb")):
        with pytest.raises(PermissionError):
            change("d/f?versionId=2")
    with pytest.raises(FileNotFoundError):
        aware.open("d/f", version_id="99")
    with pytest.raises(ValueError, match="version_aware"):
        fs.open("d/f", version_id="1")
    with pytest.raises(ValueError, match="version_id"):
        aware.info("d/f?versionId=1", version_id="2")


def test_the_versions_of_a_file_are_listed(fs: DfsFileSystem) -> None:
    aware = fsspec.filesystem("dfs", store=str(fs.store.path), version_aware=True)
    for content in (b"1", b"22"):
        aware.pipe("f", content)
    newest, oldest = aware.object_version_info("f")
    assert (newest["VersionId"], newest["IsLatest"], newest["Size"]) == ("2", True, 2)
    assert (oldest["VersionId"], oldest["IsLatest"], oldest["ETag"]) == ("1", False, aware.ukey("f?versionId=1"))
    with pytest.raises(ValueError, match="version_aware"):
        fs.object_version_info("f")


def test_a_question_mark_is_a_name_to_those_who_do_not_ask_for_versions(fs: DfsFileSystem) -> None:
    fs.pipe("f?versionId=1", b"a name")
    assert fs.cat("f?versionId=1") == b"a name"


def test_a_file_system_at_a_snapshot_or_time(fs: DfsFileSystem) -> None:
    fs.pipe("a", b"1")
    fs.store.publish([dfs.TakeSnapshot("before")], request_id="snapshot")
    fs.pipe("a", b"2")
    past = fsspec.filesystem("dfs", store=str(fs.store.path), at="before")
    assert past.cat("a") == b"1"
    assert pickle.loads(pickle.dumps(past)).cat("a") == b"1"
    assert fsspec.filesystem("dfs", store=str(fs.store.path), at="2100-01-01").cat("a") == b"2"
    with pytest.raises(PermissionError):
        past.pipe("b", b"")


@pytest.mark.parametrize("path", ["a//b", "a/../b", "a/./b", "x" * 256, "a\0b", "\ud800", "a/b/c"])
def test_odd_names_are_simply_not_there(fs: DfsFileSystem, path: str) -> None:
    fs.pipe("a/b", b"1")
    assert (fs.exists(path), fs.isdir(path), fs.isfile(path)) == (False, False, False)
    assert (fs.find(path), fs.glob(path), list(fs.walk(path)), fs.du(path)) == ([], [], [], 0)
    for read in (fs.info, fs.ls, fs.open, fs.cat, fs.ukey, fs.modified):
        with pytest.raises(FileNotFoundError):
            read(path)
    for write in (fs.mkdir, fs.touch):
        with pytest.raises((ValueError, NotADirectoryError)):
            write(path)


def test_errors_are_those_that_files_raise(fs: DfsFileSystem) -> None:
    fs.pipe("folder/file", b"1")
    for mode in ("rb", "wb", "ab"):
        with pytest.raises(IsADirectoryError):
            fs.open("folder", mode)
    with pytest.raises(FileExistsError):
        fs.open("folder", "xb")
    with pytest.raises(IsADirectoryError):
        fs.cat_file("folder")
    for write in (fs.mkdir, fs.makedirs, fs.touch, lambda path: fs.open(path, "wb"), lambda path: fs.pipe(path, b"")):
        with pytest.raises(NotADirectoryError):
            write("folder/file/below")
    with pytest.raises(NotADirectoryError):
        fs.rmdir("folder/file")
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir("folder")
    with pytest.raises(IsADirectoryError, match="not empty"):
        fs.rm("folder")
    with pytest.raises(FileNotFoundError):
        fs.mkdir("no/parent", create_parents=False)
    with pytest.raises(FileExistsError):
        fs.makedirs("folder/file", exist_ok=True)
    with pytest.raises(NotImplementedError):
        fs.sign("folder/file")


def test_removing_what_is_not_there(fs: DfsFileSystem) -> None:
    fs.pipe({"a1": b"", "a2": b"", "d/e/f": b""})
    for path in ("zz*", "zz", ["a1", "zz"]):
        with pytest.raises(FileNotFoundError):
            fs.rm(path)
    with pytest.raises(FileNotFoundError):
        fs.rm("zz", recursive=True)
    assert fs.find("") == ["a1", "a2", "d/e/f"], "all or nothing"
    fs.rm("a*")
    fs.rm(["d", "d/e", "d/e/f"], recursive=True)
    assert fs.ls("") == []


def test_removing_to_a_depth_leaves_what_is_deeper(fs: DfsFileSystem) -> None:
    fs.pipe({"d/1": b"", "d/e/2": b"", "d/g/h/3": b""})
    fs.rm("d", recursive=True, maxdepth=2)
    assert fs.find("", withdirs=True) == ["d", "d/g", "d/g/h", "d/g/h/3"]
    fs.rm("/", recursive=True)
    assert fs.ls("") == []


def test_a_name_with_a_star_is_no_pattern_when_it_is_there(fs: DfsFileSystem) -> None:
    fs.pipe({"a*": b"star", "ab": b"b", "[x]": b"x"})
    assert fs.cat("a*") == b"star"
    fs.rm("a*")
    fs.rm("[x]")
    assert fs.find("") == ["ab"]


def test_moving(fs: DfsFileSystem) -> None:
    fs.pipe({"d/1": b"1", "d/e/2": b"2", "f": b"f", "g": b"g"})
    fs.mkdir("into")
    stored = set(fs.store.replicated.held([ref.id for path in fs.find("") for ref in fs.store.chunks(path)]))
    before = fs.store.txn()
    fs.mv("f", "g")  # over a file
    fs.mv("g", "into")  # into a folder
    fs.mv("d", "new/place")
    fs.mv("new/place", "into/")
    assert fs.store.txn() == before + 4, "one transaction each"
    assert {path: fs.cat_file(path) for path in fs.find("")} == {
        "into/g": b"f",
        "into/place/1": b"1",
        "into/place/e/2": b"2",
    }
    fs.mv("into/*", "top/")
    assert fs.find("") == ["top/g", "top/place/1", "top/place/e/2"]
    fs.mv("top/g", "top/g")
    for source, target, error in (
        ("top", "top/place", ValueError),  # into itself
        ("nope", "x", FileNotFoundError),
        ("top/place", "top/g", NotADirectoryError),
        ("nope*", "x", FileNotFoundError),
    ):
        with pytest.raises(error):
            fs.mv(source, target)
    fs.pipe("place/x", b"")
    with pytest.raises(FileExistsError):
        fs.mv("place", "top")
    assert stored >= {ref.id for path in fs.find("top") for ref in fs.store.chunks(path)}


def test_copying_copies_no_bytes(fs: DfsFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    fs.pipe({"d/1": LOG, "d/e/2": b"2"})
    fs.mkdir("d/empty")
    before = fs.store.txn()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("bytes were read or written")

    monkeypatch.setattr(fs.store.replicated, "get", refuse)
    monkeypatch.setattr(fs.store.replicated, "put_many", refuse)
    fs.cp("d", "whole", recursive=True)
    fs.cp("d/*", "some/", recursive=True)
    fs.cp_file("d/1", "one")
    fs.cp(["d/1", "d/e/2"], "flat")
    fs.cp("d/e/2", "one")  # over a file
    monkeypatch.undo()
    assert fs.store.txn() == before + 5, "one transaction each"
    assert fs.find("whole", withdirs=True) == ["whole", "whole/1", "whole/e", "whole/e/2", "whole/empty"]
    assert fs.find("some", withdirs=True) == ["some", "some/1", "some/e", "some/e/2", "some/empty"]
    assert (fs.cat("one"), fs.cat("whole/1"), fs.find("flat")) == (b"2", LOG, ["flat/1", "flat/2"])
    with pytest.raises(FileNotFoundError):
        fs.cp("nope", "x")
    with pytest.raises(IsADirectoryError):
        fs.cp_file("d/1", "d/e")


def test_appending_stores_only_what_changed(fs: DfsFileSystem) -> None:
    fs.pipe("whole", LOG + b"more\n")
    fs.pipe("a", LOG)
    first = fs.store.chunks("a")
    with fs.open("a", "ab") as file:
        assert file.tell() == len(LOG)
        file.write(b"more\n")
    assert fs.cat("a") == LOG + b"more\n"
    assert fs.store.chunks("a")[: len(first) - 1] == first[:-1]
    assert fs.ukey("a") == fs.ukey("whole"), "cut as if written at once"
    assert fs.info("a")["records"] == 12_001
    with fs.open("new", "a") as text:
        text.write("x")
    assert fs.cat("new") == b"x"


def test_ranges_read_each_chunk_once(fs: DfsFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    fs.pipe({"a": LOG, "same": LOG, "b": b"0123456789", "empty": b""})
    real, read = fs.store.read_chunk, []
    monkeypatch.setattr(fs.store, "read_chunk", lambda id, path: read.append(id) or real(id, path=path))
    rng = random.Random(1)
    starts = [rng.randrange(-len(LOG), len(LOG)) for _ in range(200)]
    ends: list[int | None] = [rng.choice([None, rng.randrange(-len(LOG), 2 * len(LOG))]) for _ in range(200)]
    assert fs.cat_ranges(["a"] * 100 + ["same"] * 100, starts, ends) == [
        LOG[start:end] for start, end in zip(starts, ends, strict=True)
    ]
    assert len(read) == len(set(read)) == len(fs.store.chunks("a"))
    again = [(ref.id, ref.length, ref.records, ref.continues) for ref in fs.store.chunks("a")]
    fs.store.publish([dfs.PutFile("twice", build_manifest(again * 2, "lines", 0))], request_id="twice")
    read.clear()
    assert fs.cat_ranges(["twice", "a"], 5, None) == [(LOG + LOG)[5:], LOG[5:]]
    assert len(read) == len(again)
    fs.rm("twice")
    assert fs.cat_ranges(["b", "empty", "b"], [2, 0, -3], 5) == [b"234", b"", b""]
    found = fs.cat_ranges(["b", "nope"], 0, None)
    assert (found[0], type(found[1])) == (b"0123456789", NotFound)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(["b", "nope"], 0, None, on_error="raise")
    with pytest.raises(ValueError, match="1 paths, 2 starts"):
        fs.cat_ranges(["b"], [0, 1], 1)
    assert fs.cat(["b", "nope"], on_error="omit") == {"b": b"0123456789"}
    assert fs.cat("", recursive=True) == {"a": LOG, "same": LOG, "b": b"0123456789", "empty": b""}
    assert [fs.cat_file("b", start, end) for start, end in ((1, -1), (None, 3), (-2, None), (5, 2))] == [
        *(b"12345678", b"012", b"89", b"")
    ]


def test_random_reads_do_not_fetch_a_chunk_twice(fs: DfsFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    fs.pipe("a", LOG)
    real, read = fs.store.read_chunk, []
    monkeypatch.setattr(fs.store, "read_chunk", lambda id, path: read.append(id) or real(id, path=path))
    rng = random.Random(2)
    with fs.open("a") as file:
        for _ in range(300):
            at = rng.randrange(len(LOG))
            file.seek(at)
            assert file.read(50) == LOG[at : at + 50]
    assert len(read) == len(set(read))
    first, second, third, *_ = fs.store.chunks("a")
    read.clear()
    with fs.open("a") as file:
        file.seek(second.offset)
        file.read(1)
        assert read == [second.id]
        file.seek(0)
        file.read(first.length + 1)
        assert file.raw._chunks._kept[2].result() == LOG[third.offset : third.offset + third.length], "read ahead"
    monkeypatch.setattr("dfs.handles.READ_CACHE_BYTES_MAX", 1)  # the cache is bounded
    with fs.open("a") as file:
        assert b"".join(file) == LOG
        assert len(file.raw._chunks._kept) == 2


def test_threads_that_seek_and_read_do_not_disturb_each_other(fs: DfsFileSystem) -> None:
    fs.pipe("a", LOG)
    with fs.open("a") as file, ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for thread, at in ((one, 100), (other, 200_000)):
            assert thread.submit(file.seek, at).result() == at
        assert one.submit(file.tell).result() == 100
        assert one.submit(file.read, 10).result() == LOG[100:110]
        assert other.submit(file.read, 10).result() == LOG[200_000:200_010]
        assert file.read(5) == LOG[200_010:200_015], "who did not seek goes on"
        one.submit(file.seek, 7).result()
        assert other.submit(file.read, 3).result() == LOG[7:10], "one position, handed from thread to thread"
        assert one.submit(file.read, 3).result() == LOG[10:13]
        file.seek(0)
        lines = LOG.splitlines(keepends=True)
        assert [one.submit(file.readline).result(), file.readline()] == lines[:2]
        at = len(lines[0]) + len(lines[1])
        assert [file.seek(-2, whence) for whence in (1, 2)] == [at - 2, len(LOG) - 2]


def test_a_lost_chunk_fails_the_read_that_needs_it(fs: DfsFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    fs.pipe("a", LOG)
    *_, last = fs.store.chunks("a")
    real, broken = fs.store.read_chunk, [True]

    def read(id: str, path: str) -> bytes:
        if id == last.id and broken[0]:
            raise ChunkLost(f"chunk {id} of {path}")
        return real(id, path=path)

    monkeypatch.setattr(fs.store, "read_chunk", read)
    good, lost = fs.cat_ranges(["a", "a"], [0, 0], [last.offset, len(LOG)])
    assert good == LOG[: last.offset]
    assert isinstance(lost, ChunkLost)
    with fs.open("a") as file:
        with pytest.raises(ChunkLost, match="of a"):
            file.read()
        broken[0] = False
        file.seek(last.offset)
        assert file.read() == LOG[last.offset :]


def test_finding_with_depth_folders_and_prefix(fs: DfsFileSystem) -> None:
    paths = ["a/b/c/1", "a/b/2", "a/3", "a/b2/4", "5"]
    fs.pipe(dict.fromkeys(paths, b"x"))
    fs.mkdir("a/empty")
    local = {*paths, "a", "a/b", "a/b/c", "a/b2", "a/empty"}
    for depth in (None, 1, 2, 3, 9):
        for withdirs in (False, True):
            expected = [p for p in sorted(local) if p.startswith("a/") or (p == "a" and withdirs)]
            expected = [p for p in expected if withdirs or p in paths]
            expected = [p for p in expected if depth is None or p.count("/") <= depth]
            assert fs.find("a", maxdepth=depth, withdirs=withdirs) == expected, (depth, withdirs)
    assert fs.find("a", prefix="b") == ["a/b/2", "a/b/c/1", "a/b2/4"]
    assert fs.find("a", prefix="b/") == ["a/b/2", "a/b/c/1"]
    assert fs.find("5") == ["5"]
    fs.rm("a/3")
    fs.pipe("a/3", b"x")
    assert fs.find("a", withdirs=True, detail=True) == {p: fs.info(p) for p in local if p.startswith("a")}
    assert fs.ls("a") == [fs.info(p) for p in sorted(local) if p.startswith("a/") and p.count("/") == 1]
    assert fs.glob("a/**") == [p for p in sorted(local) if p.startswith("a")]
    assert fs.glob("a/*/") == ["a/b", "a/b2", "a/empty"]
    assert fs.glob("**/[1-3]") == ["a/3", "a/b/2", "a/b/c/1"]
    assert fs.du("", total=False, maxdepth=2) == {"5": 1, "a/3": 1}
    assert fs.expand_path("a/b", recursive=True) == ["a/b", "a/b/2", "a/b/c", "a/b/c/1"]
    with pytest.raises(ValueError, match="maxdepth"):
        fs.find("a", maxdepth=0)


def test_a_folder_is_put_in_one_transaction(fs: DfsFileSystem, tmp_path: Path) -> None:
    for i in range(30):
        (tmp_path / f"in/{i % 3}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"in/{i % 3}/{i}").write_bytes(b"%d" % i)
    (tmp_path / "in/empty").mkdir()
    fs.put(str(tmp_path / "in"), "in", recursive=True)
    assert fs.store.txn() == 1
    assert {int(path.rpartition("/")[2]): fs.cat_file(path) for path in fs.find("in")} == {
        i: b"%d" % i for i in range(30)
    }
    assert fs.isdir("in/empty")
    with pytest.raises(FileExistsError):
        fs.put(f"{tmp_path}/in/", "in", recursive=True, mode="create")
    fs.get("in/2/2", f"{tmp_path}/out/")
    fs.get("in", f"{tmp_path}/out", recursive=True)
    assert (tmp_path / "out/in/2/2").read_bytes() == (tmp_path / "out/2").read_bytes() == b"2"


def test_touch(fs: DfsFileSystem) -> None:
    fs.pipe("a", b"1")
    fs.touch("a", truncate=False)
    assert (fs.cat("a"), fs.info("a")["version"]) == (b"1", 2)
    fs.touch("a")
    assert fs.size("a") == 0


def half_written(fs: DfsFileSystem, how: str) -> None:
    with contextlib.ExitStack() as stack:
        match how:
            case "binary":
                file = stack.enter_context(fs.open("a", "wb"))
            case "text":
                file = stack.enter_context(fs.open("a", "w"))
            case "gzip":
                file = stack.enter_context(fs.open("a", "wb", compression="gzip"))
            case "OpenFile":
                file = stack.enter_context(fsspec.open("dfs://a", "wb", store=str(fs.store.path)))
            case "OpenFile text":
                file = stack.enter_context(fsspec.open("dfs://a", "wt", store=str(fs.store.path)))
            case "OpenFile gzip text":
                opened = fsspec.open("dfs://a", "wt", compression="gzip", store=str(fs.store.path))
                file = stack.enter_context(opened)
            case "closing":
                file = stack.enter_context(contextlib.closing(fs.open("a", "wb")))
        file.write("half" if "text" in how else b"half")
        raise KeyError(how)


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize(
    "how", ["binary", "text", "gzip", "OpenFile", "OpenFile text", "OpenFile gzip text", "closing"]
)
def test_what_an_exception_leaves_is_not_published(fs: DfsFileSystem, how: str, exists: bool) -> None:
    if exists:
        fs.pipe("a", b"whole")
    with pytest.raises(KeyError):
        half_written(fs, how)
    assert fs.find("") == (["a"] if exists else [])
    assert not exists or fs.cat("a") == b"whole"


def test_a_file_that_is_closed_in_a_handler_is_published(fs: DfsFileSystem) -> None:
    file = fs.open("log", "wb")
    try:
        raise KeyError
    except KeyError:
        file.write(b"what went wrong")
        file.close()
        with fsspec.open("dfs://report", "wb", store=str(fs.store.path)) as report:
            report.write(b"opened while an exception was handled")
    assert fs.find("") == ["log", "report"]


@pytest.mark.parametrize("mode", ["wb", "w"])
def test_a_file_that_is_forgotten_is_not_published(fs: DfsFileSystem, mode: str) -> None:
    file = fs.open("a", mode)
    file.write("x" if mode == "w" else b"x")
    del file
    gc.collect()
    assert not fs.exists("a")


def test_compression(fs: DfsFileSystem) -> None:
    for name, unpack in (("gzip", gzip.decompress), ("bz2", bz2.decompress), ("xz", lzma.decompress)):
        with fs.open(f"a.{name}", "wb", compression=name) as file:
            file.write(LOG)
        assert unpack(fs.cat(f"a.{name}")) == LOG
        with fs.open(f"a.{name}", "rb", compression=name) as file:
            assert file.read() == LOG
    with fs.open("b.gz", "w", compression="infer") as text:
        text.write("one\ntwo\n")
    with fs.open("b.gz", "r", compression="infer") as text:
        assert list(text) == ["one\n", "two\n"]
    with fsspec.open("dfs://c.zip", "wb", compression="zip", store=str(fs.store.path)) as file:
        file.write(LOG)
    with fsspec.open("dfs://c.zip", "rb", compression="zip", store=str(fs.store.path)) as file:
        assert file.read() == LOG


def test_a_file_left_open_fails_its_transaction(fs: DfsFileSystem) -> None:
    def leave_open() -> list[Any]:
        with fs.transaction:
            fs.pipe("closed", b"x")
            files.append(fs.open("open", "wb"))
        return files

    files: list[Any] = []
    with pytest.raises(UsageProblem, match="dfs://open"):
        leave_open()
    files[0].close()
    assert fs.find("") == []
    with pytest.raises(ValueError, match="closed"):
        files[0].write(b"late")
    fs.pipe("after", b"x")
    assert fs.find("") == ["after"]


def test_transactions_join_the_one_around_them(fs: DfsFileSystem) -> None:
    with fs.transaction:
        fs.pipe("a", b"1")
        with fs.transaction:
            fs.pipe("b", b"2")
        assert not fs.exists("b")

        def fail() -> None:
            with fs.transaction:
                fs.pipe("never", b"3")
                files.append(fs.open("half", "wb"))
                raise KeyError

        files: list[Any] = []
        with pytest.raises(KeyError):
            fail()
        with pytest.raises(KeyError):
            half_written(fs, "binary")  # handled inside: the rest is published
        fs.pipe("c", b"4")
    assert (fs.find(""), fs.store.txn()) == (["a", "b", "c"], 1)


def test_a_transaction_holds_every_kind_of_change(fs: DfsFileSystem) -> None:
    fs.pipe({"old/1": b"1", "gone": b"2", "moved": b"3"})
    with fs.transaction as transaction:
        fs.rm("gone")
        fs.mv("moved", "old/moved")
        fs.cp("old/1", "copy")
        fs.makedirs("empty/folder")
        with fs.open("text", "w") as file:
            file.write("4")
        assert len(transaction.changes) == 5
        with pytest.raises(FileExistsError):
            fs.open("text", "x")
    assert fs.store.txn() == 2
    assert fs.find("", withdirs=True) == ["copy", "empty", "empty/folder", "old", "old/1", "old/moved", "text"]


def test_a_transaction_that_cannot_be_published_changes_nothing(fs: DfsFileSystem) -> None:
    other = fsspec.filesystem("dfs", store=str(fs.store.path))

    def collide() -> None:
        with fs.transaction:
            fs.pipe("a", b"mine")
            with fs.open("b", "xb") as file:
                file.write(b"mine")
            other.pipe("b", b"theirs")

    with pytest.raises(FileExistsError):
        collide()
    assert fs.cat("", recursive=True) == {"b": b"theirs"}
    fs.start_transaction()
    fs.pipe("c", b"")
    fs.end_transaction()
    assert fs.exists("c")


def read_in_child(fs: DfsFileSystem, results: Any) -> None:
    with fs.open("from child", "wb") as file:
        file.write(fs.cat("a"))
    results.put((fs.store.path, fs.at, fs.cat_ranges(["a"], 0, 3)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_another_process(fs: DfsFileSystem, method: str) -> None:
    fs.pipe("a", LOG)
    assert fs.cat("a") == LOG  # threads and connections are there when it forks
    context = multiprocessing.get_context(method)
    results = context.Queue()
    child = context.Process(target=read_in_child, args=(fs, results))
    child.start()
    assert results.get(timeout=60) == (fs.store.path, None, [LOG[:3]])
    child.join(60)
    assert child.exitcode == 0
    assert fs.cat("from child") == LOG


def test_equal_file_systems_are_equal(fs: DfsFileSystem, tmp_path: Path) -> None:
    fs.pipe("a", b"1")
    other = pickle.loads(pickle.dumps(fs))
    assert other == fs
    assert (hash(other), other.fsid) == (hash(fs), fs.fsid)
    past = fsspec.filesystem("dfs", store=str(fs.store.path), at=1, version_aware=True)
    assert past != fs
    copy = pickle.loads(pickle.dumps(past))
    assert (copy, copy.at, copy.version_aware) == (past, 1, True)
    mapper = fs.get_mapper("map")
    mapper["k"] = b"v"
    assert (dict(mapper), mapper.get("nope")) == ({"k": b"v"}, None)
