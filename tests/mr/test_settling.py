"""Types that only running tells, over all stages that feed one output or shuffle: one type or an error, never two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mr
from mr.errors import TypeConflict
from mr.formats.jsonl import JsonWriter
from mr.graph import Graph
from mr.plan import Write
from mr.settling import Left, settled_schemas, sharing, waiting
from mr.stages import compile_plan
from mr.tasks import Output


def same(value: Any) -> Any:
    return value


def made(values: list[Any]) -> mr.Dataset:
    """Values whose type the plan does not know."""
    return mr.from_items(values).map(same)


def keyed(values: list[Any]) -> mr.Dataset:
    return mr.from_items(values).map(lambda value: (value, 1), names=["k", "n"])


def read(name: str) -> mr.Dataset:
    return mr.read_text(name).map(same, names="v")


def graph_of(*datasets: mr.Dataset) -> Graph:
    nodes = [data._node for data in datasets]
    writes = tuple(Write(node.shape, node, f"out{i}", JsonWriter()) for i, node in enumerate(nodes))
    return compile_plan(writes, lambda read: 1, lambda path: None)


def waits(*datasets: mr.Dataset) -> dict[int, set[int]]:
    return {stage: set(others) for stage, others in waiting(graph_of(*datasets)).items() if others}


def test_stages_that_feed_one_end_wait_for_each_other() -> None:
    a, b = read("a"), read("b")
    assert waits(a, b) == {}, "ends of their own"
    assert waits(a.union(b)) == {0: {1}, 1: {0}}
    assert waits(mr.read_text("a").union(mr.read_text("b"))) == {}, "the plan knows the types"
    assert waits(a.union(b).distinct()) == {0: {1}, 1: {0}}, "keys must be hashed alike"
    assert waits(a.union(b).sort("v")) == {}, "a sort reads all of them under one schema"
    assert waits(a.union(a)) == {}


def test_what_reads_a_stage_is_not_waited_for() -> None:
    a = read("a")
    grouped = a.group_by("v").map_groups(lambda key, rows: key, names="v")
    assert waits(a.union(grouped)) == {1: {0}}
    assert waits(a.union(grouped.distinct())) == {2: {0}}


def test_one_outlet_of_two_that_feed_an_end_is_told_of_the_other() -> None:
    a, b = read("a"), read("b")
    graph = graph_of(a.union(b), a)
    ((first, second),) = set(sharing(graph).values())
    assert [first.stage, second.stage] == [0, 1]
    assert set(sharing(graph)) == {first, second}


def output(rows: int, **columns: pa.DataType) -> Output:
    return Output("", bytes(pa.schema(list(columns.items()), {"mr.kind": "rows"}).serialize().to_pybytes()), rows, rows)


INT, FLOAT, EMPTY = output(3, v=pa.int64()), output(2, v=pa.float64()), output(0, v=pa.null())


@pytest.mark.parametrize(
    ("left", "schema"),
    [
        (Left([INT], [INT]), None),
        (Left([INT, EMPTY], [INT, EMPTY]), None),
        (Left([INT, FLOAT], [INT, FLOAT]), FLOAT.schema),
        (Left([INT], [INT, FLOAT]), FLOAT.schema),
        (Left([FLOAT], [INT, FLOAT]), None),
        (Left([EMPTY], [EMPTY, INT]), None),
        (Left([EMPTY], [EMPTY]), None),
        (Left([INT], [INT, FLOAT], [FLOAT]), FLOAT.schema),
        (Left([INT], [INT, FLOAT], [], FLOAT.schema), None),
    ],
)
def test_which_rows_are_written_again(left: Left, schema: bytes | None) -> None:
    (stage,) = graph_of(read("a")).stages
    assert settled_schemas(stage, [left]) == (schema,)


def test_rows_that_are_settled_cannot_be_written_again() -> None:
    (stage,) = graph_of(read("a")).stages
    with pytest.raises(TypeConflict, match="declare them with names="):
        settled_schemas(stage, [Left([FLOAT], [INT, FLOAT], [INT])])


def parts(folder: Path) -> list[pa.Schema]:
    return [pq.read_schema(path) for path in sorted(folder.glob("part-*"))]


NUMBERS = st.lists(st.one_of(st.none(), st.integers(-9, 9), st.sampled_from([0.5, 2.0])), min_size=1, max_size=6)


@given(st.lists(NUMBERS, min_size=2, max_size=3))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_of_a_union_have_one_type(tmp_path: Path, inline: mr.Session, sides: list[list[Any]]) -> None:
    first, *others = map(made, sides)
    out = tmp_path / "out"
    first.union(*others).write_parquet(str(out), mode="overwrite")
    schemas = parts(out)
    assert len(schemas) >= 1
    assert all(schema.equals(schemas[0]) for schema in schemas)
    rows = [value for path in sorted(out.glob("part-*")) for value in pq.read_table(path).column(0).to_pylist()]
    floats = any(isinstance(value, float) for side in sides for value in side)
    expected = [value for side in sides for value in side]
    assert rows == expected
    assert not floats or pa.types.is_floating(schemas[0].field(0).type)


def test_keys_of_a_union_are_grouped_whatever_their_types(inline: mr.Session) -> None:
    counts = keyed([1, 2, 2]).union(keyed([2.0, 0.5])).group_by("k").agg(n=mr.sum("n"))
    assert {row.k: row.n for row in counts.take_all()} == {1.0: 1, 2.0: 3, 0.5: 1}


def halved(key: Any, rows: Any) -> float:
    return sum(row.n for row in rows) / 2


def test_a_union_with_what_was_made_of_it(inline: mr.Session, tmp_path: Path) -> None:
    def counted(key: Any, rows: Any) -> Any:
        return key, sum(1 for _ in rows)

    floats = keyed([1.5, 1.5])
    ints = floats.group_by("k").map_groups(counted, names=["k", "n"])
    floats.select("n").map(lambda row: (row.n / 2,), names=["n"]).union(ints.select("n")).write_parquet(
        str(tmp_path / "ok")
    )
    assert {schema.field("n").type for schema in parts(tmp_path / "ok")} == {pa.float64()}
    narrow = keyed([1, 1])
    wide = narrow.group_by("k").map_groups(halved, names=["n"]).map(lambda row: (row.n,), names=["n"])
    with pytest.raises(TypeConflict, match="declare them with names="):
        narrow.map(lambda row: (row.n,), names=["n"]).union(wide).write_parquet(str(tmp_path / "refused"))


def test_stages_that_wait_in_a_circle_come_to_an_end(inline: mr.Session, tmp_path: Path) -> None:
    def grouped(data: mr.Dataset) -> mr.Dataset:
        return data.group_by("k").map_groups(lambda key, rows: (key, 1), names=["k", "n"])

    a, b = keyed([1, 2]), keyed([3])

    @mr.job
    def both(output: str) -> Any:
        return [a.union(grouped(b)).write_parquet(f"{output}/x"), b.union(grouped(a)).write_parquet(f"{output}/y")]

    result = both(output=str(tmp_path))
    assert sorted(report.rows for report in result.outputs.values()) == [3, 3]
    assert waits(a.union(grouped(b)), b.union(grouped(a))).keys() == {0, 1, 2, 3}


def mixed() -> mr.Dataset:
    """Rows whose types nobody knows before all tasks are over: `k` is of another one in each."""
    return mr.from_items([1, 2]).map(lambda n: (n, n), names=["v", "k"]).map_batches(torn, names=["v", "k"])


def torn(frame: Any) -> Any:
    return frame if frame["v"][0] == 1 else frame.with_columns(k=pl.col("k").cast(str))


CONFLICTS: dict[str, tuple[Callable[[], mr.Dataset], str]] = {
    "map": (lambda: mr.from_items([1, 2]).map(text_behind_one), "map text_behind_one"),
    "group_by": (lambda: mixed().group_by("k").count(), "'k' is int in some"),
    "distinct": (lambda: mixed().distinct("k"), "'k' is int in some"),
    "sort": (lambda: mixed().sort("k"), "'k' is int in some"),
    "one row": (lambda: mixed().agg(n=mr.max("k")), "'n.max' is int in some"),
    "join": (lambda: mixed().join(keyed([1]), on="k", strategy="sort_merge"), "'k' is int in some"),
    "join of two types": (
        lambda: keyed([1]).join(keyed(["a"]), on="k", strategy="sort_merge"),
        r"join\(\): 'k' is int64",
    ),
    "broadcast": (lambda: keyed([1]).join(mixed(), on="k", strategy="broadcast"), "'k' is int in some"),
    "cogroup": (lambda: mixed().cogroup(keyed([1]), on="k").map_groups(lambda k, a, b: k), "'k' is int in some"),
    "max_bad_records": (lambda: made([1]).map(halves, on_error="skip", max_bad_records=0), "map halves"),
}
"""What only the master finds out, one call a line."""


def text_behind_one(n: int) -> Any:
    return n if n == 1 else str(n)


def halves(n: int) -> None:
    raise ValueError(n)


@pytest.mark.parametrize("case", CONFLICTS)
def test_conflicts_between_tasks_name_the_users_line(
    case: str, inline: mr.Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mr.inputs.ITEMS_PER_SPLIT", 1)
    make, why = CONFLICTS[case]
    place = f"test_settling.py:{make.__code__.co_firstlineno}: "
    for use in (lambda data: data.take_all(), lambda data: data.materialize()):
        with pytest.raises(mr.MillraceError, match=f"^{place}.*{why}"):
            use(make())


def test_a_conflict_of_what_is_written_or_collected_names_the_users_line(
    inline: mr.Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mr.inputs.ITEMS_PER_SPLIT", 1)
    made_at, data = mixed.__code__.co_firstlineno + 2, mixed()
    uses: list[tuple[Callable[[], Any], int]] = [(data.take_all, made_at), (data.materialize, made_at)]
    write = lambda: data.write_parquet(str(tmp_path / "out"))  # noqa: E731 (its line is wanted)
    uses.append((write, write.__code__.co_firstlineno))
    for use, line in uses:
        with pytest.raises(mr.TypeConflict, match=f"^test_settling.py:{line}: .*'k' is int in some"):
            use()
