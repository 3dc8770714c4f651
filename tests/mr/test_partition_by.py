"""Outputs in folders named by column values: written, read back, and read by others that know Hive's folders."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from dataset_kit import shrink
from hypothesis import example, given, settings

import dfs
import mr
import mr.outlets.part
from mr.errors import OutputError, PlanError
from mr.kernels.hive import NULL_FOLDER, folder_of, split_by_folder, values_of
from mr.storage import open_store

DAY = dt.date(2026, 1, 1)
ROWS = [
    (0, "a/b", DAY),
    (1, "", None),
    (2, None, DAY),
    (3, "x=y", dt.date(1999, 12, 31)),
    (4, "é√", DAY),
    (5, "a/b", DAY),
    (6, NULL_FOLDER, None),
]
TYPES = {"n": int, "s": str, "day": dt.date}


@pytest.fixture
def data(inline: mr.Session) -> mr.Dataset:
    return mr.from_items(ROWS, names=TYPES)


def listed(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def by_n(dataset: mr.Dataset) -> list[Any]:
    return sorted(map(tuple, dataset.take_all()))


# --- what is written -------------------------------------------------------------------------------------------------


def test_each_value_has_a_folder_and_its_column_is_not_in_the_files(data: mr.Dataset, tmp_path: Path) -> None:
    result = data.write_parquet(str(tmp_path / "out"), partition_by="s")
    assert listed(tmp_path / "out") == [
        "_SUCCESS",
        f"s=%5F{NULL_FOLDER[1:]}/part-00000.parquet",
        "s=/part-00000.parquet",
        f"s={NULL_FOLDER}/part-00000.parquet",
        "s=a%2Fb/part-00000.parquet",
        "s=x%3Dy/part-00000.parquet",
        "s=é√/part-00000.parquet",
    ]
    table = pq.ParquetFile(tmp_path / "out" / "s=a%2Fb" / "part-00000.parquet").read()
    assert table.to_pydict() == {"n": [0, 5], "day": [DAY, DAY]}, "rows of a folder keep their order"
    assert result.outputs["out"].rows == len(ROWS)


def test_success_lists_the_files_of_all_folders(data: mr.Dataset, tmp_path: Path) -> None:
    data.write_csv(str(tmp_path / "out"), partition_by=["day", "s"])
    success = json.loads((tmp_path / "out" / "_SUCCESS").read_text())
    assert success["rows"] == len(ROWS) == sum(part["rows"] for part in success["parts"])
    assert sorted(part["name"] for part in success["parts"]) == listed(tmp_path / "out")[1:]
    assert f"day={NULL_FOLDER}/s=/part-00000.csv" in listed(tmp_path / "out")


def test_parts_are_numbered_by_tasks_within_each_folder(
    inline: mr.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink(monkeypatch)
    rows = [(i, "ab"[i // 4 % 2]) for i in range(16)]  # four tasks of four rows
    mr.from_items(rows, names=["n", "s"]).write_json(str(tmp_path / "out"), partition_by="s")
    assert listed(tmp_path / "out")[1:] == [f"s={s}/part-0000{i}.jsonl" for s in "ab" for i in (0, 1)]
    assert [json.loads(line)["n"] for line in (tmp_path / "out/s=b/part-00001.jsonl").open()] == [12, 13, 14, 15]


def test_an_append_adds_parts_with_new_numbers_in_old_and_new_folders(data: mr.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    data.filter(lambda row: row.n < 2).write_parquet(str(out), partition_by="s")
    before = {name: (out / name).read_bytes() for name in listed(out) if name != "_SUCCESS"}
    data.write_parquet(str(out), partition_by="s", mode="append")
    assert {name: (out / name).read_bytes() for name in before} == before
    assert {"s=a%2Fb/part-00001.parquet", "s=/part-00001.parquet", "s=é√/part-00000.parquet"} <= set(listed(out))
    assert Counter(by_n(mr.read_parquet(str(out)))) == Counter([*ROWS, *ROWS[:2]])
    assert json.loads((out / "_SUCCESS").read_text())["rows"] == len(ROWS) + 2


def test_an_append_never_replaces_a_file_that_it_does_not_know(data: mr.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    data.write_csv(str(out), partition_by="s")
    stranger = out / "s=" / "part-00001.csv"
    stranger.write_text("mine")
    with pytest.raises(OutputError, match=r"part-00001\.csv exists"):
        data.write_csv(str(out), partition_by="s", mode="append")
    assert stranger.read_text() == "mine"
    assert len(listed(out)) == 8


def test_without_rows_there_is_one_part_that_still_tells_all_columns(data: mr.Dataset, tmp_path: Path) -> None:
    data.filter(lambda row: False).write_parquet(str(tmp_path / "out"), partition_by="day")
    assert listed(tmp_path / "out") == ["_SUCCESS", "part-00000.parquet"]
    back = mr.read_parquet(str(tmp_path / "out"))
    assert (back.take_all(), back.schema().names) == ([], ["n", "s", "day"])
    data.write_parquet(str(tmp_path / "out"), partition_by="day", mode="append")
    assert by_n(mr.read_parquet(str(tmp_path / "out"))) == ROWS


def test_rows_that_do_not_fit_memory_give_the_same_files(
    data: mr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(i, f"s{i % 7}" if i % 5 else None, DAY) for i in range(1000)]
    mr.from_items(rows, names=TYPES).write_parquet(str(tmp_path / "held"), partition_by="s")
    seen = 0

    class Small(mr.outlets.part.Spool):
        def __init__(self, path: Path, memory_bytes: int, by: tuple[str, ...] = ()) -> None:
            super().__init__(path, 2000, by)

        def close(self) -> None:
            nonlocal seen
            seen = max(seen, len(self._files))
            super().close()

    monkeypatch.setattr(mr.outlets.part, "Spool", Small)
    with mr.Session(on="inline", reuse=False):
        pieces = mr.read_parquet(str(tmp_path / "held")).sort("n").map_batches(lambda b: b, batch_size=50)
        pieces.write_parquet(str(tmp_path / "spilled"), partition_by="s")
        again = by_n(mr.read_parquet(str(tmp_path / "spilled")))
    assert seen > 5, "nothing was spilled"
    assert again == sorted(rows, key=lambda row: row[0])
    for name in listed(tmp_path / "held")[1:]:
        assert (tmp_path / "held" / name).read_bytes() == (tmp_path / "spilled" / name).read_bytes()
    assert not [p for p in (tmp_path / "mr-home" / "runs").iterdir() if "spool" in p.name]


# --- reading back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["s", "day", ["day", "s"], ["s", "day"]])
def test_columns_come_back_with_their_types_and_in_their_places(data: mr.Dataset, tmp_path: Path, by: Any) -> None:
    data.write_parquet(str(tmp_path / "out"), partition_by=by)
    back = mr.read_parquet(str(tmp_path / "out"))
    assert back.schema() == data.schema()
    assert by_n(back) == ROWS


@pytest.mark.parametrize("format", ["csv", "json", "arrow"])
def test_other_formats_give_the_columns_of_folders_too(data: mr.Dataset, tmp_path: Path, format: str) -> None:
    rows = data.filter(lambda row: row.s)
    getattr(rows, f"write_{format}")(str(tmp_path / "out"), partition_by="day")
    back = getattr(mr, f"read_{format}")(str(tmp_path / "out"))
    assert by_n(back) == [row for row in ROWS if row[1]]
    assert back.schema().field("day").type == pa.date32()


def test_only_needed_columns_are_read_and_folders_alone_may_be_enough(data: mr.Dataset, tmp_path: Path) -> None:
    data.write_parquet(str(tmp_path / "out"), partition_by="day")
    back = mr.read_parquet(str(tmp_path / "out"))
    assert Counter(row.day for row in back.select("day").take_all()) == Counter(row[2] for row in ROWS)
    assert back.filter(lambda row: row.day == DAY).count() == 4


@pytest.mark.parametrize(
    ("folders", "type", "values"),
    [
        (["1", "-20", NULL_FOLDER], pa.int64(), {1, -20, None}),
        (["2026-01-01", "0001-01-01"], pa.date32(), {DAY, dt.date(1, 1, 1)}),
        (["01", "2"], pa.large_string(), {"01", "2"}),
        (["2026-01-01", "2026-02-30"], pa.large_string(), {"2026-01-01", "2026-02-30"}),
        (["1", "1.5"], pa.large_string(), {"1", "1.5"}),
        ([NULL_FOLDER], pa.large_string(), {None}),
    ],
)
def test_types_of_strange_folders_are_inferred(
    folders: list[str], type: Any, values: set[Any], tmp_path: Path, inline: mr.Session
) -> None:
    for folder in folders:
        (tmp_path / "in" / f"k={folder}").mkdir(parents=True)
        pq.write_table(pa.table({"n": [1]}), tmp_path / "in" / f"k={folder}" / "x.parquet")
    back = mr.read_parquet(str(tmp_path / "in"))
    assert back.schema().field("k").type == type
    assert {row.k for row in back.take_all()} == values
    declared = mr.read_parquet(str(tmp_path / "in"), schema={"k": str})
    assert {row.k for row in declared.take_all()} == {None if f == NULL_FOLDER else f for f in folders}


def test_what_the_user_names_itself_gives_no_column(data: mr.Dataset, tmp_path: Path) -> None:
    data.write_parquet(str(tmp_path / "out"), partition_by=["day", "s"])
    one = mr.read_parquet(str(tmp_path / "out" / "day=2026-01-01"))
    assert (one.schema().names, one.count()) == (["n", "s"], 4)
    some = mr.read_parquet(str(tmp_path / "out" / "day=2*" / "s=a*" / "*.parquet"))
    assert by_n(some) == [row for row in ROWS if row[1] == "a/b"]


def test_files_outside_of_folders_are_named(data: mr.Dataset, tmp_path: Path) -> None:
    data.write_parquet(str(tmp_path / "out"), partition_by="day")
    pq.write_table(pa.table({"n": [1], "s": ["x"]}), tmp_path / "out" / "stray.parquet")
    with pytest.raises(mr.JobFailed, match=r"stray\.parquet: it lies in no folder day="):
        mr.read_parquet(str(tmp_path / "out")).take_all()


def test_a_folder_that_does_not_fit_is_named(data: mr.Dataset, tmp_path: Path) -> None:
    data.write_parquet(str(tmp_path / "out"), partition_by="day")
    (tmp_path / "out" / "day=2026-01-01").rename(tmp_path / "out" / "day=soon")
    with pytest.raises(mr.JobFailed, match=r"day='soon' is not date; declare schema=\{'day': str\}"):
        mr.read_parquet(str(tmp_path / "out")).take_all()
    with pytest.raises(PlanError, match="'dya' is none of"):
        mr.read_parquet(str(tmp_path / "out"), schema={"dya": str})


def test_moving_a_file_to_another_folder_is_another_input(data: mr.Dataset, tmp_path: Path) -> None:
    data.write_parquet(str(tmp_path / "out"), partition_by="s")
    before = {row.s for row in mr.read_parquet(str(tmp_path / "out")).select("s").take_all()}
    (tmp_path / "out" / "s=é√").rename(tmp_path / "out" / "s=é√2")  # still the last
    after = {row.s for row in mr.read_parquet(str(tmp_path / "out")).select("s").take_all()}
    assert after == before - {"é√"} | {"é√2"}, "a recorded result was used for other values"


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"partition_by": "dya"}, "no column 'dya'; there are n, s, day"),
        ({"partition_by": ["n", "s", "day"]}, "all columns"),
        ({"partition_by": ["s", "s"]}, "twice"),
        ({"target_file_size": "much"}, "is not a size"),
        ({"target_file_size": 0}, "above 0"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(data: mr.Dataset, tmp_path: Path, options: Any, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        data.write_parquet(str(tmp_path / "out"), **options)
    with pytest.raises(PlanError, match="one file"):
        data.write_parquet(str(tmp_path / "out.parquet"), partition_by="s")


@pytest.mark.parametrize("value", [1.5, [1], b"x", dt.timedelta(1)])
def test_values_that_make_no_folder_are_refused(value: Any, tmp_path: Path, inline: mr.Session) -> None:
    data = mr.from_items([(1, value)], names=["n", "v"])
    with pytest.raises(PlanError, match="does not name folders; use"):
        data.write_parquet(str(tmp_path / "out"), partition_by="v")
    hidden = data.map(lambda row: (row.n, row.v))
    with pytest.raises((OutputError, mr.JobFailed), match=r"does not name folders|no column"):
        hidden.write_parquet(str(tmp_path / "out"), partition_by="v")


def test_a_name_too_long_for_a_folder_is_an_error_that_says_so(inline: mr.Session, tmp_path: Path) -> None:
    data = mr.from_items([(1, "x" * 300)], names=["n", "s"])
    with pytest.raises(mr.JobFailed, match="more than 255 bytes; partition by a shorter column"):
        data.write_parquet(str(tmp_path / "out"), partition_by="s")
    assert not (tmp_path / "out").exists()


def test_too_many_folders_of_a_task_are_refused(
    data: mr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mr.outlets.part, "PARTITIONS_PER_TASK_MAX", 6)
    with pytest.raises(mr.JobFailed, match="partition_by n: 7 folders of one task"):
        data.write_parquet(str(tmp_path / "out"), partition_by="n")


def test_outputs_in_each_others_partition_folders_are_refused(data: mr.Dataset, tmp_path: Path) -> None:
    @mr.job
    def two(a: str, b: str) -> Any:
        return [data.write_json(a, partition_by="s"), data.write_json(b)]

    with pytest.raises(PlanError, match="overlap"):
        two(f"{tmp_path}/out", f"{tmp_path}/out/s=a")
    data.write_json(f"{tmp_path}/out", partition_by="s")
    back = mr.read_json(f"{tmp_path}/out")
    with pytest.raises(PlanError, match="lies inside the input"):
        back.write_json(f"{tmp_path}/out/s=é√/more")
    with pytest.raises(OutputError, match="would replace it"):
        mr.read_json(f"{tmp_path}/out/s=é√").write_json(f"{tmp_path}/out", mode="overwrite")
    with pytest.raises(PlanError, match="lies inside the input"):
        back.write_json(f"{tmp_path}/out", mode="append")


# --- other places ----------------------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> Iterator[dict[str, Callable[[], str]]]:
    dfs.init_store(tmp_path / "dfs-store").close()
    open_store.cache_clear()
    yield {"dfs": lambda: "dfs://deep/out", "memory": lambda: "memory://partitioned/out"}
    fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize("place", ["dfs", "memory"])
def test_folders_in_a_store_and_behind_urls(place: str, data: mr.Dataset, places: Any) -> None:
    path = places[place]()
    data.write_parquet(path, partition_by=["day", "s"])
    assert by_n(mr.read_parquet(path)) == ROWS
    if place == "dfs":
        data.write_parquet(path, partition_by=["day", "s"], mode="append")
        assert Counter(by_n(mr.read_parquet(path))) == Counter([*ROWS, *ROWS])
        names = [info.path for info in open_store(None).find("deep/out")]
        assert sum(name.endswith("part-00001.parquet") for name in names) == 6


# --- any values ------------------------------------------------------------------------------------------------------

ODD = [
    "",
    "=",
    "a=b",
    "a/b",
    "..",
    ".",
    " ",
    "%41",
    "%",
    "é",
    "日本",
    "\n",
    "\x01",
    "{x}",
    NULL_FOLDER,
    "_x",
    "0",
    "true",
]
TEXTS = st.one_of(st.sampled_from(ODD), st.text(st.characters(exclude_categories=["Cs"]), max_size=6))
DATETIMES = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30))
COLUMNS: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    int: st.integers(-(2**63), 2**63 - 1),
    bool: st.booleans(),
    dt.date: st.dates(),
    pa.timestamp("us"): DATETIMES,
    pa.timestamp("us", "UTC"): DATETIMES.map(lambda t: t.replace(tzinfo=dt.UTC)),
    pa.decimal128(12, 3): st.integers(-(10**9), 10**9).map(lambda n: Decimal(n).scaleb(-3)),
}


@st.composite
def datasets(draw: Any) -> tuple[dict[str, Any], list[tuple[Any, ...]], list[str]]:
    types = draw(st.lists(st.sampled_from(list(COLUMNS)), min_size=1, max_size=3))
    names = draw(st.lists(TEXTS.filter(bool), min_size=len(types), max_size=len(types), unique=True))
    names = [name for name in names if name.lower() != "n"]
    types = types[: len(names)]
    values = st.tuples(*(st.one_of(st.none(), COLUMNS[type]) for type in types))
    rows = [(i, *found) for i, found in enumerate(draw(st.lists(values, max_size=12)))]
    by = draw(st.lists(st.sampled_from(names), unique=True, max_size=2)) if names else []
    return {"n": int, **dict(zip(names, types, strict=True))}, rows, by


@given(datasets())
@example(({"n": int, "_s": str}, [(0, "x"), (1, None), (2, "")], ["_s"]))
@settings(max_examples=25, deadline=None)
def test_any_values_come_back(tmp_path_factory: pytest.TempPathFactory, given_: Any) -> None:
    types, rows, by = given_
    out = tmp_path_factory.mktemp("any") / "out"
    with mr.Session(on="inline", home=out.with_name("home")):
        data = mr.from_items(rows, names=types)
        data.write_parquet(str(out), partition_by=by)
        back = mr.read_parquet(str(out))
        assert back.schema() == data.schema()
        assert by_n(back) == rows
    success = json.loads((out / "_SUCCESS").read_text())
    assert sum(pq.ParquetFile(out / part["name"]).metadata.num_rows for part in success["parts"]) == len(rows)


@given(st.lists(st.one_of(st.none(), TEXTS.filter(lambda text: text != NULL_FOLDER)), min_size=1, max_size=12))
@settings(max_examples=10, deadline=None)
def test_others_read_the_same_rows(tmp_path_factory: pytest.TempPathFactory, values: list[str | None]) -> None:
    out = tmp_path_factory.mktemp("others") / "out"
    rows = list(enumerate(values))
    with mr.Session(on="inline", home=out.with_name("home")):
        mr.from_items(rows, names={"n": int, "s": str}).write_parquet(str(out), partition_by="s")
    scheme = pads.HivePartitioning(pa.schema([("s", pa.string())]), null_fallback=NULL_FOLDER, segment_encoding="uri")
    arrow = pads.dataset(out, partitioning=scheme).to_table().to_pylist()
    assert sorted((row["n"], row["s"]) for row in arrow) == rows
    sql = f"SELECT n, s FROM read_parquet('{out}/**/*.parquet', hive_partitioning=true, hive_types={{'s': VARCHAR}})"
    assert sorted(duckdb.sql(sql).fetchall()) == rows


@given(st.lists(st.tuples(st.one_of(st.none(), TEXTS), st.one_of(st.none(), st.integers(0, 3))), max_size=30))
@settings(max_examples=60, deadline=None)
def test_splitting_by_folder_is_a_stable_partition(rows: list[tuple[Any, Any]]) -> None:
    schema = pa.schema([("s", pa.large_string()), ("k", pa.int64()), ("n", pa.int64())])
    data = pa.RecordBatch.from_pylist([{"s": s, "k": k, "n": n} for n, (s, k) in enumerate(rows)], schema=schema)
    found = split_by_folder(data, ["s", "k"])
    wanted: dict[str, list[int]] = {}
    for n, values in enumerate(rows):
        wanted.setdefault(folder_of(["s", "k"], values), []).append(n)
    assert [(folder, part.column("n").to_pylist()) for folder, part in found] == sorted(wanted.items())
    for folder in wanted:
        assert list(values_of(f"{folder}/x")) == ["s", "k"]


def test_types_that_python_cannot_tell_apart_stay_apart() -> None:
    assert folder_of(["b", "n"], [True, 1]) == "b=true/n=1"
    assert folder_of(["d"], [Decimal("1E+2")]) == "d=100"
    moment = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    assert folder_of(["t"], [moment]) == "t=2026-01-01 10%3A00%3A00+00%3A00"
