"""map_reduce and reduce_by_key against plain Python: combiner, partitioner, order of values, secondary sort."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dataset_kit import shrink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mr

rows_of = st.lists(st.tuples(st.sampled_from("abcé"), st.integers(-3, 3), st.integers(0, 9)), max_size=24)
fast = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, inline: mr.Session) -> None:
    shrink(monkeypatch)
    inline.reuse = False


def data_of(rows: list[Any]) -> mr.Dataset:
    return mr.from_items(rows, names={"k": str, "t": int, "v": int})


def pairs(row: Any) -> Iterator[tuple[str, int]]:
    yield row.k, row.v


def timed(row: Any) -> Iterator[tuple[tuple[str, int], int]]:
    yield (row.k, row.t), row.v


def listed(key: Any, values: Iterator[int]) -> tuple[Any, list[int]]:
    return key, list(values)


def groups_of(rows: list[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    found = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return found


def found(dataset: mr.Dataset) -> dict[Any, list[int]]:
    rows = dataset.take_all()
    with mr.Session(on="inline", memory=1, reuse=False):
        assert dataset.take_all() == rows  # whatever the budget
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0]: row[1] for row in rows}


@fast
@given(rows_of)
def test_values_come_in_input_order_or_sorted(rows: list[Any]) -> None:
    wanted = {k: [row[2] for row in members] for k, members in groups_of(rows, lambda row: row[0]).items()}
    data = data_of(rows)
    assert found(data.map_reduce(pairs, listed)) == wanted
    assert found(data.map_reduce(pairs, listed, sort_values=True)) == {k: sorted(vs) for k, vs in wanted.items()}
    descending = data.map_reduce(pairs, listed, sort_values="descending", num_partitions=3)
    assert found(descending) == {k: sorted(vs, reverse=True) for k, vs in wanted.items()}


@fast
@given(rows_of)
def test_grouping_is_a_secondary_sort(rows: list[Any]) -> None:
    groups = groups_of(rows, lambda row: row[0])
    in_time = {k: [row[2] for row in sorted(members, key=lambda row: row[1])] for k, members in groups.items()}
    data = data_of(rows)
    assert found(data.map_reduce(timed, listed, grouping=1)) == in_time
    assert found(data.map_reduce(timed, listed, grouping=lambda key: key[0])) == in_time
    both = {k: [row[2] for row in sorted(members, key=lambda row: row[1:])] for k, members in groups.items()}
    assert found(data.map_reduce(timed, listed, grouping=1, sort_values=True)) == both
    whole = groups_of(rows, lambda row: row[:2])
    assert found(data.map_reduce(timed, listed, grouping=2)) == {k: [r[2] for r in rs] for k, rs in whole.items()}


@fast
@given(rows_of)
def test_a_combiner_changes_only_how_many_values_the_reducer_gets(rows: list[Any]) -> None:
    def total(key: Any, values: Iterator[int]) -> tuple[Any, int]:
        return key, sum(values)

    sums = {k: sum(row[2] for row in members) for k, members in groups_of(rows, lambda row: row[0]).items()}
    data = data_of(rows)
    assert found(data.map_reduce(pairs, total, combiner=lambda key, values: sum(values))) == sums
    by_key = data.map_reduce(timed, total, grouping=1, combiner=lambda key, values: sum(values) + 0 * key[1])
    assert found(by_key) == sums
    keeps_large = data.map_reduce(pairs, listed, combiner=lambda key, values: (v for v in values if v > 4))
    wanted = {k: [r[2] for r in rs if r[2] > 4] for k, rs in groups_of(rows, lambda row: row[0]).items()}
    assert found(keeps_large) == {k: vs for k, vs in wanted.items() if vs}  # no value is left, no key either


@fast
@given(rows_of)
def test_reduce_by_key_folds(rows: list[Any]) -> None:
    firsts = data_of(rows).reduce_by_key(lambda a, b: a, key="k", value="v")
    lasts = data_of(rows).reduce_by_key(lambda a, b: b, key="k", value="t")
    groups = groups_of(rows, lambda row: row[0])
    assert found(firsts) == {k: members[0][2] for k, members in groups.items()}
    assert found(lasts) == {k: members[-1][1] for k, members in groups.items()}


def test_a_partitioner_chooses_among_tasks_by_the_group() -> None:
    data = data_of([("b", 2, 1), ("a", 1, 2), ("b", 1, 3)])
    parts = data.map_reduce(
        timed, lambda key, values: key, grouping=1, partitioner=lambda group, n: ord(group) % n, num_partitions=2
    )
    assert parts.take_all() == ["b", "a"]


def test_options_that_make_no_sense_are_refused() -> None:
    data = data_of([("a", 1, 2)])
    with pytest.raises(mr.PlanError, match="partitioner= needs num_partitions="):
        data.map_reduce(pairs, listed, partitioner=lambda key, n: 0)
    with pytest.raises(mr.PlanError, match="sort_values='down': use True"):
        data.map_reduce(pairs, listed, sort_values="down")  # type: ignore[arg-type]
    with pytest.raises(mr.PlanError, match="grouping=0 is neither a function nor"):
        data.map_reduce(pairs, listed, grouping=0)
    with pytest.raises(mr.JobFailed, match="grouping=1 needs keys that are tuples"):
        data.map_reduce(pairs, listed, grouping=1).take_all()


def test_a_value_that_cannot_be_sorted_is_an_error() -> None:
    data = data_of([("a", 1, 2), ("a", 1, 2)])
    with pytest.raises(mr.JobFailed, match="cannot be a key or sorted by"):
        data.map_reduce(lambda row: [(row.k, [row.v])], listed, sort_values=True).take_all()
