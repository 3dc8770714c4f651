"""What a function of batches, partitions or groups raises for is left out whole, as plain Python would leave it out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mr
import mr.operators.group_batches
import mr.operators.held
import mr.operators.partitions
import mr.operators.pygroups
from tests.mr.dataset_kit import shrink

PAIRS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 12)), max_size=40)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, inline: mr.Session) -> None:
    shrink(monkeypatch)


def picky(key: str, values: Iterable[int]) -> Iterator[tuple[str, int]]:
    """Yields before it raises."""
    for value in values:
        yield key, value * 2
        if value > 10:
            raise ValueError(f"{value} is too much")


def by_key(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return groups


def good_and_bad(pairs: list[tuple[str, int]]) -> tuple[list[tuple[str, int]], dict[str, int]]:
    """What `picky` gives for groups that it takes, and how many records the others have."""
    good, bad = [], {}
    for key, values in by_key(pairs).items():
        try:
            good += list(picky(key, values))
        except ValueError:
            bad[key] = len(values)
    return sorted(good), bad


MAKERS: dict[str, Callable[[mr.Dataset, Any], mr.Dataset]] = {
    "map_groups": lambda data, on_error: data.group_by("key").map_groups(
        lambda key, rows: picky(key, (row.value for row in rows)), names=["key", "value"], on_error=on_error
    ),
    "map_reduce": lambda data, on_error: data.map_reduce(
        lambda row: iter([(row.key, row.value)]), picky, names=["key", "value"], on_error=on_error
    ),
    "grouping": lambda data, on_error: data.map_reduce(
        lambda row: iter([((row.key, 0), row.value)]), picky, grouping=1, names=["key", "value"], on_error=on_error
    ),
    "cogroup": lambda data, on_error: data.cogroup(
        mr.from_items([("z", 1)]).filter(pl.lit(False)), on="key"
    ).map_groups(
        lambda key, rows, _: picky(key, (row.value for row in rows)), names=["key", "value"], on_error=on_error
    ),
}


@pytest.mark.parametrize("maker", MAKERS)
@settings(max_examples=6, deadline=None)
@given(pairs=PAIRS)
def test_a_group_for_which_the_function_raises_gives_nothing(maker: str, pairs: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch, mr.Session(on="inline"):
        shrink(patch)
        good, bad = good_and_bad(pairs)
        data = mr.from_items(pairs, names={"key": str, "value": int})
        assert sorted(MAKERS[maker](data, "skip").take_all()) == good
        rejects = MAKERS[maker](data, "quarantine").rejected().take_all()
        assert sorted(row.raw.decode() for row in rejects) == sorted(bad)
        assert all("is too much" in row.error and row.path is None for row in rejects)


@pytest.mark.usefixtures("small")
def test_all_records_of_a_group_count_for_the_budget_also_those_not_read(tmp_path: Path) -> None:
    data = mr.from_items([("a", 99), *[("a", 1)] * 20, ("b", 1), *[("c", 2)] * 30])
    assert dict(MAKERS["map_groups"](data, "skip").write_json(str(tmp_path / "x")).counters) == {"rejected records": 21}

    def limited(most: float) -> mr.Dataset:
        groups = data.group_by("key")
        return groups.map_groups(lambda key, rows: picky(key, [next(rows)[1]]), on_error="skip", max_bad_records=most)

    assert limited(21).count() == limited(0.41).count() == 2
    for most in (20, 0.40):
        with pytest.raises(mr.JobFailed, match=r"map_groups .*rejected 21 of 52 records, more than max_bad_records"):
            limited(most).count()


@pytest.mark.parametrize("memory", [1 << 20, 1])
def test_what_a_large_group_gave_is_held_until_it_is_over(
    memory: int, monkeypatch: pytest.MonkeyPatch, inline: mr.Session
) -> None:
    """In files, where it does not fit the memory; those of a group that is left out are removed."""
    shrink(monkeypatch)
    held = mr.operators.held.Held
    monkeypatch.setattr(mr.operators.pygroups, "Held", lambda scratch, _: held(scratch, memory))
    monkeypatch.setattr(mr.operators.partitions, "Held", lambda scratch, _: held(scratch, memory))
    pairs = [("a", n % 10) for n in range(50)] + [("b", n % 13) for n in range(60)] + [("c", 1)] + [("d", 3)] * 20
    pairs += [(key, 1) for key in "efghij"]
    good, bad = good_and_bad(pairs)
    assert set(bad) == {"b"}
    data = mr.from_items(pairs, names=["key", "value"])
    assert sorted(MAKERS["map_groups"](data, "skip").take_all()) == good

    def in_order(rows: mr.Dataset, on_error: Any) -> list[Any]:
        groups = rows.group_by("key", num_partitions=1)
        return groups.map_groups(
            lambda key, rows: picky(key, [row.value for row in rows]), on_error=on_error
        ).take_all()

    assert in_order(data, "skip") == in_order(data.filter(pl.col("key") != "b"), "fail")
    doubled = data.repartition(1).map_partitions(lambda rows: (row.value * 2 for row in rows), on_error="skip")
    assert sorted(doubled.take_all()) == sorted(2 * value for _, value in pairs)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("bad", ["a", "b"])
def test_the_shape_of_a_group_that_is_left_out_does_not_count(bad: str) -> None:
    def mixed(key: str, rows: Iterator[Any]) -> Iterator[Any]:
        for _ in range(5):
            yield (1, 2) if key == bad else 1
        if key == bad:
            raise ValueError

    data = mr.from_items([("a", 1), ("b", 1)])
    assert data.group_by("key", num_partitions=1).map_groups(mixed, on_error="skip").take_all() == [1] * 5


@pytest.mark.usefixtures("small")
def test_values_that_the_combiner_does_not_take_go_to_the_reducer_as_they_are() -> None:
    """Whose result decides: the combiner raises for a block, the reducer for the key."""

    def total(key: str, values: Iterable[int]) -> Iterator[int]:
        yield 0
        yield sum(values) if key == "good" else sum(values) + int(key)

    def rows(record: tuple[str, int]) -> Iterator[tuple[str, int]]:
        yield record

    pairs = [("good", n) for n in range(20)] + [("bad", n) for n in range(20)]

    def made(policy: Any) -> mr.Dataset:
        data = mr.from_items(pairs)
        return data.map_reduce(rows, lambda key, ns: (key, sum(total(key, ns))), combiner=total, on_error=policy)

    assert made("skip").take_all() == [("good", 190)]
    (bad,) = made("quarantine").rejected().take_all()
    assert (bad.raw, bad.error) == (b"bad", "ValueError: invalid literal for int() with base 10: 'bad'")

    def odd(word: str, ns: Iterator[int]) -> Iterator[int]:
        yield next(ns)
        raise ValueError("always")

    data = mr.from_items(pairs).map_reduce(rows, lambda key, ns: (key, sum(ns)), combiner=odd, on_error="skip")
    assert sorted(data.take_all()) == [("bad", 190), ("good", 190)]
    folded = mr.from_items([("a", 1), ("a", 2), ("b", 3), ("b", 0), ("b", 4)]).reduce_by_key(
        lambda a, b: a // b * 1 if b else 1 // b, on_error="quarantine"
    )
    assert [row.raw for row in folded.rejected().take_all()] == [b"b"]


@pytest.mark.usefixtures("small")
def test_map_reduce_leaves_out_records_and_keys() -> None:
    def words(line: str) -> Iterator[tuple[str, int]]:
        for word in line.split():
            yield word, 1
        if "!" in line:
            raise ValueError("shouting")

    def counted(word: str, ns: Iterator[int]) -> tuple[str, int]:
        return word, 10 // (sum(ns) - 2)

    lines = ["a b", "a! c", "b", "c"]
    data = mr.from_items(lines).map_reduce(words, counted, on_error="quarantine")
    assert sorted((row.operator.rpartition(".")[2], row.raw) for row in data.rejected().take_all()) == [
        ("counted", b"b"),
        ("words", b"a! c"),
    ]
    with pytest.raises(mr.PlanError, match=r'on_error="quarantine", but nothing uses \.rejected\(\)'):
        data.write_json("never")


def spoilt(frame: pl.DataFrame) -> pl.DataFrame:
    if frame["value"].max() > 10:  # type: ignore[operator]
        raise ValueError("too much")
    return frame.select(pl.col("value") * 2)


@pytest.mark.parametrize("values", [[1, 2, 3, 11, 5, 6, 7, 8], [11, 2, 3, 4, 5], list(range(13)), [1]])
def test_a_batch_for_which_the_function_raises_can_be_read_from_its_reject(
    values: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: mr.Session
) -> None:
    (tmp_path / "a.csv").write_text("value\n" + "".join(f"{n}\n" for n in values))
    shrink(monkeypatch)
    monkeypatch.setattr("mr.inputs.LOCAL_SPLIT_BYTES", 1 << 20)
    data = mr.read_csv(str(tmp_path / "a.csv"))
    batches = [values[i : i + 3] for i in range(0, len(values), 3)]
    bad = [(i * 3, batch) for i, batch in enumerate(batches) if max(batch) > 10]
    kept = data.map_batches(spoilt, batch_size=3, names=["value"], on_error="skip")
    assert [row.value for row in kept.take_all()] == [2 * n for batch in batches if max(batch) <= 10 for n in batch]
    rejects = data.map_batches(spoilt, batch_size=3, on_error="quarantine").rejected().take_all()
    found = [(row.line - 2, pl.read_ipc_stream(row.raw)["value"].to_list()) for row in rejects]
    assert found == bad
    assert [row.error for row in rejects] == ["ValueError: too much"] * len(bad)
    limited = data.map_batches(spoilt, batch_size=3, on_error="skip", max_bad_records=2)
    if bad:
        with pytest.raises(mr.JobFailed, match=rf"rejected 3 of {len(values)} records|rejected \d of"):
            limited.take_all()


@pytest.mark.usefixtures("small")
def test_a_batch_of_groups_is_left_out_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mr.operators.group_batches, "GROUP_BATCH_ROWS", 1)
    data = mr.from_items([("a", 1), ("b", 11), ("b", 2), ("c", 3)], names=["key", "value"]).group_by("key")
    assert sorted(data.map_batches(spoilt, names=["value"], on_error="skip").take_all()) == [(2,), (6,)]
    (bad,) = data.map_batches(spoilt, on_error="quarantine").rejected().take_all()
    assert pl.read_ipc_stream(bad.raw).rows() == [("b", 11), ("b", 2)]


@pytest.mark.usefixtures("small")
def test_a_partition_for_which_the_function_raises_gives_nothing(tmp_path: Path) -> None:
    for name, numbers in (("a", [1, 2, 3, 4, 5]), ("b", [6, 7, 8, 9, 0, 8]), ("c", [9])):
        (tmp_path / f"{name}.txt").write_text("".join(f"{n}\n" for n in numbers))

    def inverse(lines: Iterator[str]) -> Iterator[float]:
        for line in lines:
            yield 1 / int(line)

    lines = mr.read_text(str(tmp_path / "*.txt"))
    kept = lines.map_partitions(inverse, on_error="skip").take_all()
    assert kept == [1 / n for n in (1, 2, 3, 4, 5, 9)]
    (bad,) = lines.map_partitions(inverse, on_error="quarantine").rejected().take_all()
    assert (bad.path, bad.line, bad.raw) == (str(tmp_path / "b.txt"), 1, b"0")
    assert bad.error == "ZeroDivisionError: division by zero, after 5 of 6 records of the partition"
    with pytest.raises(mr.JobFailed, match=r"after 5 records of the partition that begins at .*b\.txt, line 1, byte 0"):
        lines.map_partitions(inverse).take_all()
    with pytest.raises(mr.JobFailed, match="rejected 6 of 12 records"):
        lines.map_partitions(inverse, on_error="skip", max_bad_records=0.3).take_all()


def test_a_lack_of_memory_is_no_fault_of_the_record(inline: mr.Session) -> None:
    def large(_: Any) -> Any:
        raise MemoryError

    data = mr.from_items([("a", 1)])
    for made in (
        data.map(large, on_error="skip"),
        data.map_batches(large, on_error="skip"),
        data.map_partitions(large, on_error="skip"),
        data.group_by("key").map_groups(lambda key, rows: large(rows), on_error="skip"),
        data.group_by("key").map_batches(large, on_error="skip"),
    ):
        with pytest.raises(mr.JobFailed, match="out of memory"):
            made.take_all()


@pytest.mark.usefixtures("small")
def test_partitions_give_one_type(tmp_path: Path) -> None:
    numbers = mr.from_items(range(8))  # two splits
    with pytest.raises(mr.TypeConflict, match="map_partitions"):
        numbers.map_partitions(lambda ns: ["x" if n == 0 else n for n in ns if n % 4 == 0]).count()

    def some(ns: Iterator[int]) -> Iterator[Any]:
        if next(ns) == 0:
            yield from "xxxxx"
            raise ValueError
        yield 1

    assert numbers.map_partitions(some, on_error="skip").take_all() == [1], "what is left out has no say"
