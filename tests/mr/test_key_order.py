"""Every row of docs/keys-and-types.md: which values are one key, in which order keys come, and what is refused."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import struct
import unicodedata
import uuid
import zoneinfo
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from dataset_kit import shrink
from hypothesis import given, settings
from hypothesis import strategies as st

import mr

D = decimal.Decimal
NAN = float("nan")
OTHER_NAN = struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000123))[0]
NOON = dt.datetime(2020, 6, 1, 12, tzinfo=dt.UTC)
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, inline: mr.Session) -> None:
    shrink(monkeypatch)


def dataset(keys: list[Any], start: int = 0) -> mr.Dataset:
    return mr.from_items([(key, i) for i, key in enumerate(keys, start)], names=["k", "i"])


def groups(keys: list[Any]) -> list[tuple[Any, int]]:
    return [tuple(row) for row in dataset(keys).group_by("k").agg(n=mr.count()).sort("k").take_all()]


def canon(value: Any) -> Any:
    """NaN as something that is equal to itself."""
    if isinstance(value, tuple):
        return tuple(map(canon, value))
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


ONE_KEY = {
    "None and None": [None, None, None, 1],
    "NaN and NaN, whatever their bits": [NAN, OTHER_NAN, -NAN, 1.0],
    "0.0 and -0.0": [-0.0, 0.0, -0.0, 1.0],
    "1 and 1.0 in one column": [1, 1.0, 1, 2],
    'Decimal("1.0") and Decimal("1.00")': [D("1.0"), D("1.00"), D(1), D("1.000000000000000001")],
    "timedelta(hours=24) and timedelta(days=1)": [
        dt.timedelta(hours=24),
        dt.timedelta(days=1),
        dt.timedelta(minutes=1440),
        dt.timedelta(days=1, microseconds=1),
    ],
    "datetimes without a zone": [
        dt.datetime(2020, 10, 25, 2, 30),
        dt.datetime(2020, 10, 25, 2, 30, fold=1),
        dt.datetime(2020, 10, 25, 2, 30),
        dt.datetime(2020, 10, 25, 2, 31),
    ],
    "tuples": [(1, NAN, None), (1, OTHER_NAN, None), (1, -NAN, None), (1, 0.0, None)],
}


@pytest.mark.parametrize("row", ONE_KEY)
def test_values_that_are_one_key(row: str) -> None:  # F48
    """The first three are one, the last another; the same in groups, distinct, joins and order."""
    *same, other = keys = ONE_KEY[row]
    found = groups(keys)
    assert sorted(n for _, n in found) == [1, 3]
    key = next(key for key, n in found if n == 3)
    assert canon(key) == canon(same[1] if row != "0.0 and -0.0" else 0.0)
    if isinstance(key, float):
        assert math.copysign(1.0, key) == 1.0 or math.isnan(key)
    assert len(dataset(keys).distinct("k").take_all()) == 2
    assert dataset(keys).agg(n=mr.count_distinct("k")).take_all() == [(1 if None in keys else 2,)]
    nulls = None in same or any(isinstance(key, tuple) and None in key for key in same)
    for strategy in ("broadcast", "sort_merge"):
        joined = dataset(keys).join(dataset([key]), on="k", strategy=strategy).take_all()
        assert len(joined) == (0 if nulls else 3)
    first = [row.i for row in dataset([*same, other, *same]).sort("k").take_all()]
    assert first in ([0, 1, 2, 4, 5, 6, 3], [3, 0, 1, 2, 4, 5, 6]), "ties keep input order"


NOT_ONE_KEY = {
    '"é" as one character (NFC) and as two (NFD)': ["é", unicodedata.normalize("NFD", "é")],
    '"a", "A" and "a "': ["a", "A", "a ", "ａ"],
    "a tuple of Nones and None": [(None, None), None, (1, None)],
    "what a hash without its length would take for one": [("a", "bc"), ("ab", "c"), ("abc", "")],
    "bytes that end in zeros": [b"a", b"a\0", b"a\0\0", b""],
}


@pytest.mark.parametrize("row", NOT_ONE_KEY)
def test_values_that_are_several_keys(row: str) -> None:  # F48
    keys = NOT_ONE_KEY[row]
    assert sorted(n for _, n in groups(keys * 2)) == [2] * len(keys)
    joined = dataset(keys).join(dataset(keys), on="k", strategy="sort_merge").take_all()
    whole = [key for key in keys if key is not None and not (isinstance(key, tuple) and None in key)]
    assert sorted(map(repr, (row.k for row in joined))) == sorted(map(repr, whole))


ERRORS = {
    "1 and True in one column": ([1, True], "int.*bool"),
    'b"a" and "a" in one column': ([b"a", "a"], "bytes.*str"),
    'Decimal("1") and 1 in one column': ([D(1), 1], "Decimal.*int"),
    "one instant in two zones in one column": ([NOON, NOON.astimezone(BERLIN)], "time zones.*astimezone"),
    "a datetime with and one without a zone": ([NOON, NOON.replace(tzinfo=None)], "time zones"),
    "a date and a datetime in one column": ([dt.date(2020, 1, 1), dt.datetime(2020, 1, 1)], "date.*datetime"),
    "an int beyond 64 bits": ([1, 2**63], "9223372036854775808"),
    "an int that no float holds": ([0.5, 2**53 + 1], "9007199254740993"),
}


@pytest.mark.parametrize("row", ERRORS)
def test_values_that_are_an_error_beside_each_other(row: str) -> None:  # F48
    keys, words = ERRORS[row]
    with pytest.raises(mr.TypeConflict, match=rf"'k'.*{words}"):
        dataset(keys)
    for before in (0, 1, 2, 3, 4, 8):  # in one batch, in two batches of a task, in two tasks
        many = mr.from_items(range(before + 4)).map(lambda n: keys[0] if n < before + 2 else keys[1], names="k")  # noqa: B023
        uses = [many.distinct("k"), many.sort("k"), many.agg(n=mr.count())]
        if row == "an int that no float holds":
            uses.pop()  # types that fit: nobody looks at the value where it is only counted
        for use in uses:
            with pytest.raises((mr.TypeConflict, mr.JobFailed), match=f"'k'.*({words}|in some records)"):
                use.take_all()


@pytest.mark.parametrize(
    "key", [[1], {"a": 1}, {1}, frozenset({1}), Colour.RED, Level.LOW, uuid.UUID(int=1), 1j, 2**70], ids=repr
)
def test_what_is_no_key_travels_and_is_refused_as_a_key_and_in_files(key: Any, tmp_path: Path) -> None:
    """Big ints and the like travel where they are declared as objects."""
    values = mr.from_items(range(6)).map(
        lambda n: (key, n), names={"k": object, "n": int} if key == 2**70 else ["k", "n"]
    )
    back = values.map(lambda row: (type(row.k) is type(key) and row.k == key, row.n), names=["same", "n"]).take_all()
    assert [row.same for row in back] == [True] * 6
    for use in (
        lambda: values.group_by("k").agg(n=mr.count()).take_all(),
        lambda: values.sort("k").take_all(),
        lambda: values.distinct("k").take_all(),
        lambda: values.join(values, on="k").take_all(),
    ):
        with pytest.raises((mr.PlanError, mr.JobFailed, mr.TypeConflict), match=r"k'?.*(cannot be|compared|no order)"):
            use()
    if not isinstance(key, list | dict):
        with pytest.raises((mr.PlanError, mr.JobFailed), match=r"'k' holds Python objects"):
            values.write_parquet(str(tmp_path / "out"))
    by_n = values.group_by("n").map_groups(lambda n, rows: (n, next(iter(rows)).k == key), names=["n", "same"])
    assert {row.same for row in by_n.take_all()} == {True}, "through a shuffle"


ORDERS: dict[str, list[Any]] = {
    "bool": [False, True, None],
    "int": [-(2**63), -1, 0, 1, 2**63 - 1, None],
    "float": [-math.inf, -1.5, 0.0, 5e-324, 1.0, math.inf, NAN, None],
    "Decimal": [D("-2"), D("-0.5"), D("0"), D("1e-18"), D("1"), D("12345678901234567890"), None],
    "str": ["", "A", "Z", "a", "a\0", "ab", "z", "é", "\ufffd", "\U0001f600", None],
    "bytes": [b"", b"\0", b"a", b"a\0", b"b", b"\x80", b"\xff", None],
    "date": [dt.date(1, 1, 1), dt.date(1969, 12, 31), dt.date(2020, 1, 1), dt.date(9999, 12, 31), None],
    "time": [dt.time(0), dt.time(0, 0, 0, 1), dt.time(23, 59, 59, 999999), None],
    "datetime": [dt.datetime(1, 1, 1), dt.datetime(1969, 12, 31, 23), dt.datetime(2020, 1, 1, 0, 0, 0, 1), None],
    "datetime with a zone": [NOON.astimezone(BERLIN) + dt.timedelta(hours=n) for n in (-5000, 0, 5000)] + [None],
    "timedelta": [dt.timedelta(-1), dt.timedelta(0), dt.timedelta(microseconds=1), dt.timedelta(1), None],
    "tuple": [(0, "z"), (1, "a"), (1, "b"), (1, None), (None, "a"), (None, None), None],
}


@pytest.mark.parametrize("row", ORDERS)
def test_the_order_of_keys(row: str) -> None:  # F48
    wanted = ORDERS[row]
    shuffled = [wanted[i * 7 % len(wanted)] for i in range(len(wanted))] if len(wanted) % 7 else wanted[::-1]
    assert sorted(map(repr, shuffled)) == sorted(map(repr, wanted))
    found = [canon(r.k) for r in dataset(shuffled).sort("k").take_all()]
    assert found == [canon(key) for key in wanted]
    assert [canon(key) for key, _ in groups(shuffled)] == found
    down = [canon(r.k) for r in dataset(shuffled).sort("k", descending=True).take_all()]
    if row == "tuple":
        assert down == [(1, "b"), (1, "a"), (1, None), (0, "z"), (None, "a"), (None, None), None]
    else:
        assert down == [*reversed(found[:-1]), None], "None is last in both directions"
    top = [canon(r.k) for r in dataset(shuffled).top_k(3, by="k").take_all()]
    assert top == down[:3]


scalars = {
    "int": st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2),
    "float": st.floats() | st.sampled_from([0.0, -0.0, NAN, 1.0]),
    "str": st.text(max_size=4),
    "bytes": st.binary(max_size=4),
    "decimal": st.decimals(-(10**6), 10**6, places=3),
    "datetime": st.datetimes(),
    "bool": st.booleans(),
}


def rank(value: Any) -> tuple[Any, ...]:
    if value is None:
        return (1,)
    if isinstance(value, tuple):
        return (0, *(rank(item) for item in value))
    if isinstance(value, float):
        return (0, math.isnan(value), 0.0 if math.isnan(value) else value)
    return (0, value.encode() if isinstance(value, str) else value)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_equality_order_and_hash_agree_with_python_for_any_keys(data: st.DataObject) -> None:  # F48
    kinds = data.draw(st.lists(st.sampled_from(sorted(scalars)), min_size=1, max_size=2))
    parts = [st.none() | scalars[kind] for kind in kinds]
    key = parts[0] if len(parts) == 1 else st.none() | st.tuples(*parts)
    keys = data.draw(st.lists(key, min_size=1, max_size=12))
    if all(key is None for key in keys):
        keys.append(("x", 1) if len(parts) == 2 else "x")
    ranks = [rank(key) for key in keys]
    rows = dataset(keys).sort("k").take_all()
    assert [row.i for row in rows] == sorted(range(len(keys)), key=lambda i: (ranks[i], i))
    counted = dataset(keys).group_by("k").agg(n=mr.count()).take_all()
    assert sorted(n for _, n in counted) == sorted(ranks.count(one) for one in set(ranks))


def test_float_sums_do_not_depend_on_the_order_in_which_tasks_end(monkeypatch: pytest.MonkeyPatch) -> None:  # F50
    """The last submitted attempt first."""
    from mr.executors.inline import InlineExecutor

    def run(turned: bool) -> list[Any]:
        with pytest.MonkeyPatch.context() as patch:
            if turned:
                submit = InlineExecutor.submit
                patch.setattr(
                    InlineExecutor, "submit", lambda self, a, node: (submit(self, a, node), self._queue.rotate(1))[0]
                )
            with mr.Session(on="inline", workers=1, reuse=False):
                data = mr.from_items([("k", 0.1 * 3**n) for n in range(40)], names=["k", "x"])
                sums = data.group_by("k").agg(s=mr.sum("x"), m=mr.mean("x"), f=mr.first("x"), c=mr.collect("x"))
                return sums.take_all()

    assert run(False) == run(True)


def test_every_row_of_the_tables_is_tested() -> None:
    text = (Path(__file__).parents[2] / "docs" / "keys-and-types.md").read_text()
    table = text.partition("## Which keys are one")[2].partition("## In which order")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")][1:]
    tested = {*ONE_KEY, *NOT_ONE_KEY, *ERRORS, "list, dict, set, Enum, any pickled object"}
    assert [row for row in rows if row not in tested] == []


def test_zones_are_names_and_joins_of_two_are_refused() -> None:
    one = dataset([NOON])
    other = one.with_columns(k=pl.col("k").dt.convert_time_zone("Europe/Berlin"))
    with pytest.raises(mr.PlanError, match=r"datetime\[UTC\].*datetime\[Europe/Berlin\]"):
        one.join(other, on="k").take_all()
    back = other.with_columns(k=pl.col("k").dt.convert_time_zone("UTC"))
    assert len(one.join(back, on="k").take_all()) == 1
