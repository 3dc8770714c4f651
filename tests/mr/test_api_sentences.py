"""Sentences of the user's interface that span several operators, and what a wrong argument says: one clear line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import mr
from mr.dataset import Dataset


@pytest.fixture(autouse=True)
def _inline(tmp_path: Path) -> Iterator[None]:
    with mr.Session(on="inline", home=tmp_path / "home"):
        yield


def sample() -> Dataset:
    return mr.from_items([("a", 1, [1]), ("b", 2, []), ("a", 3, None)], names={"k": str, "v": int, "many": list[int]})


REFUSED: dict[str, tuple[Callable[[Dataset], Any], str]] = {
    "negative top_k": (lambda d: d.top_k(-1, by="v"), "top_k(): k=-1 is not a whole number from 0"),
    "negative group top_k": (lambda d: d.group_by("k").top_k(-1, by="v"), "top_k(): k=-1 is not a whole number from 0"),
    "negative take": (lambda d: d.take(-1), "take(): n=-1 is not a whole number from 0"),
    "swapped top_k": (lambda d: d.top_k("v", 2), "top_k(): 2 is not the name of a column"),  # type: ignore[arg-type]
    "limit of a string": (lambda d: d.limit("2"), "limit(): n='2' is not a whole number from 0"),  # type: ignore[arg-type]
    "sample of a string": (lambda d: d.sample("x"), "sample(): fraction= is from 0 to 1, not 'x'"),  # type: ignore[arg-type]
    "partitions": (lambda d: d.repartition("k"), "num_partitions='k' is not a whole number"),  # type: ignore[arg-type]
    "nothing selected": (lambda d: d.select(), "select(): name at least one column"),
    "sort by a list": (lambda d: d.sort(["k", "v"]), "['k', 'v'] is not the name of a column; give the columns one by"),  # type: ignore[arg-type]
    "sort by an expression": (lambda d: d.sort(pl.col("v")), 'sort(): col("v") is not the name of a column'),  # type: ignore[arg-type]
    "direction": (lambda d: d.sort("v", descending="yes"), "sort(): descending='yes' is neither"),  # type: ignore[arg-type]
    "join by an expression": (lambda d: d.join(d, on=pl.col("k")), 'join() on the left: col("k") is not the name'),  # type: ignore[arg-type]
    "join with a list": (lambda d: d.join([1], on="k"), "join(): a Dataset is needed, not list"),  # type: ignore[arg-type]
    "union of types": (
        lambda d: d.select(x="k").union(d.select(x="v")),
        "union(): 'x' is str in one dataset and int in",
    ),
    "union with groups": (lambda d: d.union(d.group_by("k")), "union(): a Dataset is needed, not GroupedDataset"),  # type: ignore[arg-type]
    "cogroup with a list": (lambda d: d.cogroup([1], on="k"), "cogroup(): a Dataset is needed, not list"),  # type: ignore[arg-type]
    "map of an expression": (lambda d: d.map(pl.col("v")), 'map(): col("v") is not a function; select(), with_col'),  # type: ignore[arg-type]
    "map_groups of a name": (lambda d: d.group_by("k").map_groups("v"), "map_groups(): 'v' is not a function"),  # type: ignore[arg-type]
    "reducer": (lambda d: d.map_reduce(len, None), "map_reduce(): None is not a function"),  # type: ignore[arg-type]
    "reduce_by_key column": (lambda d: d.reduce_by_key(max, key="x"), "reduce_by_key(): no column 'x'"),
    "Polars len": (lambda d: d.group_by("k").agg(n=pl.len()), "use n=mr.count()"),  # type: ignore[arg-type]
    "type of a sum": (lambda d: d.agg(s=mr.sum("k")), "sum of 'k': values of type str cannot be added"),
    "bins": (lambda d: d.agg(h=mr.histogram("v", 5)), "histogram(): bins=5 are not edges"),  # type: ignore[arg-type]
    "path": (lambda _: mr.read_text(5), "read_text(): a path is a str, not 5"),  # type: ignore[arg-type]
    "paths": (lambda _: mr.read_text([None]), "read_text(): a path is a str, not None"),  # type: ignore[list-item]
    "names": (lambda d: d.map(str, names=5), "names=[5]: column names are strings"),  # type: ignore[arg-type]
    "group by lists": (lambda d: d.group_by("many"), "group_by(): 'many' is of type list[int] and cannot be a key: "),
    "join by lists": (lambda d: d.join(d, on="many"), "join() on the left: 'many' is of type list[int] and cannot"),
    "sort by lists": (lambda d: d.sort("many"), "sort(): 'many' is of type list[int] and cannot be a key"),
    "distinct lists": (lambda d: d.distinct(), "distinct(): 'many' is of type list[int] and cannot be a key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_argument_is_a_plan_error_of_one_line(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(mr.PlanError) as raised:
        call(sample())
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda d: d.groupByKey, "use group_by(...).map_groups(fn)"),
        (lambda d: d.group_by("k").take_all, "it has agg, count, head, map_batches, map_groups, top_k"),
        (lambda d: d.group_by("k").sort_by, "it has agg, count, head, map_batches, map_groups, top_k"),
        (lambda d: d.group_by("k").sum, 'use agg(x=mr.sum("x"))'),
        (lambda d: d.cogroup(d, on="k").agg, "it has map_groups"),
        (lambda _: mr.read_jsonl, "use mr.read_json"),  # type: ignore[attr-defined]
    ],
)
def test_a_hint_names_a_method_that_is_there(call: Callable[[Dataset], Any], hint: str) -> None:
    with pytest.raises(AttributeError) as raised:
        call(sample())
    assert str(raised.value).endswith(hint)


def test_one_null_value_is_a_string_not_its_letters(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("host,n\nN,NA\nA,1\n")
    data = mr.read_csv(str(tmp_path / "a.csv"), null_values="NA")
    assert data.take_all() == [("N", None), ("A", 1)]


def test_a_time_of_day_in_nanoseconds_that_python_does_not_hold_is_refused() -> None:
    assert mr.from_polars(pl.Series("t", [1_000], dtype=pl.Time).to_frame()).take_all() == [(time(0, 0, 0, 1),)]
    with pytest.raises(mr.TypeConflict, match=r"time64\[ns\] become time here: .*would lose data"):
        mr.from_polars(pl.Series("t", [1], dtype=pl.Time).to_frame())


def test_a_union_of_ints_and_floats_is_written_in_one_type(tmp_path: Path) -> None:
    both = mr.from_items([1]).union(mr.from_items([2.5]), mr.from_items([None]))
    both.write_parquet(str(tmp_path / "out"))
    assert mr.read_parquet(str(tmp_path / "out")).take_all() == [1.0, 2.5, None]
    assert both.group_by("value").count().sort("value").take_all() == [(1.0, 1), (2.5, 1), (None, 1)]


def test_a_union_widens_no_int_that_no_float_holds() -> None:
    with pytest.raises(mr.MillraceError, match="9007199254740993"):
        mr.from_items([2**53 + 1]).union(mr.from_items([0.5])).take_all()


def test_an_expression_that_fails_is_shown_as_the_user_wrote_it() -> None:
    with pytest.raises(mr.MillraceError) as raised:
        sample().select(z=pl.col("k").cast(pl.Int64)).take_all()
    assert 'col("k").strict_cast(Int64).alias("z"): conversion from `str` to `i64` failed' in str(raised.value)


def bad(*_: Any) -> Any:
    raise ValueError("no")


def of_lists(data: Dataset) -> Dataset:
    return data.map(lambda row: ([1], 2), names=["a", "b"])


def halved(key: Any, n: int) -> float:
    return n / 2


def pair(row: Any) -> Any:
    yield row.k, 1


FAILING: dict[str, tuple[Callable[[Dataset], Dataset], str]] = {
    "select": (
        lambda d: d.select(z=pl.col("k").cast(pl.Int64)),
        'select(): col("k").strict_cast(Int64).alias("z"): conv',
    ),
    "with_columns": (
        lambda d: d.with_columns(z=pl.col("k").cast(pl.Int64)),
        'with_columns(): col("k").strict_cast(Int64)',
    ),
    "filter": (lambda d: d.filter(pl.col("k").cast(pl.Int64) > 0), 'filter(): [(col("k").strict_cast(Int64)) >'),
    "map": (lambda d: d.map(bad), "map bad (test_api_sentences.py:"),
    "map_batches": (lambda d: d.map_batches(bad), "map_batches bad (test_api_sentences.py:"),
    "map_partitions": (lambda d: d.map_partitions(bad), "map_partitions bad (test_api_sentences.py:"),
    "map_groups": (lambda d: d.group_by("k").map_groups(bad), "map_groups bad (test_api_sentences.py:"),
    "map_reduce": (lambda d: d.map_reduce(lambda row: [(row.k, 1)], bad), "map_reduce bad (test_api_sentences.py:"),
    "partitioner": (
        lambda d: d.map_reduce(pair, bad, partitioner=bad, num_partitions=2),
        "partitioner bad (test_api_sentences.py:",
    ),
    "partitioner of no int": (
        lambda d: d.map_reduce(pair, bad, partitioner=halved, num_partitions=2),
        "partitioner halved (test_api_sentences.py:",
    ),
    "cogroup": (lambda d: d.cogroup(d, on="k").map_groups(bad), "cogroup bad (test_api_sentences.py:"),
    "key": (lambda d: of_lists(d).group_by("a").count(), "list[int]"),
    "sort key": (lambda d: of_lists(d).sort("a"), "list[int]"),
    "explode": (
        lambda d: d.map(lambda r: (1, 2), names=["a", "b"]).explode("a"),
        "explode('a'): the column is of",
    ),
}


@pytest.mark.parametrize("case", FAILING)
def test_what_fails_when_run_names_the_operator_and_the_users_line(case: str) -> None:
    data = sample()
    made = FAILING[case][0](data)
    with pytest.raises(mr.MillraceError) as raised:
        made.take_all()
    text = str(raised.value)
    assert f"test_api_sentences.py:{FAILING[case][0].__code__.co_firstlineno}: " in text.partition(FAILING[case][1])[0]
    assert FAILING[case][1] in text
    assert "\n" not in text


def test_a_line_of_the_job_is_no_part_of_what_a_result_is_known_by(tmp_path: Path) -> None:
    first = sample().map(str).write_text(str(tmp_path / "a"))
    again = sample().map(str).write_text(str(tmp_path / "b"))
    assert (first.tasks_run, again.tasks_run) == (1, 0)


@pytest.mark.parametrize("workers", ["2", 0, -1, 1.5, True, [2]])
def test_what_cannot_be_a_number_of_workers(workers: Any) -> None:
    with pytest.raises(mr.PlanError) as raised:
        mr.Session(on="inline", workers=workers)
    assert str(raised.value) == f"workers={workers!r} is not a whole number from 1; leave it out for all cores"
    with pytest.raises(mr.PlanError):
        mr.configure(on="inline", workers=workers)


@pytest.mark.parametrize("memory", ["x", "0", 0, -5, "1.5.2GB", [1], True, None])
def test_what_cannot_be_an_amount_of_memory(memory: Any) -> None:
    if memory is None:
        assert mr.Session(on="inline", memory=memory).memory_bytes > 0
        return
    with pytest.raises(mr.PlanError) as raised:
        mr.Session(on="inline", memory=memory)
    assert repr(memory) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_groups_show_what_they_are() -> None:
    data = sample()
    assert repr(data.group_by("k", big=pl.col("v") > 1)) == (
        "<Dataset of rows (k: str, v: int, many: list[int]), grouped by k, big>"
    )
    other = mr.from_items([("a", 1)], names=["name", "n"])
    assert repr(data.cogroup(other, left_on="k", right_on="name")) == (
        "<cogroup of Dataset of rows (k: str, v: int, many: list[int]), by k "
        "and Dataset of rows (name: str, n: int), by name>"
    )
    unknown = mr.from_items([1]).map(lambda n: (n, n), names=["a", "b"])
    assert repr(unknown.group_by("a")) == "<Dataset of rows (a: ?, b: ?), grouped by a>"


def test_what_cannot_be_meant_is_refused_before_anything_runs() -> None:
    data = mr.from_items([1, 2])
    with pytest.raises(mr.PlanError, match='max_bad_records=3 says how many may be left out; add on_error="skip"'):
        data.map(str, max_bad_records=3)
    with pytest.raises(mr.PlanError, match="the path of an output is empty"):
        data.write_json("")


def test_a_schema_is_of_the_columns_alone() -> None:
    for data in (mr.from_items([1, 2]), mr.from_items([1, 2]).map(lambda n: n + 1)):
        assert data.schema().metadata is None


def test_writing_outside_of_a_job_gives_a_write_result(tmp_path: Path) -> None:
    result = sample().select("k", "v").write_csv(str(tmp_path / "out.csv"))
    assert isinstance(result, mr.WriteResult)
    data = (tmp_path / "out.csv").read_bytes()
    assert (result.path, result.files, result.rows, result.bytes) == (str(tmp_path / "out.csv"), 1, 3, len(data))
    again = sample().select("k", "v").write_csv(str(tmp_path / "out.csv"))
    assert (again.state, again.digest, again.tasks_run) == ("up to date", result.digest, 0)
    inside = mr.job(lambda output: sample().select("k").write_csv(output))(str(tmp_path / "job.csv"))
    assert type(inside) is mr.JobResult


def test_a_job_that_is_up_to_date_reports_the_counters_of_the_run_that_made_it(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("1\nx\n3\n")

    @mr.job
    def job(output: str) -> Any:
        def counted(line: str) -> int:
            mr.counter("lines").add()
            return int(line)

        numbers = mr.read_text(str(tmp_path / "in.txt")).map(counted, on_error="skip")
        mr.counter("not in a task").add()
        assert numbers.count() == 2  # its counters are those of the job, too
        return numbers.write_json(output)

    first, again = (job(str(tmp_path / "out")) for _ in range(2))
    assert (first.state, again.state) == ("done", "up to date")
    assert first.counters == again.counters == {"lines": 6, "rejected records": 2}
