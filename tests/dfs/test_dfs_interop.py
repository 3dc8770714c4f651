"""Other libraries on `dfs://`, and the page that tells how."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

import dfs
from dfs.errors import NotFound
from dfs.filesystem import DfsFileSystem

PAGE = Path(__file__).parents[2] / "docs" / "use-dfs-from.md"
FLIGHTS = Path(__file__).parents[3] / "shared" / "data" / "flights"


@pytest.fixture
def fs(own_state: None) -> Iterator[DfsFileSystem]:
    """The default store, of small chunks: what is read spans several."""
    dfs.init_store(os.environ["DFS_STORE"], chunk_bytes_avg=1 << 16, durability="none").close()
    made = fsspec.filesystem("dfs")
    yield made
    made.store.close()


# --- the page ---------------------------------------------------------------------------------------------------------


def blocks() -> list[tuple[str, str]]:
    return re.findall(r"```(python|sh)\n(.*?)```", PAGE.read_text(), re.DOTALL)


def run_python(code: str, names: dict[str, Any]) -> None:
    """Run a block; where a line ends with `# -> value`, its expression must have that value."""
    lines = code.splitlines()

    class Check(ast.NodeTransformer):
        def visit_Expr(self, node: ast.Expr) -> ast.AST:
            code, mark, expected = lines[(node.end_lineno or 1) - 1].rpartition("  # -> ")
            if not mark:
                return node
            check = ast.parse(f"assert repr(_) == {expected!r}, {code.strip()!r} + ' gives ' + repr(_)").body[0]
            kept = ast.Assign([ast.Name("_", ast.Store())], node.value)
            return ast.If(ast.Constant(True), [kept, check], [])

    tree = ast.fix_missing_locations(Check().visit(ast.parse(code)))
    exec(compile(tree, PAGE.name, "exec"), names)


def test_every_example_of_the_page_runs(fs: DfsFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    found = blocks()
    assert len(found) >= 9
    for language, code in found:
        if language == "python":
            run_python(code, names)
        else:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            done = subprocess.run(
                ["sh", "-ec", code], env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=100
            )
            assert done.returncode == 0, done.stderr
            assert "two\n" in done.stdout
            assert (tmp_path / "copy.log").read_text() == "one\ntwo\n"


def test_the_page_is_checked() -> None:
    run_python("1 + 1  # -> 2", {})
    with pytest.raises(AssertionError, match="gives 2"):
        run_python("if True:\n    1 + 1  # -> 3", {})


# --- pandas -----------------------------------------------------------------------------------------------------------


def test_pandas_reads_what_it_wrote(fs: DfsFileSystem) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"n": range(5000), "s": [f"{i * 7919}" for i in range(5000)]})
    frame.to_csv("dfs://p/a.csv", index=False)
    frame.to_csv("dfs://p/a.csv.gz", index=False)
    frame.to_parquet("dfs://p/a.parquet")
    frame.to_json("dfs://p/a.json", orient="records", lines=True)
    options = {"dtype": {"s": str}}
    assert pd.read_csv("dfs://p/a.csv", **options).equals(frame)
    assert pd.read_csv("dfs://p/a.csv.gz", **options).equals(frame)
    assert pd.read_parquet("dfs://p/a.parquet").equals(frame)
    assert pd.read_json("dfs://p/a.json", lines=True, **options).equals(frame)
    assert sum(len(part) for part in pd.read_csv("dfs://p/a.csv", chunksize=999)) == 5000
    past = {"at": fs.store.txn()}
    frame.head(1).to_parquet("dfs://p/a.parquet")
    assert len(pd.read_parquet("dfs://p/a.parquet", storage_options=past)) == 5000


def test_pandas_that_fails_leaves_what_was_there(fs: DfsFileSystem) -> None:
    pd = pytest.importorskip("pandas")

    class Unprintable:
        def __str__(self) -> str:
            raise KeyError("no text")

    fs.pipe("a.csv", b"good")
    bad = pd.DataFrame({"x": ["much text" * 1000] * 200 + [Unprintable()]})
    for path in ("dfs://a.csv", "dfs://new.csv", "dfs://new.csv.gz"):
        with pytest.raises(KeyError):
            bad.to_csv(path, chunksize=10)
    assert fs.find("") == ["a.csv"]
    assert fs.cat("a.csv") == b"good"


# --- pyarrow and Polars -----------------------------------------------------------------------------------------------


def numbers(count: int = 20_000) -> Any:
    import pyarrow as pa

    return pa.table({"n": range(count), "group": [i % 4 for i in range(count)], "text": [str(i) for i in range(count)]})


def test_pyarrow_datasets(fs: DfsFileSystem) -> None:
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.fs
    import pyarrow.parquet as pq

    files = dfs.arrow_filesystem()
    parts = ds.partitioning(pa.schema([("group", pa.int64())]), flavor="hive")
    ds.write_dataset(numbers(), "set", filesystem=files, format="parquet", partitioning=parts)
    found = ds.dataset("set", filesystem=files, partitioning="hive")
    assert (found.count_rows(), len(found.files)) == (20_000, 4)
    one = found.to_table(filter=(ds.field("group") == 2) & (ds.field("n") < 100), columns=["n"])
    assert sorted(one["n"].to_pylist()) == list(range(2, 100, 4))
    pq.write_table(numbers(), "one.parquet", filesystem=files)
    assert pq.read_table("one.parquet", filesystem=files, columns=["n"], pre_buffer=True)["n"].to_pylist() == list(
        range(20_000)
    )
    assert [info.type for info in files.get_file_info(["set", "one.parquet", "nope"])] == [
        *(pyarrow.fs.FileType.Directory, pyarrow.fs.FileType.File, pyarrow.fs.FileType.NotFound)
    ]
    files.copy_file("one.parquet", "copy.parquet")
    files.move("copy.parquet", "moved/copy.parquet")
    files.delete_dir("set")
    files.delete_file("one.parquet")
    with pytest.raises(OSError, match="not empty"):
        files.delete_file("moved")
    with files.open_append_stream("log") as stream:
        stream.write(b"x")
    assert fs.find("") == ["log", "moved/copy.parquet"]
    assert files == dfs.arrow_filesystem(os.environ["DFS_STORE"]) != dfs.arrow_filesystem(at=1)


def test_scan_parquet_reads_only_what_the_query_needs(fs: DfsFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    import polars as pl
    import pyarrow.parquet as pq

    rng_text = [os.urandom(20).hex() for _ in range(20_000)]  # fills chunks of its own
    table = numbers().append_column("filler", [rng_text])
    with fs.open("t/a.parquet", "wb") as file:
        pq.write_table(table, file, row_group_size=2_000)
    read: list[str] = []
    real = dfs.Store.read_chunk

    def counting(store: dfs.Store, chunk_id: str, *, path: str | None = None) -> bytes:
        read.append(chunk_id)
        return real(store, chunk_id, path=path)

    monkeypatch.setattr(dfs.Store, "read_chunk", counting)
    total = len(fs.store.chunks("t/a.parquet"))
    lazy = dfs.scan_parquet("t/a.parquet")
    query = lazy.filter((pl.col("n") >= 4_100) & (pl.col("n") < 4_103)).select("text")
    assert "SELECTION" in query.explain()
    assert query.collect()["text"].to_list() == ["4100", "4101", "4102"]
    assert total > 8
    assert len(set(read)) <= total // 2, "a row group and the footer"
    assert lazy.select(pl.col("n").sum(), pl.len()).collect().row(0) == (199_990_000, 20_000)
    assert lazy.collect()["filler"].to_list() == rng_text


def test_scan_parquet_takes_files_folders_and_moments(fs: DfsFileSystem) -> None:
    import polars as pl

    for number in (1, 2):
        with fs.open(f"t/{number}.parquet", "wb") as file:
            pl.DataFrame({"n": [number]}).write_parquet(file)
    fs.pipe("t/_SUCCESS", b"{}")
    for path in ("t", "t/*.parquet", ["t/1.parquet", "t/2.parquet"], "dfs://t/[12].parquet"):
        assert sorted(dfs.scan_parquet(path).collect()["n"].to_list()) == [1, 2]
    assert dfs.scan_parquet("t", at=1).collect()["n"].to_list() == [1]
    lazy = dfs.scan_parquet("t")
    fs.rm("t", recursive=True)
    assert lazy.select(pl.len()).collect().item() == 2, "the state of the call"
    for path in ("t", "t/*", ["t/1.parquet"]):
        with pytest.raises(NotFound):
            dfs.scan_parquet(path)


# --- DuckDB and Dask --------------------------------------------------------------------------------------------------


def test_duckdb_reads_and_writes(fs: DfsFileSystem) -> None:
    duckdb = pytest.importorskip("duckdb")
    database = duckdb.connect()
    database.register_filesystem(fs)
    database.sql("COPY (SELECT range n, range % 3 g FROM range(9999)) TO 'dfs://d/a.parquet'")
    database.sql("COPY (SELECT range n FROM range(100)) TO 'dfs://d/a.csv'")
    database.sql("COPY (SELECT range n, range % 3 g FROM range(9)) TO 'dfs://d/parts' (FORMAT parquet, PARTITION_BY g)")
    assert database.sql("SELECT sum(n), max(g) FROM 'dfs://d/a.parquet'").fetchall() == [(sum(range(9999)), 2)]
    assert database.sql("SELECT sum(n) FROM read_csv('dfs://d/*.csv')").fetchall() == [(4950,)]
    assert database.sql("SELECT count(*) FROM read_parquet('dfs://d/parts/*/*.parquet')").fetchall() == [(9,)]
    database.sql("SET threads = 4")  # they seek and read one Python file, without a lock
    many = "SELECT range n, hash(range) h, range::VARCHAR t FROM range(100_000)"
    database.sql(f"COPY ({many}) TO 'dfs://d/many.parquet' (ROW_GROUP_SIZE 4096)")
    answer = "SELECT sum(n), bit_xor(h), sum(t::BIGINT) FROM "
    assert database.sql(f"{answer} 'dfs://d/many.parquet'").fetchall() == database.sql(f"{answer} ({many})").fetchall()
    broken = "SELECT range n, if(range = 1900000, error('boom'), 'x') FROM range(2000000)"

    def copy() -> None:
        with fs.transaction:
            database.sql(f"COPY ({broken}) TO 'dfs://bad.csv'")

    with pytest.raises(duckdb.Error, match="boom"):
        copy()
    assert not fs.exists("bad.csv")


def test_dask_reads_and_writes(fs: DfsFileSystem) -> None:
    dask = pytest.importorskip("dask")
    bag, dd, pd = (pytest.importorskip(name) for name in ("dask.bag", "dask.dataframe", "pandas"))
    with dask.config.set(scheduler="threads", num_workers=2):
        words = [f"word {i}" for i in range(50)]
        bag.from_sequence(words, npartitions=5).to_textfiles("dfs://bag/*.txt.gz")
        assert sorted(bag.read_text("dfs://bag/*.txt.gz").str.strip().compute()) == sorted(words)
        fs.pipe("lines", b"".join(b"%d\n" % i for i in range(20_000)))
        assert bag.read_text("dfs://lines", blocksize=10_000).map(int).sum().compute() == sum(range(20_000))
        frame = pd.DataFrame({"n": range(1000), "g": [i % 4 for i in range(1000)]})
        dd.from_pandas(frame, npartitions=3).to_parquet("dfs://table")
        assert dd.read_parquet("dfs://table").groupby("g")["n"].sum().compute().to_dict() == {
            g: sum(range(g, 1000, 4)) for g in range(4)
        }


# --- known answers ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not FLIGHTS.exists(), reason="the flights data is not on this machine")
def test_all_libraries_agree_on_the_flights(fs: DfsFileSystem) -> None:
    duckdb = pytest.importorskip("duckdb")
    pd = pytest.importorskip("pandas")
    import polars as pl
    import pyarrow.dataset as ds

    local = pl.read_csv(FLIGHTS / "flights.csv.zst", null_values="NA")
    with fs.open("flights.parquet", "wb") as file:
        local.write_parquet(file, row_group_size=50_000)
    database = duckdb.connect()
    database.register_filesystem(fs)
    question = "SELECT count(*), sum(distance) FROM 'dfs://flights.parquet' WHERE origin = 'JFK'"
    frame = pd.read_parquet("dfs://flights.parquet", columns=["origin", "distance"])
    frame = frame[frame["origin"] == "JFK"]
    lazy = dfs.scan_parquet("flights.parquet").filter(pl.col("origin") == "JFK")
    table = ds.dataset("flights.parquet", filesystem=dfs.arrow_filesystem()).to_table(
        columns=["distance"], filter=ds.field("origin") == "JFK"
    )
    answers: dict[str, Callable[[], tuple[int, int]]] = {
        "duckdb": lambda: database.sql(question).fetchall()[0],
        "pandas": lambda: (len(frame), frame["distance"].sum()),
        "polars": lambda: lazy.select(pl.len(), pl.col("distance").sum()).collect().row(0),
        "pyarrow": lambda: (table.num_rows, sum(table["distance"].to_pylist())),
        "whole file": lambda: (
            pl.read_parquet(io.BytesIO(fs.cat("flights.parquet")))
            .filter(pl.col("origin") == "JFK")
            .select(pl.len(), pl.col("distance").sum())
            .row(0)
        ),
    }
    assert local.height == 336_776  # nycflights13
    assert {name: tuple(map(int, answer())) for name, answer in answers.items()} == dict.fromkeys(
        answers, (111_279, 140_906_931)
    )
