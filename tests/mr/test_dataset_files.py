"""Datasets in and out of files: every reader and writer, where paths may point, modes, and what is refused."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_kit import ident, in_order, shrink, write_lines
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dfs
import mr
from mr.errors import InputNotFound

fast = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), max_size=9)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, inline: mr.Session) -> None:
    shrink(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    return made


def success(out: Path) -> Any:
    return json.loads((out / "_SUCCESS").read_text())


# --- readers ---------------------------------------------------------------------------------------------------------


@fast
@given(st.lists(st.lists(text, max_size=6), min_size=1, max_size=3), st.booleans(), st.booleans(), st.integers(1, 60))
def test_lines_are_those_of_the_files_for_any_split(
    folder: Path, files: list[list[str]], crlf: bool, ended: bool, split: int
) -> None:
    for old in folder.iterdir():
        old.unlink()
    end, expected = "\r\n" if crlf else "\n", []
    for i, lines in enumerate(files):
        raw = end.join(lines) + end * ended
        (folder / f"{i}.txt").write_bytes(raw.encode())
        offset = 0
        for line in raw.removesuffix(end).split(end) if raw else []:
            expected.append((line, str(folder / f"{i}.txt"), offset))
            offset += len((line + end).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mr.inputs.LOCAL_SPLIT_BYTES", split)
        assert mr.read_text(str(folder)).take_all() == [line for line, _, _ in expected]
        placed = mr.read_text(str(folder), include_path=True, include_offset=True)
        assert [tuple(row) for row in placed.take_all()] == expected
        assert mr.read_text([str(folder / "0.txt")] * 2).count() == 2 * sum(p.endswith("0.txt") for _, p, _ in expected)


@fast
@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "a", "b", "é"]), st.sampled_from([None, 0.5, -0.0, 0.0, math.nan]), st.integers(0, 3)
        ),
        max_size=20,
    ),
    st.integers(1, 4),
    st.sampled_from(["broadcast", "sort_merge"]),
)
def test_rows_of_several_files_grouped_sorted_and_joined(folder: Path, rows: list[Any], files: int, how: Any) -> None:
    for old in folder.iterdir():
        old.unlink()
    names = ["k", "f", "i", "n"]
    records = [dict(zip(names, (*row, n), strict=True)) for n, row in enumerate(rows)]
    data = mr.read_json(write_lines(folder, records, files), schema={"k": str, "f": float, "i": int, "n": int})
    assert [row.n for row in data.take_all()] == list(range(len(rows)))
    ordered = [row["n"] for row in in_order(records, ["f", "k"], [True, False])]
    assert [row.n for row in data.sort("f", "k", descending=[True, False]).take_all()] == ordered
    groups: dict[Any, list[int]] = {}
    for row in records:
        groups.setdefault(ident((row["k"], row["f"])), []).append(row["n"])
    found = data.group_by("k", "f").map_groups(lambda key, rs: (*key, [r.n for r in rs]), names=["k", "f", "ns"])
    assert {ident((row.k, row.f)): row.ns for row in found.take_all()} == groups
    first = data.distinct("i").select("i", m="n")
    joined = data.join(first, on="i", strategy=how).select("n", "m").take_all()
    firsts = {row["i"]: row["n"] for row in reversed(records)}
    assert sorted(joined) == [(row["n"], firsts[row["i"]]) for row in records]


def test_text_options(folder: Path) -> None:
    (folder / "a.txt").write_bytes("é;b;".encode("latin-1") + b"c")
    assert mr.read_text(str(folder), encoding="latin-1", delimiter=";").take_all() == ["é", "b", "c"]
    assert mr.read_text(str(folder), delimiter=";").take_all() == ["\ufffd", "b", "c"]
    assert mr.read_text(str(folder), encoding_errors="ignore", delimiter=";").take_all() == ["", "b", "c"]
    with pytest.raises(mr.JobFailed, match=r"a\.txt, line 1, byte 0"):
        mr.read_text(str(folder), encoding_errors="strict", delimiter=";").take_all()
    skipped = mr.read_text(str(folder), encoding_errors="strict", delimiter=";", on_error="skip")
    assert skipped.take_all() == ["b", "c"]


def test_whole_files_and_bytes(folder: Path) -> None:
    (folder / "b").write_bytes(b"\xff\0")
    (folder / "a").write_text("one\ntwo\n")
    names = [str(folder / "a"), str(folder / "b")]
    assert mr.read_text_files(str(folder)).take_all() == [(names[0], "one\ntwo\n"), (names[1], "\ufffd\0")]
    assert mr.read_binary_files(str(folder)).take_all() == [(names[0], b"one\ntwo\n"), (names[1], b"\xff\0")]
    assert [type(v).__name__ for v in mr.read_binary_files(names).take_all()[0]] == ["str", "bytes"]


rows_of = st.lists(
    st.tuples(st.none() | text.filter(bool), st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | st.floats()),
    max_size=12,
)


@fast
@given(rows_of, st.integers(1, 3))
def test_csv_and_json_are_read_as_they_were_written(folder: Path, rows: list[Any], files: int) -> None:
    for old in folder.iterdir():
        old.unlink()
    size = -(-len(rows) // files)
    for i in range(files):
        part = rows[i * size : (i + 1) * size]
        with open(folder / f"{i}.csv", "w", newline="") as file:
            plain = [["" if v is None else repr(v) if isinstance(v, float) else v for v in row] for row in part]
            csv.writer(file).writerows([["t", "i", "f"], *plain])
        lines = [json.dumps(dict(zip("tif", row, strict=True))) + "\n" for row in part]
        (folder / f"{i}.json").write_text("".join(lines))
    schema = {"t": str, "i": int, "f": float}
    expected = [repr(row) for row in rows]
    assert [repr(tuple(r)) for r in mr.read_csv(str(folder / "*.csv"), schema=schema).take_all()] == expected
    assert [repr(tuple(r)) for r in mr.read_json(str(folder / "*.json"), schema=schema).take_all()] == expected


def test_types_are_inferred_once_and_pinned(folder: Path) -> None:
    (folder / "a.csv").write_text("d,n,x,b,t\n2026-01-02,1,0.5,true,a\n,,,,\n")
    data = mr.read_csv(str(folder))
    assert data.schema().types == [pa.date32(), pa.int64(), pa.float64(), pa.bool_(), pa.large_string()]
    (folder / "b.csv").write_text("d,n,x,b,t\n2026-01-02,oops,0.5,true,a\n")
    with pytest.raises(mr.JobFailed, match=r"(?s)b\.csv, line 2.*'n'.*schema="):
        mr.read_csv(str(folder)).take_all()
    assert mr.read_csv(str(folder), schema={"n": str}).select("n").take_all() == [("1",), (None,), ("oops",)]
    rejects = mr.read_csv(str(folder), on_error="quarantine")
    (bad,) = rejects.rejected().take_all()
    assert (bad.path, bad.line, bad.operator) == (str(folder / "b.csv"), 2, "read_csv")
    assert b"oops" in bad.raw
    (folder / "a.json").write_text('{"n": 1}\n{"n": 2, "m": "x"}\n')
    (folder / "b.json").write_text('{"n": "three"}\n')
    assert mr.read_json(str(folder / "a.json")).take_all() == [(1, None), (2, "x")]
    with pytest.raises(mr.JobFailed, match=r"(?s)b\.json, line 1.*'n'"):
        mr.read_json(str(folder / "*.json")).take_all()
    with pytest.raises(mr.PlanError, match=r"read_csv\(\): schema entry 'n': 3 is not a type"):
        mr.read_csv(str(folder), schema={"n": 3})


def test_csv_options(folder: Path) -> None:
    (folder / "a.csv").write_text('1;"x\ny"\nNA;z\n')
    rules: Any = {"header": False, "delimiter": ";", "null_values": ["NA"], "schema": {"n": int, "t": str}}
    assert mr.read_csv(str(folder), quoted_newlines=True, **rules).take_all() == [(1, "x\ny"), (None, "z")]
    with pytest.raises(mr.JobFailed, match="quoted_newlines"):
        mr.read_csv(str(folder), **rules).take_all()


def test_parquet_is_read_by_columns_and_row_groups(folder: Path) -> None:
    table = pa.table({"k": pa.array(["a", None, "b"] * 5), "n": range(15), "x": [0.5, None, float("inf")] * 5})
    pq.write_table(table, folder / "a.parquet", row_group_size=4)
    pq.write_table(table.slice(0, 0), folder / "b.parquet")
    pq.write_table(table.slice(3, 2), folder / "c.parquet")
    data = mr.read_parquet(str(folder))
    expected = [*table.to_pylist(), *table.slice(3, 2).to_pylist()]
    assert [row._asdict() for row in data.take_all()] == expected
    assert data.select("n").take_all() == [(row["n"],) for row in expected]
    sql = f"SELECT k, sum(n)::BIGINT, count(x) FROM '{folder}/*.parquet' GROUP BY k ORDER BY k NULLS LAST"
    found = data.group_by("k").agg(n=mr.sum("n"), c=mr.count("x")).sort("k")
    assert [tuple(row) for row in found.take_all()] == duckdb.connect().sql(sql).fetchall()
    assert data.filter(pl.col("n") > 9).group_by("k").agg(n=mr.count()).count() == 3
    (folder / "d.parquet").write_bytes(b"PAR1 this is none")
    with pytest.raises(mr.InputError, match=r"d\.parquet"):
        mr.read_parquet(str(folder)).take_all()


LOG = [
    '1.2.3.4 - - [10/Oct/2025:13:55:36 +0200] "GET /a HTTP/1.1" 200 12 "-" "curl"',
    "nonsense",
    '::1 - bob [31/Dec/2025:23:59:59 +0000] "POST /b?x HTTP/1.0" 404 - "http://r" "A \\"B\\""',
    "",
]


def test_access_log_with_what_does_not_parse(folder: Path) -> None:
    for name in ("a.log", "b.log"):
        (folder / name).write_text("\n".join(LOG) + "\n")
    with pytest.raises(mr.JobFailed, match=r"cannot parse at .*a\.log, line 2, byte 77.*nonsense"):
        mr.read_access_log(str(folder)).take_all()
    data = mr.read_access_log(str(folder), on_error="quarantine")
    rows = data.rejected().take_all()
    lines = [(Path(r.path).name, r.line, r.offset, r.raw, r.operator) for r in rows]
    bad = [(2, 77, b"nonsense"), (4, 86 + len(LOG[2]) + 1, b"")]
    assert lines == [(name, *b, "read_access_log") for name in ("a.log", "b.log") for b in bad]

    @mr.job
    def hours(out: str) -> Any:
        hits = mr.read_access_log(str(folder), on_error="quarantine", max_bad_records=0.5)
        return [
            hits.group_by("status").agg(n=mr.count()).write_csv(f"{out}/n.csv"),
            hits.rejected().write_json(f"{out}/bad"),
        ]

    result = hours(str(folder.parent / "out"))
    assert sorted((folder.parent / "out" / "n.csv").read_text().split()) == ["200,2", "404,2", "status,n"]
    assert result.outputs["bad"].rows == 4
    first = mr.read_access_log(str(folder), on_error="skip").first()
    assert (first.host, first.status, first.bytes, first.url) == ("1.2.3.4", 200, 12, "/a")
    assert first.time.isoformat() == "2025-10-10T11:55:36+00:00"


def test_what_is_rejected_does_not_depend_on_the_columns_that_are_used(folder: Path) -> None:
    (folder / "a.csv").write_text("a,b\n1,1\n2,x\ny,3\n4,4\n")
    (folder / "a.jsonl").write_text('{"a": 1, "b": 1}\n{"a": 2, "b": "x"}\nnonsense\n{"a": 4, "b": 4}\n')
    for read, name in ((mr.read_csv, "a.csv"), (mr.read_json, "a.jsonl")):
        data = read(str(folder / name), schema={"a": int, "b": int}, on_error="skip")
        assert data.count() == 2
        assert data.select("a").take_all() == data.select("b").take_all() == [(1,), (4,)]
    with pytest.raises(mr.JobFailed, match="read_csv rejected 2 of 4 records, more than max_bad_records=0"):
        mr.read_csv(str(folder / "a.csv"), schema={"a": int, "b": int}, on_error="skip", max_bad_records=0).count()


def test_rejects_behind_a_shuffle_have_no_place(folder: Path) -> None:
    (folder / "a.txt").write_text("b\na\n")
    sorted_lines = mr.read_text(str(folder)).sort("value")
    rejected = sorted_lines.map(int, on_error="quarantine").rejected().take_all()
    assert [(r.path, r.offset, r.line, r.raw) for r in rejected] == [(None, None, None, b"a"), (None, None, None, b"b")]


def test_rejects_of_functions_know_file_line_and_offset(folder: Path) -> None:
    """Over several splits of a file, packed small files and compressed ones."""
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text("".join(f"{n}\n" if n % 7 else "bad\n" for n in range(1, 30)))
    (folder / "c.txt.gz").write_bytes(gzip.compress((folder / "a.txt").read_bytes()))
    for packed in (0, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mr.inputs.PACKED_FILE_BYTES_MAX", packed)
            patch.setattr("mr.inputs.LOCAL_SPLIT_BYTES", 20 if not packed else 1 << 20)
            found = mr.read_text(str(folder)).map(int, on_error="quarantine").rejected().take_all()
        expected = []
        lines = (folder / "a.txt").read_text().splitlines()
        for name in ("a.txt", "b.txt", "c.txt.gz"):
            expected += [
                (name, sum(len(x) + 1 for x in lines[:i]), i + 1) for i, line in enumerate(lines) if line == "bad"
            ]
        assert [(Path(r.path).name, r.offset, r.line) for r in found] == expected
    with pytest.raises(mr.JobFailed, match=r"at .*a\.txt, line 7, byte 12 for record 'bad'"):
        mr.read_text(str(folder)).map(int).take_all()


# --- where paths may point -------------------------------------------------------------------------------------------


def test_folders_globs_lists_and_hidden_files(folder: Path) -> None:
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / ".hidden").mkdir()
    for name in ("b.txt", "a.txt", "sub/c.txt", "sub/deep/d.log", "sub/.hidden/x.txt", "_SUCCESS", ".swp", "empty.txt"):
        (folder / name).write_text(f"{name}\n" if name != "empty.txt" else "")

    def names(*paths: str | Path) -> list[str]:
        return mr.read_text([str(p) for p in paths]).take_all()

    assert names(folder) == ["a.txt", "b.txt", "sub/c.txt", "sub/deep/d.log"]
    assert names(folder / "*.txt") == ["a.txt", "b.txt"]
    assert names(folder / "**" / "*.txt") == ["a.txt", "b.txt", "sub/c.txt"]
    assert names(folder / "b.txt", folder / "a.txt", folder / "b.txt") == ["b.txt", "a.txt", "b.txt"]
    assert names(f"file://{folder}/a.txt") == ["a.txt"]
    assert names(folder / "empty.txt") == []
    assert mr.read_text(folder / "a.txt").take_all() == ["a.txt"]
    for nothing in (folder / "nope", folder / "*.nope"):
        with pytest.raises(InputNotFound, match="nope"):
            names(nothing)
    (folder / "void").mkdir()
    assert names(folder / "void") == []
    with pytest.raises(mr.PlanError, match="no path"):
        mr.read_text([])


@pytest.mark.parametrize("name", ["x.gz", "x.bz2", "x.xz", "x.zst"])
def test_compressed_text(folder: Path, name: str) -> None:
    raw = "".join(f"line {n}\n" for n in range(50)).encode()
    pack: dict[str, Callable[[bytes], bytes]] = {
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "xz": lzma.compress,
        "zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    }
    (folder / name).write_bytes(pack[name[2:]](raw))
    data = mr.read_text(str(folder), include_offset=True)
    assert [row.text for row in data.take_all()] == raw.decode().splitlines()
    assert data.take_all()[10].offset == 70
    (folder / name).write_bytes(pack[name[2:]](raw)[:-6])
    with pytest.raises((mr.JobFailed, mr.InputError), match=name):
        mr.read_text(str(folder)).take_all()


def test_a_url_that_nobody_can_read_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    with pytest.raises(mr.PlanError, match="s3x://b/x: Protocol not known: s3x"):
        mr.read_text("s3x://b/x").count()

    def refuses(self: MemoryFileSystem, path: str) -> bool:
        raise RuntimeError("no route to host")  # drivers raise what their HTTP library does

    monkeypatch.setattr(MemoryFileSystem, "isdir", refuses)
    with pytest.raises(mr.InputError, match="memory://far/x cannot be listed: RuntimeError: no route to host"):
        mr.read_text("memory://far/x").count()


def test_any_fsspec_url() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe(
        {"/mr-files/in/b.txt": b"b\n", "/mr-files/in/a.txt.gz": gzip.compress(b"a\n"), "/mr-files/in/_x": b"x\n"}
    )
    try:
        assert mr.read_text("memory://mr-files/in").take_all() == ["a", "b"]
        assert mr.read_text("memory://mr-files/in/*.txt").take_all() == ["b"]
        data = mr.from_items([(n, str(n)) for n in range(9)])
        data.write_parquet("memory://mr-files/out")
        data.write_csv("memory://mr-files/one.csv")
        assert mr.read_parquet("memory://mr-files/out").take_all() == data.take_all()
        assert memory.cat("/mr-files/one.csv").decode().splitlines()[:2] == ["key,value", "0,0"]
        assert json.loads(memory.cat("/mr-files/out/_SUCCESS"))["rows"] == 9
        again = data.write_parquet("memory://mr-files/out")
        assert (again.state, again.tasks_run) == ("up to date", 0)
        with pytest.raises(mr.OutputError, match="exists already"):
            data.filter(pl.col("key") > 6).write_parquet("memory://mr-files/out")
        data.filter(pl.col("key") > 6).write_parquet("memory://mr-files/out", mode="overwrite")
        assert mr.read_parquet("memory://mr-files/out").count() == 2
        with pytest.raises(mr.PlanError, match="append"):
            data.write_parquet("memory://mr-files/out", mode="append")
        with pytest.raises(InputNotFound):
            mr.read_text("memory://mr-files/nope").take_all()
    finally:
        memory.rm("/mr-files", recursive=True)


def test_the_store_in_and_out(tmp_path: Path) -> None:
    dfs.init_store(tmp_path / "dfs-store", nodes=[tmp_path / "n1", tmp_path / "n2"], replicas=2).close()
    system = fsspec.filesystem("dfs", store=str(tmp_path / "dfs-store"))
    lines = [f"line {n}" for n in range(100)]
    with system.open("dfs://logs/b.log", "wb") as file:
        file.write("\n".join(lines).encode() + b"\n")
    with system.open("dfs://logs/a.log", "wb") as file:
        file.write(b"first\nbad\n")
    assert mr.read_text("dfs://logs").take_all() == ["first", "bad", *lines]
    assert mr.read_text("dfs://logs/b*").take_all() == lines

    @mr.job
    def both(out: str) -> Any:
        numbers = mr.read_text("dfs://logs").map(lambda t: int(t.split()[1]), names="n", on_error="quarantine")
        return [numbers.write_parquet(f"{out}/numbers"), numbers.rejected().write_csv(f"{out}/bad.csv")]

    result = both("dfs://results")
    assert result.outputs["numbers"].rows == 100
    assert mr.read_parquet("dfs://results/numbers").take_all() == list(range(100))
    bad = mr.read_csv("dfs://results/bad.csv").select("path", "offset", "line", "raw").take_all()
    assert bad == [("dfs://logs/a.log", 0, 1, "first"), ("dfs://logs/a.log", 6, 2, "bad")]
    assert {row.rsplit("/")[-1] for row in system.find("dfs://results/numbers")} >= {"_SUCCESS", "part-00000.parquet"}
    assert both("dfs://results").state == "up to date"
    with pytest.raises(mr.OutputError, match="exists already"):
        mr.from_items([1]).write_parquet("dfs://results/numbers")
    mr.from_items([1], names="n").write_parquet("dfs://results/numbers", mode="append")
    assert mr.read_parquet("dfs://results/numbers").take_all() == [*range(100), 1]
    mr.from_items([2]).write_parquet("dfs://results/numbers", mode="overwrite")
    assert mr.read_parquet("dfs://results/numbers").take_all() == [2]
    for nothing in ("dfs://nope", "dfs://nope/*"):
        with pytest.raises(InputNotFound, match="dfs ls"):
            mr.read_text(nothing).take_all()
    with pytest.raises(mr.PlanError, match="below dfs://"):
        mr.from_items([1]).write_parquet("dfs://")


def test_a_store_that_does_not_exist() -> None:
    with pytest.raises(dfs.DfsError) as caught:
        mr.read_text("dfs://logs").take_all()
    assert caught.value.exit_code == 10


# --- writers ---------------------------------------------------------------------------------------------------------

DATA = [(n, None if n % 3 else f"t,{n}", n / 4) for n in range(10)]
NAMES = ["n", "t", "x"]


@pytest.mark.parametrize("kind", ["parquet", "csv", "json"])
@pytest.mark.parametrize("one_file", [True, False])
def test_what_is_written_is_read_again(kind: str, one_file: bool, tmp_path: Path) -> None:
    path = tmp_path / ("out." + kind if one_file else "out")
    data = mr.from_items(DATA, names=NAMES)
    report = getattr(data, f"write_{kind}")(str(path)).outputs["out"]
    assert getattr(mr, f"read_{kind}")(str(path)).take_all() == DATA
    reader = {"parquet": "read_parquet", "csv": "read_csv", "json": "read_json_auto"}[kind]
    extension = {"json": "jsonl"}.get(kind, kind)
    files = str(path) if one_file else f"{path}/part-*.{extension}"
    assert duckdb.connect().sql(f"SELECT n, t, x FROM {reader}('{files}') ORDER BY n").fetchall() == DATA
    assert report.rows == 10
    if one_file:
        assert report.bytes == path.stat().st_size
        assert sorted(p.name for p in tmp_path.iterdir() if p.name != "mr-home") == [path.name]
    else:
        parts = [f"part-{i:05d}.{extension}" for i in range(3)]
        assert sorted(p.name for p in path.iterdir()) == ["_SUCCESS", *parts]
        listed = success(path)
        assert [(p["name"], p["rows"]) for p in listed["parts"]] == list(zip(parts, [4, 4, 2], strict=True))
        assert listed["rows"] == 10
        assert report.files == 3


def test_text_and_values(tmp_path: Path) -> None:
    mr.from_items(["a", "b c"]).write_text(str(tmp_path / "out.txt"))
    assert (tmp_path / "out.txt").read_text() == "a\nb c\n"
    mr.from_items([1, 2]).write_parquet(str(tmp_path / "values"))
    assert mr.read_parquet(str(tmp_path / "values")).take_all() == [1, 2]  # the kind is kept
    with pytest.raises((mr.PlanError, mr.OutputError), match="'value'"):
        mr.from_items([1]).write_text(str(tmp_path / "ints"))
    with pytest.raises(mr.PlanError):
        mr.from_items([("a", "b")]).write_text(str(tmp_path / "rows"))


def test_csv_and_text_refuse_nested_columns_and_name_a_cure(tmp_path: Path) -> None:
    nested = mr.from_items([("a", [1])])
    with pytest.raises(mr.PlanError, match=r"'value'.*(explode|join|json|str)"):
        nested.write_csv(str(tmp_path / "out"))
    late = nested.map(lambda row: row)
    with pytest.raises((mr.OutputError, mr.JobFailed), match="'value'"):
        late.write_csv(str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    nested.write_json(str(tmp_path / "out.json"))
    assert (tmp_path / "out.json").read_text() == '{"key":"a","value":[1]}\n'


@pytest.mark.parametrize("kind", ["parquet", "csv", "json"])
def test_an_empty_result_is_one_part_without_rows(kind: str, tmp_path: Path, folder: Path) -> None:  # F46
    (folder / "empty.txt").write_text("")
    data = mr.read_text(str(folder)).map(lambda line: (line, 1), names={"w": str, "n": int})
    for name, made in {"map": data, "agg": data.group_by("w").agg(n=mr.sum("n")), "sort": data.sort("n")}.items():
        report = getattr(made, f"write_{kind}")(str(tmp_path / name)).outputs[name]
        assert (report.rows, report.files) == (0, 1)
        (part,) = (tmp_path / name).glob("part-*")
        if kind == "parquet":
            assert pq.read_schema(part).names == ["w", "n"]
            assert mr.read_parquet(str(tmp_path / name)).take_all() == []
        if kind == "csv":
            assert part.read_text() == "w,n\n"
    one = mr.from_items(DATA, names=NAMES).filter(pl.col("n") > 99)
    getattr(one, f"write_{kind}")(str(tmp_path / f"one.{kind}"))
    assert (tmp_path / f"one.{kind}").exists()


@pytest.mark.parametrize("kind", ["parquet", "csv", "json", "text"])
def test_parts_whose_columns_no_record_told(kind: str, tmp_path: Path, folder: Path) -> None:  # F46
    """Tasks without output, of a function that declares nothing, beside others that have some; and nothing at all."""
    some = mr.from_items(list(range(12))).flat_map(lambda n: [str(n)] if n == 5 else [])
    report = getattr(some, f"write_{kind}")(str(tmp_path / "some")).outputs["some"]
    assert (report.rows, report.files) == (1, 1)
    assert len(list((tmp_path / "some").glob("part-*"))) == 1
    none = mr.from_items(list(range(12))).flat_map(lambda n: [])
    report = getattr(none, f"write_{kind}")(str(tmp_path / "none")).outputs["none"]
    assert (report.rows, report.files) == (0, 1)
    (part,) = (tmp_path / "none").glob("part-*")
    assert part.read_bytes() == b"" if kind != "parquet" else mr.read_parquet(str(part)).count() == 0


def test_modes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    one, two = mr.from_items([(1, 1)]), mr.from_items([(2, 2)])
    one.write_parquet(str(out))
    with pytest.raises(mr.OutputError, match=r"exists already; use --overwrite or --append"):
        two.write_parquet(str(out))
    two.write_parquet(str(out), mode="append")
    assert sorted(p.name for p in out.iterdir()) == ["_SUCCESS", "part-00000.parquet", "part-00001.parquet"]
    assert mr.read_parquet(str(out)).take_all() == [(1, 1), (2, 2)]
    assert success(out)["rows"] == 2
    two.write_parquet(str(out), mode="append")  # once more is twice
    assert mr.read_parquet(str(out)).count() == 3
    two.write_parquet(str(out), mode="overwrite")
    assert mr.read_parquet(str(out)).take_all() == [(2, 2)]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".out")]
    with pytest.raises(mr.PlanError, match="append needs a folder"):
        one.write_parquet(str(tmp_path / "x.parquet"), mode="append")
    one.write_parquet(str(tmp_path / "new"), mode="append")  # to nothing is writing
    assert mr.read_parquet(str(tmp_path / "new")).count() == 1
    one.write_csv(str(tmp_path / "f.csv"))
    with pytest.raises(mr.OutputError, match="exists already"):
        two.write_csv(str(tmp_path / "f.csv"))
    two.write_csv(str(tmp_path / "f.csv"), mode="overwrite")
    assert (tmp_path / "f.csv").read_text() == "key,value\n2,2\n"


def test_an_unchanged_output_of_the_same_job_is_up_to_date(tmp_path: Path) -> None:
    out = tmp_path / "out"

    @mr.job
    def doubles(path: str, n: int) -> Any:
        return mr.from_items(range(n)).map(lambda v: v * 2).write_json(path)

    assert doubles(str(out), 5).state == "done"
    again = doubles(str(out), 5)
    assert (again.state, again.tasks_run, again.outputs["out"].rows) == ("up to date", 0, 5)
    with pytest.raises(mr.OutputError, match="exists already"):
        doubles(str(out), 6)
    os.utime(next(out.glob("part-*")), ns=(1, 1))
    with pytest.raises(mr.OutputError, match="exists already"):
        doubles(str(out), 5)  # somebody touched it


def test_what_was_there_is_never_half_replaced(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    data = mr.from_items([1])
    data.write_json(str(out))  # an empty folder is nothing
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    for mode in ("error", "overwrite", "append"):
        with pytest.raises(mr.OutputError):
            data.write_json(str(tmp_path / "other"), mode=mode)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(mr.OutputError, match="is a file"):
        data.write_json(str(tmp_path / "file"), mode="overwrite")
    with pytest.raises(mr.OutputError, match=r"is not a folder|cannot be written"):
        data.write_json(str(tmp_path / "file" / "below"))
    (tmp_path / "dir.json").mkdir()
    with pytest.raises(mr.OutputError, match="is a folder"):
        data.write_json(str(tmp_path / "dir.json"), mode="overwrite")

    def fails(n: int) -> int:
        raise ValueError(n)

    with pytest.raises(mr.JobFailed):
        data.map(fails).write_json(str(out), mode="overwrite")
    assert mr.read_json(str(out)).count() == 1
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_outputs_must_not_overlap_nor_lie_in_an_input(tmp_path: Path, folder: Path) -> None:
    source = write_lines(folder, [{"n": n} for n in range(5)], 2)

    @mr.job
    def two(a: str, b: str) -> Any:
        data = mr.read_json(source)
        return [data.write_json(a), data.write_json(b)]

    for a, b in (
        (f"{tmp_path}/x", f"{tmp_path}/x/y"),
        (f"{tmp_path}/x", f"{tmp_path}/x"),
        (f"{tmp_path}/x/../z", f"{tmp_path}/z"),
    ):
        with pytest.raises(mr.PlanError, match="overlap"):
            two(a, b)
    assert two(f"{tmp_path}/x", f"{tmp_path}/xy").state == "done"  # a prefix of the name is no folder of it
    data = mr.read_json(source)
    for inside in (source, f"{source}/out", f"{source}/deep/out"):
        with pytest.raises((mr.PlanError, mr.OutputError), match="input"):
            data.write_json(inside)
    for pattern, inside in (("*", "out"), ("*.json", "x.json"), ("../in/*", "out"), ("**/*.json", "out/deep")):
        with pytest.raises((mr.PlanError, mr.OutputError), match="input"):
            mr.read_json(f"{source}/{pattern}").write_json(f"{source}/{inside}")
    with pytest.raises((mr.PlanError, mr.OutputError), match="input"):
        data.write_json(str(folder.parent), mode="overwrite")
    assert len(list(folder.iterdir())) == 2


def test_jobs_name_their_outputs_and_return_all_they_declare(tmp_path: Path) -> None:
    data = mr.from_items([1])

    @mr.job
    def forgets(out: str) -> Any:
        data.write_json(f"{out}/a")
        return data.write_json(f"{out}/b")

    with pytest.raises(mr.PlanError, match=r"test_dataset_files\.py:\d+.*/a is declared but not returned"):
        forgets(str(tmp_path))

    @mr.job
    def returns(out: str, what: str) -> Any:
        made = data.write_json(f"{out}/{what}")
        return {"one": made, "dict": {"first": made}, "list": [made], "none": None, "data": data}[what]

    assert list(returns(str(tmp_path), "one").outputs) == ["one"]
    assert list(returns(str(tmp_path), "dict").outputs) == ["first"]
    assert list(returns(str(tmp_path), "list").outputs) == ["list"]
    for wrong in ("none", "data"):
        with pytest.raises(mr.PlanError, match=r"return ds\.write_"):
            returns(str(tmp_path), wrong)

    @mr.job
    def looks(out: str) -> Any:
        many = data.union(data).count()  # an action inside a job
        return data.map(lambda v: v + many).write_json(out)

    looks(str(tmp_path / "looks"))
    assert mr.read_json(str(tmp_path / "looks")).take_all() == [(3,)]


def test_one_parse_feeds_several_outputs(tmp_path: Path, folder: Path) -> None:
    source = write_lines(folder, [{"k": n % 3, "n": n} for n in range(20)], 2)

    def parse(row: Any) -> tuple[int, int]:
        mr.counter("parsed").add()
        return row.k, row.n

    @mr.job
    def outputs(out: str) -> Any:
        rows = mr.read_json(source).map(parse, names={"k": int, "n": int})
        return {
            "raw": rows.write_json(f"{out}/raw"),
            "sums": rows.group_by("k").agg(n=mr.sum("n")).write_csv(f"{out}/sums.csv"),
            "top": rows.top_k(2, by="n").write_csv(f"{out}/top.csv"),
            "few": rows.limit(3).write_csv(f"{out}/few.csv"),
        }

    result = outputs(str(tmp_path / "out"))
    assert result.counters == {"parsed": 20}
    assert {name: output.rows for name, output in result.outputs.items()} == {"raw": 20, "sums": 3, "top": 2, "few": 3}
    assert (tmp_path / "out" / "few.csv").read_text() == "k,n\n0,0\n1,1\n2,2\n"
    assert (tmp_path / "out" / "top.csv").read_text() == "k,n\n1,19\n0,18\n"
    sums = sorted((tmp_path / "out" / "sums.csv").read_text().splitlines())
    assert sums == ["0,63", "1,70", "2,57", "k,n"]


def test_a_sorted_output_is_sorted_over_its_parts(tmp_path: Path) -> None:
    data = mr.from_items([(n * 37 % 101, str(n)) for n in range(101)])
    data.sort("key").write_csv(str(tmp_path / "out"))
    parts = sorted((tmp_path / "out").glob("part-*"))
    assert len(parts) > 1
    keys = [int(line.split(",")[0]) for part in parts for line in part.read_text().splitlines()[1:]]
    assert keys == list(range(101))
