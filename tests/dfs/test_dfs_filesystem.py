"""`dfs://` through fsspec."""

from __future__ import annotations

import itertools
import pickle
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import fsspec
import pytest
from fsspec.core import OpenFile

import dfs
from dfs.codec import Record
from dfs.errors import AlreadyExists, Conflict, NotEnoughNodes, NotFound, UsageProblem, WrongKind
from dfs.filesystem import DfsFileSystem

LOG = b"".join(b"%d line of a log %d\n" % (i, i * 7919 % 10007) for i in range(12_000))


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[DfsFileSystem]:
    nodes = [tmp_path / f"n{i}" for i in range(3)]
    dfs.init_store(tmp_path / "s", nodes=nodes, replicas=2, chunk_bytes_avg=1 << 15).close()
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

    def fail_once(records: Sequence[Record]) -> list[bool]:
        if next(calls) == 1:
            raise NotEnoughNodes("disk full")
        return real(records)

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


def test_duckdb_reads_parquet_of_the_store(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    import pyarrow as pa
    import pyarrow.parquet as pq

    with dfs.init_store(tmp_path / "s"):
        fs = fsspec.filesystem("dfs", store=str(tmp_path / "s"))
        with fs.open("t.parquet", "wb") as file:
            pq.write_table(pa.table({"n": [1, 2, 3]}), file)
        assert abs(time.time() - fs.modified("t.parquet").timestamp()) < 600
        database = duckdb.connect()
        database.register_filesystem(fs)
        assert database.sql("SELECT sum(n) FROM read_parquet('dfs://t.parquet')").fetchall() == [(6,)]
