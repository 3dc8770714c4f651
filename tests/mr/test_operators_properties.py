"""Every operator over random schemas, splits and budgets gives what plain Python gives, record by record."""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import math
import operator
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from dataset_kit import shrink
from hypothesis import strategies as st
from oracle import (
    KEYS,
    KINDS,
    NAMES,
    SUMMER,
    WINTER,
    Rows,
    Run,
    Table,
    compared,
    exact,
    exacts,
    ident,
    prop,
    rows_and_holes,
    runs,
    tables,
)

import mr
import mr.heads.joined
import mr.joining
import mr.kernels.joined
import mr.kernels.skew
from mr.kernels.declared import arrow_type
from mr.kernels.frames import column


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, inline: mr.Session) -> None:
    shrink(monkeypatch)
    monkeypatch.setattr(mr.heads.joined, "MERGE_BLOCK_BYTES", 200)
    monkeypatch.setattr(mr.kernels.joined, "JOIN_BLOCK_BYTES", 100)
    monkeypatch.setattr(mr.kernels.skew, "FREQUENT_ROWS_MIN", 1)


def canonical(table: Table, row: tuple[Any, ...], keys: Sequence[str]) -> tuple[Any, ...]:
    """The row with its keys in their canonical form: 0.0 for -0.0, at any depth."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(plain, value))
        return value + 0.0 if isinstance(value, float) else value

    return tuple(plain(v) if name in keys else v for name, v in zip(table.names, row, strict=True))


# --- order -----------------------------------------------------------------------------------------------------------


@st.composite
def ordered(draw: st.DrawFn, keys: int = 0) -> tuple[Table, list[str], list[bool]]:
    """A table, columns to sort it by behind its `keys`, and their directions."""
    table = draw(tables(keys=keys + draw(st.integers(1, 3)), others=2))
    able = [name for name, kind in table.kinds.items() if KINDS[kind].key]
    by = draw(st.lists(st.sampled_from(able), min_size=1, max_size=3, unique=True))
    return table, by, [draw(st.booleans()) for _ in by]


@prop(4, ordered(), runs, st.none() | st.integers(1, 5))
def test_sort(given: Any, run: Run, partitions: int | None) -> None:
    table, by, down = given
    found = run.take(table.dataset().sort(*by, descending=down, num_partitions=partitions))
    assert exacts(found) == exacts(table.in_order(table.rows, by, down))


@prop(3, ordered(), runs, st.integers(0, 9))
def test_top_k(given: Any, run: Run, k: int) -> None:
    table, by, down = given
    found = run.take(table.dataset().top_k(k, by=by, descending=down))
    assert exacts(found) == exacts(table.in_order(table.rows, by, down)[:k])


@prop(3, tables(), runs, st.integers(0, 9))
def test_limit_take_and_count(table: Table, run: Run, n: int) -> None:
    data = table.dataset()
    assert exacts(run.take(data.limit(n))) == exacts(table.rows[:n])
    assert exacts(run.take(data.limit(n).limit(3))) == exacts(table.rows[: min(n, 3)])
    assert run.take(data.limit(n).agg(n=mr.count())) == [(min(n, len(table.rows)),)]


@prop(3, tables(), runs, st.integers(0, 20), st.floats(0, 1), st.integers(0, 3))
def test_sample(table: Table, run: Run, n: int, fraction: float, seed: int) -> None:
    """Records of the table in its order, each once; the same again, and with any memory."""
    for sampled, most in (
        (table.dataset().sample(n=n, seed=seed), n),
        (table.dataset().sample(fraction, seed=seed), len(table.rows)),
    ):
        found = exacts(run.take(sampled))
        rest = iter(exacts(table.rows))
        assert all(one in rest for one in found), "a subsequence"
        assert len(found) <= most
        assert exacts(Run(run.split, 1 << 30).take(sampled)) == found
    assert len(run.take(table.dataset().sample(n=n, seed=seed))) == min(n, len(table.rows))


@prop(3, tables(), st.data(), runs)
def test_union(table: Table, data: st.DataObject, run: Run) -> None:
    others = [
        Table(table.kinds, *data.draw(rows_and_holes(list(table.kinds.values()))))
        for _ in range(data.draw(st.integers(1, 2)))
    ]
    found = run.take(table.dataset().union(*(other.dataset() for other in others)))
    assert exacts(found) == exacts([*table.rows, *itertools.chain(*(other.rows for other in others))])


# --- keys ------------------------------------------------------------------------------------------------------------


def key_names(table: Table, n: int) -> list[str]:
    return list(table.names[:n])


@prop(5, tables(keys=2), runs, st.integers(1, 2), st.none() | st.integers(1, 5))
def test_distinct(table: Table, run: Run, n: int, partitions: int | None) -> None:
    keys = key_names(table, n)
    found = run.take(table.dataset().distinct(*keys, num_partitions=partitions))
    firsts = [canonical(table, rows[0], keys) for rows in table.groups(keys).values()]
    assert Counter(exacts(found)) == Counter(exacts(firsts))


@prop(2, tables(keys=2, others=0), runs)
def test_value_counts_and_distinct_of_whole_records(table: Table, run: Run) -> None:
    groups = table.groups(table.names)
    if "count" not in table.names:
        counted = run.take(table.dataset().value_counts())
        assert {ident(tuple(row[:-1])): row[-1] for row in counted} == {key: len(rows) for key, rows in groups.items()}
    assert len(run.take(table.dataset().distinct())) == len(groups)


@prop(3, tables(keys=2), runs, st.integers(1, 2), st.integers(1, 7))
def test_repartition(table: Table, run: Run, by: int, n: int) -> None:
    """All rows; those of a key together and in input order, in no more tasks than were asked for."""
    keys = key_names(table, by)
    found = run.take(table.dataset().repartition(n, by=keys))
    groups = {key: [exact(canonical(table, row, keys)) for row in rows] for key, rows in table.groups(keys).items()}
    ours = [(ident(table.of(row, keys)), exact(tuple(row))) for row in found]
    runs_of = [(key, [text for _, text in some]) for key, some in itertools.groupby(ours, key=lambda pair: pair[0])]
    assert len(runs_of) == len(groups)
    assert dict(runs_of) == groups
    dealt = run.take(table.dataset().repartition(n))
    assert Counter(exacts(dealt)) == Counter(exacts(table.rows))
    sizes = run.take(table.dataset().repartition(n).map_partitions(lambda rows: [len(list(rows))]))
    assert len(sizes) <= n
    assert sum(sizes) == len(table.rows)


@prop(4, ordered(keys=1), runs, st.integers(0, 4))
def test_top_k_and_head_of_groups(given: Any, run: Run, k: int) -> None:
    table, by, down = given
    keys = key_names(table, 1)
    grouped = table.dataset().group_by(*keys)
    for data, order in ((grouped.top_k(k, by=by, descending=down), (by, down)), (grouped.head(k), ([], []))):
        found = [(ident(table.of(row, keys)), exact(tuple(row))) for row in run.take(data)]
        ours = {key: [t for _, t in some] for key, some in itertools.groupby(found, key=lambda pair: pair[0])}
        assert ours == {
            key: [exact(canonical(table, row, keys)) for row in table.in_order(rows, *order)[:k]]
            for key, rows in table.groups(keys).items()
            if k
        }


@prop(4, ordered(keys=2), runs, st.integers(1, 2), st.booleans(), st.none() | st.integers(1, 5))
def test_map_groups(given: Any, run: Run, n: int, sort: bool, partitions: int | None) -> None:
    table, by, down = given
    keys = key_names(table, n)
    order: Any = {"sort_by": by, "descending": down} if sort else {}

    def shown(key: Any, rows: Iterator[Any]) -> Iterator[tuple[str, str, bool]]:
        whole = tuple(key) if n > 1 else (key,)
        for i, row in enumerate(rows):
            yield exact(whole), exact(tuple(row)), i == 0

    found = run.take(table.dataset().group_by(*keys, num_partitions=partitions).map_groups(shown, **order))
    groups: dict[str, list[str]] = {}
    for key, row, first in found:
        assert first == (key not in groups)
        groups.setdefault(key, []).append(row)
    expected = {}
    for rows in table.groups(keys).values():
        rows = table.in_order(rows, by, down) if sort else rows
        key = exact(table.of(canonical(table, rows[0], keys), keys))
        expected[key] = [exact(canonical(table, row, keys)) for row in rows]
    assert groups == expected


def test_an_hour_that_the_clock_shows_twice_is_two_keys() -> None:  # F48
    """Python takes two times of one zone for equal where its clock shows the same."""
    table = Table({"k": "zoned", "i": "int"}, [(SUMMER, 0), (WINTER, 1)] * 5)
    grouped = table.dataset().group_by("k")
    for memory in (1, 1 << 30):
        found = Run(2, memory).take(grouped.map_groups(lambda key, rows: (key.fold, len(list(rows)))))
        assert sorted(found) == [(0, 5), (1, 5)]
        assert Run(2, memory).take(grouped.count().select("count")) == [(5,), (5,)]


def test_a_type_may_show_when_a_task_has_written_runs_already() -> None:
    rows = [("k", None if i < 30 else (1, "a"), "x" * 40) for i in range(60)]
    data = mr.from_items(rows, names={"k": str, "v": tuple[int, str], "s": str})
    untold = data.group_by("k").map_groups(lambda _, rows: iter(list(rows)), names=["k", "v", "s"])
    assert exacts(Run(9, 1 << 30).take(untold)) == exacts(rows)


@prop(3, ordered(keys=2), runs, st.integers(1, 2), st.booleans(), st.sampled_from(["polars", "arrow"]))
def test_map_batches_of_groups(given: Any, run: Run, n: int, sort: bool, batch_format: Any) -> None:
    """Whole groups in a batch, in the order of their keys, rows in the order asked for."""
    table, by, down = given
    if "object" in table.kinds.values() or (batch_format == "polars" and "map" in table.kinds.values()):
        return
    keys, run = key_names(table, n), Run(run.split, 1 << 30)
    order: Any = {"sort_by": by, "descending": down} if sort else {}
    grouped = table.dataset().group_by(*keys)
    found = run.take(
        grouped.map_batches(lambda batch: batch, batch_format=batch_format, names=list(table.names), **order)
    )
    assert exacts(found) == exacts(
        run.take(grouped.map_groups(lambda _, rows: iter(list(rows)), names=list(table.names), **order))
    )


def spelled(key: Any, *sides: Iterator[Any]) -> tuple[str, list[list[str]]]:
    return exact(tuple(key) if isinstance(key, tuple) else (key,)), [exacts(rows) for rows in sides]


@st.composite
def sides(draw: st.DrawFn) -> tuple[Table, Table, int]:
    """Two tables whose first columns, so many of them, are keys of the same kinds; names may be equal or not."""
    kinds = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=2))
    made = []
    for _ in range(2):
        mine = [*kinds, *draw(st.lists(st.sampled_from(list(KINDS)), max_size=2))]
        names = draw(st.permutations(NAMES))[: len(mine)]
        made.append(Table(dict(zip(names, mine, strict=True)), *draw(rows_and_holes(mine, 10))))
    return made[0], made[1], len(kinds)


@prop(4, sides(), runs, st.none() | st.integers(1, 5))
def test_cogroup(given: Any, run: Run, partitions: int | None) -> None:
    left, right, n = given
    on: Any = {"left_on": key_names(left, n), "right_on": key_names(right, n), "num_partitions": partitions}
    grouped = left.dataset().cogroup(right.dataset(), **on)
    found = run.take(grouped.map_groups(spelled, names={"key": str, "rows": list[list[str]]}))
    groups = [table.groups(key_names(table, n)) for table in (left, right)]
    expected = {}
    for key in {**groups[0], **groups[1]}:
        rows = [
            [canonical(table, row, key_names(table, n)) for row in mine.get(key, [])]
            for table, mine in zip((left, right), groups, strict=True)
        ]
        of = left if rows[0] else right
        whole = of.of((rows[0] or rows[1])[0], key_names(of, n))
        whole = whole[0] if n == 1 and isinstance(whole[0], tuple) else whole
        expected[exact(whole)] = [exacts(some) for some in rows]
    assert len(found) == len(expected)
    assert {row.key: row.rows for row in found} == expected


# --- joins -----------------------------------------------------------------------------------------------------------


def joined(left: Table, right: Table, n: int, how: str, suffix: str) -> tuple[tuple[str, ...], Rows]:
    """Names and rows of a join: left rows in order with their matches, then what is left of the right side."""
    mine, theirs = key_names(left, n), key_names(right, n)
    others = [name for name in right.names if name not in theirs]
    names = (*left.names, *(name + suffix if name in left.names else name for name in others))
    groups = right.groups(theirs)
    found: Rows = []
    met = set()
    for row in left.rows:
        key = ident(left.of(row, mine))
        # a null in a key, also within a tuple, matches nothing
        matches = [] if has_null(key) else groups.get(key, [])
        met.add(key)
        if how in ("semi", "anti"):
            found += [row] * (bool(matches) == (how == "semi"))
        else:
            found += [(*row, *right.of(match, others)) for match in matches]
            if not matches and how in ("left", "full"):
                found.append((*row, *(None for _ in others)))
    if how in ("right", "full"):
        for row in right.rows:
            key = ident(right.of(row, theirs))
            if key not in met or has_null(key):
                keys = dict(zip(mine, right.of(row, theirs), strict=True))
                found.append((*(keys.get(name) for name in left.names), *right.of(row, others)))
    return left.names if how in ("semi", "anti") else names, found


def has_null(key: Any) -> bool:
    return key is None or (isinstance(key, tuple) and any(map(has_null, key)))


HOWS = ("inner", "left", "right", "full", "semi", "anti")


@prop(
    6,
    sides(),
    runs,
    st.sampled_from(HOWS),
    st.sampled_from(["auto", "broadcast", "sort_merge", "partitioned"]),
    st.sampled_from(["_right", "2", "é"]),
    st.none() | st.integers(1, 5),
    st.sampled_from([2, 1 << 22]),
)
def test_join(
    given: Any, run: Run, how: Any, strategy: Any, suffix: str, partitions: int | None, hot_rows: int
) -> None:  # F47
    """A key of so many matches counts as hot: tasks share its left rows."""
    left, right, n = given
    if strategy == "broadcast" and how in ("right", "full"):
        strategy = "auto"
    names, expected = joined(left, right, n, how, suffix)
    if len(set(names)) < len(names):
        return
    on: Any = {"left_on": key_names(left, n), "right_on": key_names(right, n), "how": how, "suffix": suffix}
    if strategy == "partitioned":
        mine, theirs = (
            table.dataset().repartition(partitions or 3, by=key_names(table, n)).materialize()
            for table in (left, right)
        )
        both = mine.join(theirs, **on, strategy=strategy)
    else:
        both = left.dataset().join(right.dataset(), **on, strategy=strategy, num_partitions=partitions)
    assert both.schema().names == list(names)
    made = Table(dict.fromkeys(names, ""), expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mr.joining, "HOT_JOIN_ROWS", hot_rows)
        found = Counter(exact(canonical(made, tuple(row), key_names(left, n))) for row in run.take(both))
    assert found == Counter(exact(canonical(made, row, key_names(left, n))) for row in expected)


# --- aggregates ------------------------------------------------------------------------------------------------------


def middle(values: list[Any], q: float) -> float:
    """The quantile by linear interpolation; NaN is above all numbers."""
    floats = sorted(map(float, values), key=lambda x: (math.isnan(x), x))
    place = (len(floats) - 1) * q
    low, high = floats[math.floor(place)], floats[math.ceil(place)]
    return low if low == high or not place % 1 else low * (1 - place % 1) + high * (place % 1)


def total(values: list[Any]) -> Any:
    if isinstance(values[0], float):
        return functools.reduce(operator.add, values)
    return sum(values[1:], start=values[0]) if isinstance(values[0], dt.timedelta) else sum(values)


def mean(values: list[Any]) -> Any:
    if isinstance(values[0], dt.timedelta):
        return total(values) / len(values)
    if isinstance(values[0], float):
        return total(values) / len(values)
    return float(Fraction(total(values)) / len(values))


def variance(values: list[Any]) -> float | None:
    if len(values) < 2:
        return None
    if any(isinstance(v, float) and not math.isfinite(v) for v in values):
        return math.nan
    return float(statistics.variance(map(Fraction, values)))


def root(value: float | None) -> float | None:
    return None if value is None else math.sqrt(value)


def several(values: list[Any], down: bool) -> list[Any]:
    return sorted(values, key=functools.cmp_to_key(lambda a, b: compared(a, b, down)))


NUMBERS = ("int", "float", "decimal")
ORACLES: dict[str, tuple[Callable[[str], Any], Callable[[list[Any]], Any], Sequence[str]]] = {
    "rows": (lambda _: mr.count(), len, list(KINDS)),
    "count": (mr.count, lambda vs: len(known(vs)), list(KINDS)),
    "first": (mr.first, lambda vs: vs[0] if vs else None, list(KINDS)),
    "last": (mr.last, lambda vs: vs[-1] if vs else None, list(KINDS)),
    "collect": (mr.collect, list, list(KINDS)),
    "min": (mr.min, lambda vs: next(iter(several(known(vs), False)), None), KEYS),
    "max": (mr.max, lambda vs: next(iter(several(known(vs), True)), None), KEYS),
    "top": (lambda x: mr.top_k(x, 3), lambda vs: several(known(vs), True)[:3], KEYS),
    "low": (lambda x: mr.top_k(x, 2, descending=False), lambda vs: several(known(vs), False)[:2], KEYS),
    "kinds": (mr.count_distinct, lambda vs: len(set(map(ident, known(vs)))), KEYS),
    "about": (mr.approx_distinct, lambda vs: len(set(map(ident, known(vs)))), KEYS),
    "sum": (mr.sum, lambda vs: total(known(vs)) if known(vs) else None, (*NUMBERS, "bool", "timedelta", "null")),
    "mean": (mr.mean, lambda vs: mean(known(vs)) if known(vs) else None, (*NUMBERS, "bool", "timedelta", "null")),
    "var": (mr.var, lambda vs: variance(known(vs)), (*NUMBERS, "bool", "null")),
    "std": (
        mr.std,
        lambda vs: None if (v := variance(known(vs))) is None else math.sqrt(v),
        (*NUMBERS, "bool", "null"),
    ),
    "any": (mr.any, lambda vs: any(known(vs)) if known(vs) else None, ("bool", "null")),
    "all": (mr.all, lambda vs: all(known(vs)) if known(vs) else None, ("bool", "null")),
    "quantile": (lambda x: mr.quantile(x, 0.3), lambda vs: middle(known(vs), 0.3) if known(vs) else None, NUMBERS),
    "ends": (
        lambda x: mr.quantile(x, [0, 1]),
        lambda vs: [middle(known(vs), q) for q in (0, 1)] if known(vs) else None,
        (*NUMBERS, "null"),
    ),
    "near": (lambda x: mr.approx_quantile(x, 0.7), lambda vs: middle(known(vs), 0.7) if known(vs) else None, NUMBERS),
    "bins": (
        lambda x: mr.histogram(x, [-3, 0, 1.5, 7]),
        lambda vs: [
            sum(-3 <= v < 0 for v in known(vs)),
            sum(0 <= v < 1.5 for v in known(vs)),
            sum(1.5 <= v <= 7 for v in known(vs)),
        ],
        NUMBERS,
    ),
    "own": (
        lambda x: mr.Aggregate(list, operator.add, lambda values: [len(values), len(known(values))], column=x),
        lambda vs: [len(vs), len(known(vs))],
        list(KINDS),
    ),
}


def known(values: list[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def near(value: Any) -> Any:
    """Floats to nine digits: variances and quantiles are computed in another order here; -0.0 is 0.0."""
    if isinstance(value, list):
        return list(map(near, value))
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else float(f"{value + 0.0:.9g}")
    return exact(value)


@st.composite
def aggregated(draw: st.DrawFn) -> tuple[Table, list[tuple[str, str, str]]]:
    """A table, and (name, oracle, column) of some aggregates of its columns; the names may be those of columns."""
    table = draw(tables(keys=2, others=3))
    able = [(name, column) for name, one in ORACLES.items() for column, kind in table.kinds.items() if kind in one[2]]
    chosen = draw(st.lists(st.sampled_from(able), min_size=1, max_size=4))
    taken = [name.partition(".")[0] for name in table.names[:2]]  # "n" beside a key "n.n" is refused
    free = [name for name in (*NAMES, "x", "x.in", "state") if name not in (*table.names[:2], *taken)]
    names = draw(st.permutations(free))[: len(chosen)]
    return table, [(name, *one) for name, one in zip(names, chosen, strict=True)]


@prop(6, aggregated(), runs, st.integers(0, 2), st.none() | st.integers(1, 5))
def test_aggregates(given: Any, run: Run, n: int, partitions: int | None) -> None:
    table, chosen = given
    keys = key_names(table, n)
    aggregates = {name: ORACLES[oracle][0](column) for name, oracle, column in chosen}
    data = table.dataset()
    if keys:
        result = data.group_by(*keys, num_partitions=partitions).agg(**aggregates)
        groups = table.groups(keys)
    else:
        result, groups = data.agg(**aggregates), {(): table.rows}
    found = run.take(result)
    assert {ident(tuple(row[:n])): list(map(near, row[n:])) for row in found} == {
        key: [
            near(ORACLES[oracle][1]([row[table.names.index(column)] for row in rows])) for _, oracle, column in chosen
        ]
        for key, rows in groups.items()
    }
    assert len(found) == len(groups)
    if found:
        assert found[0]._fields == (*keys, *aggregates)


@pytest.mark.parametrize("how", ["right", "full"])
def test_a_hot_key_with_a_null_inside_matches_nothing_and_is_kept(how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mr.joining, "HOT_JOIN_ROWS", 2)
    keys = [((1, None), 1)] * 20 + [((1, "a"), 2)] * 3
    left, right = Table({"k": "struct", "x": "int"}, keys), Table({"k": "struct", "y": "int"}, keys[9:])
    names, expected = joined(left, right, 1, how, "_right")
    both = left.dataset().join(right.dataset(), on="k", how=how, strategy="sort_merge")
    assert both.schema().names == list(names)
    assert Counter(exacts(Run(4, 1 << 30).take(both))) == Counter(exacts(expected))


# --- columns ---------------------------------------------------------------------------------------------------------


@prop(4, tables(keys=1, others=3), runs, st.booleans())
def test_columns_of_functions_and_of_expressions(table: Table, run: Run, back: bool) -> None:
    """A function sees the whole old record, and what it gives comes back as it is; other columns stay what they are."""
    if table.kinds[table.names[-1]] == "object":  # several types in one column must be declared, as map can
        return
    first, last = table.names[0], table.names[-1]
    new: Any = {
        last: lambda row: exact(tuple(row)),
        "same": lambda row: row[last],
        "null": column(first).is_null(),
        "first": column(first),
    }
    new = dict(reversed(new.items())) if back else new
    found = run.take(table.dataset().with_columns(**new))
    made = [{last: exact(row), "same": row[-1], "null": row[0] is None, "first": row[0]} for row in table.rows]
    old = [dict(zip(table.names, row, strict=True)) for row in table.rows]
    expected = [row | {name: one[name] for name in new} for row, one in zip(old, made, strict=True)]
    assert exacts(found) == exacts([tuple(row.values()) for row in expected])
    assert all(row._fields == tuple(one) for row, one in zip(found, expected, strict=True))
    chosen = run.take(table.dataset().select(column(last).alias("kept"), **new))
    assert exacts(chosen) == exacts((one["same"], *(one[name] for name in new)) for one in made)


@prop(4, tables(keys=1, others=3), runs)
def test_explode_and_unnest(table: Table, run: Run) -> None:
    """A list of the rows' first values beside a tuple of all that is left of them, taken apart again."""
    rows = [(i, [row[0]] * (i % 3), row[1:]) for i, row in enumerate(table.rows)]
    first, *others = table.kinds.values()
    if not others or {"null", "object"} & {first, *others}:
        return
    kinds = [KINDS[kind].declared for kind in (first, *others)]
    item = arrow_type(kinds[0])
    rest = pa.struct([(f"rest {i}", arrow_type(kind)) for i, kind in enumerate(kinds[1:])])
    data = mr.from_items(rows, names={"i": int, "many": pa.large_list(item), "rest": rest})
    found = run.take(data.explode("many").unnest("rest"))
    expected = [(i, one, *rest) for i, many, rest in rows for one in many or [None]]
    assert exacts(found) == exacts(expected)


# --- map_reduce ------------------------------------------------------------------------------------------------------


@prop(
    4,
    tables(keys=2, others=0),
    runs,
    st.booleans(),
    st.booleans(),
    st.sampled_from([False, True, "descending"]),
    st.none() | st.integers(1, 4),
)
def test_map_reduce(
    table: Table, run: Run, combined: bool, placed: bool, sort_values: Any, partitions: int | None
) -> None:
    """Keys of any kind, values of any kind; pairs of values as they are, or put in order."""

    def pairs(row: Any) -> Iterator[tuple[Any, Any]]:
        yield row[0], row[1]

    def shown(key: Any, values: Iterator[Any]) -> tuple[str, list[str]]:
        return exact(key), [exact(value) for value in values]

    more: Any = {"combiner": lambda _, values: values} if combined else {}
    if placed:
        partitions = partitions or 2
        more["partitioner"] = lambda key, n: len(exact(key)) % n
    reduced = table.dataset().map_reduce(pairs, shown, sort_values=sort_values, num_partitions=partitions, **more)
    found = run.take(reduced)
    expected = {}
    for rows in table.groups(key_names(table, 1)).values():
        if sort_values:
            rows = table.in_order(rows, table.names[1:2], [sort_values == "descending"])
            rows = [canonical(table, row, table.names) for row in rows]
        expected[exact(canonical(table, rows[0], table.names)[0])] = [exact(row[1]) for row in rows]
    zeros = {key: [v.replace("float -0.0", "float 0.0") if sort_values else v for v in values] for key, values in found}
    assert zeros == expected
    assert len(found) == len(expected)


@prop(
    4, st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 4), st.integers(0, 9))), runs, st.booleans()
)
def test_secondary_sort(rows: list[Any], run: Run, by_function: bool) -> None:
    def pairs(row: Any) -> Iterator[tuple[Any, Any]]:
        yield (row.k, row.i), row.v

    grouping: Any = (lambda key: key[0]) if by_function else 1
    data = mr.from_items(rows, names={"k": str, "i": int, "v": int})
    found = run.take(data.map_reduce(pairs, lambda k, vs: (k, list(vs)), grouping=grouping, sort_values=True))
    expected: dict[Any, list[Any]] = {}
    for k, _, v in sorted(rows, key=lambda row: row[1:]):
        expected.setdefault(k, []).append(v)
    assert dict(map(tuple, found)) == expected


@prop(4, tables(keys=1, others=1), runs)
def test_reduce_by_key(table: Table, run: Run) -> None:
    """A fold that keeps the first: associative, over values of any kind."""
    if len(table.names) < 2:
        return
    data = table.dataset().reduce_by_key(lambda a, b: a, key=table.names[0], value=table.names[1])
    firsts = [canonical(table, rows[0], table.names[:1])[:2] for rows in table.groups(key_names(table, 1)).values()]
    assert Counter(exacts(run.take(data))) == Counter(exacts(firsts))


# --- what is written is read again -----------------------------------------------------------------------------------

TEXTS = ("int", "float", "str", "bool", "date", "datetime", "zoned", "time", "decimal")
HOLDS: dict[str, tuple[Sequence[str], Sequence[str | None]]] = {
    "parquet": ([kind for kind in KINDS if kind != "object"], ("zstd", "snappy", "lz4", "none")),
    "arrow": ([kind for kind in KINDS if kind != "object"], (None, "zstd", "lz4")),
    "csv": (TEXTS, (None, "gzip", "zstd")),
    "json": ((*TEXTS, "named", "list"), (None, "gzip", "zstd")),
}
"""Formats: the kinds of columns that they hold, and their compressions."""
FOLDERS = ("int", "str", "bool", "date", "datetime", "zoned", "decimal", "null")


@st.composite
def written(draw: st.DrawFn) -> tuple[str, Table, dict[str, Any]]:
    """A format, a table that it holds, and options of the writer."""
    form = draw(st.sampled_from(list(HOLDS)))
    kinds = draw(st.lists(st.sampled_from(HOLDS[form][0]), min_size=1, max_size=4))
    names = draw(st.permutations(NAMES))[: len(kinds)]
    table = Table(dict(zip(names, kinds, strict=True)), *draw(rows_and_holes(kinds)))
    able = [name for name, kind in table.kinds.items() if kind in FOLDERS and form in ("parquet", "arrow")]
    by = draw(st.lists(st.sampled_from(able), max_size=len(kinds) - 1, unique=True)) if able else []
    size = draw(st.sampled_from([None, 1, 200]))
    codec = draw(st.sampled_from(HOLDS[form][1]))
    return form, table, {"partition_by": by, "target_file_size": size, "compression": codec}


def as_json(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are null."""
    if isinstance(value, list | tuple):
        return type(value)(map(as_json, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


@prop(5, written(), runs, st.booleans())
def test_what_is_written_is_read_again(given: Any, run: Run, one_file: bool) -> None:
    form, table, options = given
    one_file = one_file and not options["partition_by"]
    if one_file:
        del options["partition_by"], options["target_file_size"]
    ending = {"gzip": ".gz", "zstd": ".zst"}.get(options["compression"], "") if form in ("csv", "json") else ""
    schema = {name: KINDS[kind].declared for name, kind in table.kinds.items()}
    read: Any = {"schema": schema} if form in ("csv", "json") else {}
    data = table.dataset()
    rows = exacts([tuple(map(as_json, row)) if form == "json" else row for row in table.rows])
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("mr.inputs.ITEMS_PER_SPLIT", run.split)
        path = f"{folder}/out" + (f".{form}{ending}" if one_file else "")
        for mode, times in (("error", 1), ("append", 2), ("overwrite", 1)):
            if one_file and mode == "append":
                continue
            with mr.Session(on="inline", memory=run.memory, reuse=False):
                getattr(data, f"write_{form}")(path, mode=mode, **options)
                again = getattr(mr, f"read_{form}")(path, **read)
                found = again.take_all()
            assert again.schema().names == list(table.names)
            assert Counter(exacts(found)) == Counter(rows * times)
            if not options.get("partition_by"):
                assert exacts(found) == rows * times
