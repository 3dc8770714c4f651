"""Random pipelines of operators give what plain Python gives, record by record, whatever the splits; and the same bytes
on other executors.

After every shuffle the rows are sorted by all columns, so that the order is known to both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mr
import mr.sizing
from tests.mr.dataset_kit import ident, idents, in_order, shrink, write_lines

COLUMNS = ("k", "x", "f")
NAMES = {"k": str, "x": int, "f": float}


class Cell(NamedTuple):
    """A row of the model; columns are reached as in a dict."""

    k: str | None
    x: int | None
    f: float | None

    def __getitem__(self, name: Any) -> Any:
        return getattr(self, name) if isinstance(name, str) else tuple(self)[name]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.k, self.x, self.f))


Model = list[Cell]
RIGHT = [("a", 1), ("a", 2), ("b", 3), (None, 4), ("é", 5)]


@dataclass(frozen=True)
class Step:
    """An operator: on a dataset, and on a list of rows."""

    name: str
    ours: Callable[[mr.Dataset], mr.Dataset]
    model: Callable[[Model], Model]


def by_all(ds: mr.Dataset) -> mr.Dataset:
    return ds.select(*COLUMNS).sort(*COLUMNS)


def sorted_by_all(rows: Model) -> Model:
    return in_order(rows, COLUMNS, [False] * 3)


def groups_of(rows: Model) -> list[tuple[str | None, Model]]:
    found: dict[str | None, Model] = {}
    for row in rows:
        found.setdefault(row.k, []).append(row)
    return list(found.items())


def summed(rows: Model) -> Model:
    out = []
    for key, group in groups_of(rows):
        numbers = [row.x for row in group if row.x is not None]
        floats = [row.f for row in group if row.f is not None]
        most = math.nan if any(map(math.isnan, floats)) else max(floats, default=None)
        out.append(Cell(key, sum(numbers) if numbers else None, most))
    return sorted_by_all(out)


def halves(row: Any) -> tuple[str | None, int | None, float | None]:
    return row.k, row.x, None if row.f is None else row.f / 2


def copies(row: Any) -> Iterator[tuple[str | None, int | None, float | None]]:
    for number in range((row.x or 0) % 3):
        yield (row.k, number, row.f)


def first_of(key: str | None, rows: Iterator[Any]) -> Iterator[tuple[str | None, int, float | None]]:
    first = next(rows)
    yield (key, 1 + sum(1 for _ in rows), first.f)


def firsts(rows: Model) -> Model:
    return sorted_by_all([Cell(key, len(group), group[0].f) for key, group in groups_of(rows)])


def distinct(rows: Model) -> Model:
    return sorted_by_all([group[0] for _, group in groups_of(rows)])


def joined(how: str, rows: Model) -> Model:
    out = []
    for row in rows:
        matches = [w for k, w in RIGHT if row.k is not None and k == row.k]
        if how in ("semi", "anti"):
            out += [row] if bool(matches) == (how == "semi") else []
            continue
        if how in ("left", "full") and not matches:
            out.append(Cell(row.k, None, row.f))
        out += [Cell(row.k, w, row.f) for w in matches]
    if how in ("right", "full"):
        known = {row.k for row in rows if row.k is not None}
        out += [Cell(k, w, None) for k, w in RIGHT if k not in known]
    return sorted_by_all(out)


def positive(rows: Model) -> Model:
    return sorted_by_all([row for row in rows if row.x is not None and row.x > 0])


def join(how: Any, strategy: Any) -> Step:
    def ours(ds: mr.Dataset) -> mr.Dataset:
        right = mr.from_items(RIGHT, names={"k": str, "w": int})
        both = ds.join(right, on="k", how=how, strategy=strategy)
        return by_all(both if how in ("semi", "anti") else both.select("k", "f", x=pl.col("w")))

    return Step(f"join {how} {strategy}", ours, lambda rows: joined(how, rows))


def sort(by: tuple[str, ...], down: tuple[bool, ...]) -> Step:
    return Step(f"sort {by} {down}", lambda ds: ds.sort(*by, descending=list(down)), lambda r: in_order(r, by, down))


def top(k: int) -> Step:
    return Step(f"top {k}", lambda ds: ds.top_k(k, by="x"), lambda rows: in_order(rows, ["x"], [True])[:k])


STEPS = [
    Step(
        "filter",
        lambda ds: ds.filter(pl.col("x") > 1),
        lambda rows: [row for row in rows if row.x is not None and row.x > 1],
    ),
    Step(
        "filter in Python",
        lambda ds: ds.filter(lambda row: row.k is not None and row.k < "b"),
        lambda rows: [row for row in rows if row.k is not None and row.k < "b"],
    ),
    Step(
        "with_columns",
        lambda ds: ds.with_columns(x=pl.col("x") * 2 + 1),
        lambda rows: [row._replace(x=None if row.x is None else row.x * 2 + 1) for row in rows],
    ),
    Step("map", lambda ds: ds.map(halves, names=NAMES), lambda rows: [Cell(*halves(row)) for row in rows]),
    Step(
        "flat_map",
        lambda ds: ds.flat_map(copies, names=NAMES),
        lambda rows: [Cell(*new) for row in rows for new in copies(row)],
    ),
    Step("union", lambda ds: ds.union(ds), lambda rows: rows + rows),
    Step("distinct", lambda ds: by_all(ds.distinct("k")), distinct),
    Step(
        "agg",
        lambda ds: by_all(ds.group_by("k").agg(x=mr.sum("x"), f=mr.max("f"))),
        summed,
    ),
    Step("map_groups", lambda ds: by_all(ds.group_by("k").map_groups(first_of, names=NAMES)), firsts),
    *(join(how, strategy) for how in ("inner", "left", "semi", "anti") for strategy in ("broadcast", "sort_merge")),
    *(join(how, strategy) for how in ("right", "full") for strategy in ("auto", "sort_merge")),
    Step("repartition", lambda ds: by_all(ds.repartition(3, by="k")), sorted_by_all),
    Step("materialize", lambda ds: ds.materialize(), lambda rows: rows),
    Step("semi-join with itself", lambda ds: by_all(ds.join(ds.filter(pl.col("x") > 0), on="x", how="semi")), positive),
    sort(("x", "k"), (True, False)),
    sort(("f",), (True,)),
    sort(("k",), (True,)),  # means nothing to a grouping or join by k behind it
    sort(("k", "f", "x"), (False, True, True)),
    Step("limit", lambda ds: ds.limit(5), lambda rows: rows[:5]),
    top(3),
]

keys = st.sampled_from(["a", "a", "a", "a", "b", "c", "é", "", None])
numbers = st.one_of(st.none(), st.integers(-5, 5), st.sampled_from([2**40, -(2**40)]))
floats = st.sampled_from([None, math.nan, 0.0, -0.0, 0.5, -1.5, math.inf, 1e300])
rows_of = st.lists(st.builds(Cell, keys, numbers, floats), max_size=30)
pipelines = st.lists(st.sampled_from(STEPS), min_size=1, max_size=5)


@pytest.fixture
def tiny(inline: mr.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


@given(rows=rows_of, steps=pipelines, buckets=st.sampled_from([256, 4096, 65_536]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_pipeline_gives_what_plain_python_gives(tiny: None, rows: Model, steps: list[Step], buckets: int) -> None:
    data, expected = mr.from_items([tuple(row) for row in rows], names=NAMES), rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mr.sizing, "BUCKET_CLASSES", ((-1, buckets),))
        for step in steps:
            data, expected = step.ours(data), step.model(expected)
        found = data.take_all()
    assert idents(found) == [ident(tuple(row)) for row in expected], [step.name for step in steps]


def long_pipeline(folder: str) -> mr.Dataset:
    data = mr.read_json(folder, schema=NAMES)
    for step in STEPS[2:9]:
        data = step.ours(data)
    return data


def rows_in_files(folder: Path) -> str:
    rows = [{"k": "abcé"[i % 4] if i % 5 else None, "x": i % 11, "f": i / 3 if i % 7 else None} for i in range(400)]
    return write_lines(folder, rows, files=7)


@pytest.mark.parametrize("on", ["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])])
@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_other_executors_write_the_same_bytes(on: Any, workers: int, tmp_path: Path) -> None:
    folder = rows_in_files(tmp_path / "in")
    digests = set()
    for where, count in (("inline", 1), (on, workers)):
        with mr.Session(on=where, workers=count, home=tmp_path / where, memory="2GB"):
            result = long_pipeline(folder).write_parquet(str(tmp_path / f"out-{where}"))
            digests |= {output.digest for output in result.outputs.values()}
    assert len(digests) == 1
