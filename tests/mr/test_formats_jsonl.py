"""JSON lines: types pinned from the head, misfits named, and what is written is what Python's json reads."""

from __future__ import annotations

import datetime as dt
import decimal
import io
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import Collected, batches, origins, read_all

import mr.formats.blocks
from mr.errors import InputError, PlanError
from mr.formats.jsonl import JsonReader, JsonWriter, infer_json
from mr.kernels.rows import Shape, from_python, to_python

INT, FLOAT, STR = pa.int64(), pa.float64(), pa.large_string()
PAIR = pa.schema([("s", STR), ("n", INT)])


def lines(records: list[Any]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def test_inferred_types() -> None:
    head = lines(
        [{"i": 1, "f": 1, "s": "x", "l": [], "o": {"a": 1}}, {"f": 2.5, "b": True, "l": ["x"], "o": {"b": []}}]
    )
    schema = infer_json(b"\xef\xbb\xbf" + head + b"nonsense\n[1]\n", "a.json", declared={"n": STR, "i": FLOAT})
    assert schema.names == ["i", "f", "s", "l", "o", "b", "n"]
    nested = pa.struct([("a", INT), ("b", pa.large_list(pa.null()))])
    assert schema.types == [FLOAT, FLOAT, STR, pa.large_list(STR), nested, pa.bool_(), STR]
    with pytest.raises(InputError, match=r"a\.json: column 'x\[\]' holds int and str"):
        infer_json(b'{"x": [1, "a"]}', "a.json")


def test_records_are_the_ones_of_python_json() -> None:
    records = [
        {"i": 1, "f": 1.5, "s": "é\n\U0001f600", "b": True, "l": [1, None], "o": {"a": "x", "d": [{"k": 1}]}},
        {},
        {"o": None, "l": None, "s": None},
        {"l": [], "o": {}, "i": -(2**63)},
    ]
    data = lines(records)
    table = pa.Table.from_batches([b.data for b in batches(JsonReader(infer_json(data, "p")), data)])
    assert table.to_pylist() == [
        {**dict.fromkeys(records[0]), **record, **({"o": {"a": None, "d": None}} if record.get("o") == {} else {})}
        for record in records
    ]


def test_declared_types_are_read_from_iso_strings() -> None:
    schema = pa.schema(
        [
            ("d", pa.date32()),
            ("t", pa.time64("us")),
            ("ts", pa.timestamp("us")),
            ("z", pa.timestamp("us", "UTC")),
            ("x", pa.decimal128(38, 18)),
            ("ds", pa.large_list(pa.date32())),
        ]
    )
    data = b'{"d":"2020-01-02","t":"01:02:03.5","ts":"2020-01-02T03:04:05","z":"2020-01-02T03:04:05+01:00","x":"1.5"}\n'
    assert read_all(JsonReader(schema), data + b'{"ds":["2020-01-02",null]}') == [
        (
            dt.date(2020, 1, 2),
            dt.time(1, 2, 3, 500_000),
            dt.datetime(2020, 1, 2, 3, 4, 5),
            dt.datetime(2020, 1, 2, 2, 4, 5, tzinfo=dt.UTC),
            decimal.Decimal("1.5"),
            None,
        ),
        (None, None, None, None, None, [dt.date(2020, 1, 2), None]),
    ]


MISFITS = [
    (b'{"s": "a", "n": 1.5}', "column 'n': 1.5 is not int; declare schema={'n': float}"),
    (b'{"s": "a", "n": "1"}', "column 'n': \"1\" is not int; declare schema={'n': str}"),
    (b'{"s": 1}', "column 's': 1 is not str; declare schema={'s': int}"),
    (b'{"n": 9223372036854775808}', "is not int"),
    (b'{"m": true}', "the key 'm' is no column; declare schema={'m': bool}"),
    (b"[1]", "is no JSON object but list"),
    (b'{"n": 1} {"n": 2}', "is not one JSON value a line: Extra data"),
    (b'{"n": 1', "is not one JSON value a line"),
    (b'{"s": "\xff"}', "is not one JSON value a line"),
    (b'{"n": 1, "n": 2}', "does not parse"),
    (b"nonsense", "is not one JSON value a line"),
]


@pytest.mark.parametrize(("line", "message"), MISFITS)
@pytest.mark.parametrize("at", [0, 57, 99])
def test_one_misfit_is_found_among_many_lines(line: bytes, message: str, at: int) -> None:
    good = [f'{{"s":"k{i}","n":{i}}}'.encode() for i in range(100)]
    all_lines = [*good[:at], line, *good[at:]]
    data = b"\n".join(all_lines)
    rejects = Collected()
    found = batches(JsonReader(PAIR), data, rejects)
    assert pa.Table.from_batches([b.data for b in found]).to_pylist() == [{"s": f"k{i}", "n": i} for i in range(100)]
    assert rejects.raws == [line]
    assert message in rejects.errors[0]
    assert rejects.origins == [[data.index(line), at]]
    assert origins(found) == [[data.index(good[i]), i + (i >= at)] for i in range(100)]


def test_blank_lines_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b'\n{"n": 1}\r\n  \n\n{"n": 2}\n \n'
    for block in (3, 9, 1 << 20):
        monkeypatch.setattr(mr.formats.blocks, "READ_BLOCK_BYTES", block)
        found = batches(JsonReader(PAIR), data)
        assert [n for b in found for n in b.data["n"].to_pylist()] == [1, 2]
        assert origins(found) == [[1, 1], [15, 4]]
    assert batches(JsonReader(PAIR), b"") == []


def test_columns() -> None:
    assert read_all(JsonReader(PAIR), b'{"s": "a", "n": 1}', columns=("n",)) == [(1,)]
    batch = batches(JsonReader(PAIR), b'{"s": "a", "n": 1}')[0].data
    assert batch.schema.equals(JsonReader(PAIR).schema(), check_metadata=True)
    with pytest.raises(PlanError, match=r"'m' cannot be dict\[str, int\]"):
        JsonReader(pa.schema([("m", pa.map_(STR, INT))]))


# --- writing ----------------------------------------------------------------------------------------------------------


def written(records: list[Any], shape: Shape | None = None, cut: int = 1000) -> bytes:
    batch, _ = from_python(records, shape)
    JsonWriter().check(batch.schema)
    out = io.BytesIO()
    parts = (batch.slice(i, cut) for i in range(0, len(records), cut))
    assert JsonWriter().write(parts, batch.schema, out) == len(records)
    return out.getvalue()


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
floats = st.floats(allow_nan=False, allow_infinity=False)
flat = {
    "s": st.none() | text,
    "i": st.none() | st.integers(-(2**63), 2**63 - 1),
    "f": st.none() | floats,
    "b": st.none() | st.booleans(),
    'q"': text,
}
nested = {"l": st.lists(floats, max_size=2), "m": st.dictionaries(text, text, max_size=2), "t": st.tuples(text, floats)}


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.fixed_dictionaries(flat), min_size=1, max_size=4)
    | st.lists(st.fixed_dictionaries(flat | nested), min_size=1, max_size=4),
    st.integers(1, 4),
)
def test_written_lines_are_what_python_reads(records: list[dict[str, Any]], cut: int) -> None:
    data = written(records, cut=cut)
    assert data == written(records)
    found = [json.loads(line) for line in data.decode().split("\n")[:-1]]
    assert found == [{name: as_json(value) for name, value in record.items()} for record in records]


def as_json(value: Any) -> Any:
    """What Python's json reads where `value` was written: a tuple is an object that counts its items."""
    if isinstance(value, tuple):
        return {str(place): as_json(item) for place, item in enumerate(value)}
    return [as_json(item) for item in value] if isinstance(value, list) else value


tuples = st.none() | st.tuples(text, st.none() | st.integers(-(2**63), 2**63 - 1))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.fixed_dictionaries({"t": tuples, "l": st.lists(tuples, max_size=2), "n": st.tuples(tuples, floats)}))
)
def test_tuples_are_read_back_as_they_were_written(records: list[dict[str, Any]]) -> None:
    records = [{"t": ("a", 1), "l": [("a", 1)], "n": (("a", 1), 0.5)}, *records]  # which tells all types
    data = written(records)
    rows = [row for b in batches(JsonReader(infer_json(data, "p")), data) for row in to_python(b.data)]
    assert [row._asdict() for row in rows] == records
    assert all(type(row.n) is tuple for row in rows)


def test_tuples_are_objects_beside_what_only_python_writes() -> None:
    record = {"t": (1, ("x", None)), "m": {"k": (2,)}}
    assert written([record]) == b'{"t":{"0":1,"1":{"0":"x","1":null}},"m":{"k":{"0":2}}}\n'


@pytest.mark.parametrize("beside", [None, {"k": 1}])
def test_numbers_that_json_lacks_are_null(beside: Any) -> None:
    for number in (float("nan"), float("inf"), float("-inf")):
        found = json.loads(written([{"f": number, "l": [number], "t": (number,), "d": beside}]))
        assert found == {"f": None, "l": [None], "t": {"0": None}, "d": beside}


def test_written_bytes() -> None:
    value = Shape("values", ("value",), (None,))
    assert written(["a", None], value) == b'{"value":"a"}\n{"value":null}\n'
    moment = dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    row = {"d": dt.date(2020, 1, 2), "t": dt.time(1), "ts": moment, "x": decimal.Decimal("0.5"), "n": float("nan")}
    expected = {"d": "2020-01-02", "t": "01:00:00.000000", "ts": "2020-01-02T03:04:05.000000+00:00", "n": None}
    plain = json.loads(written([row]))
    assert decimal.Decimal(plain.pop("x")) == decimal.Decimal("0.5")
    assert plain == expected
    deep = json.loads(written([{**row, "o": [row["x"], None]}]))
    assert {name: deep[name] for name in expected} == expected
    assert written([{"é": "é\u2028"}]) == '{"é":"é\u2028"}\n'.encode()


def test_bytes_are_text_with_escapes() -> None:
    for rest in ({}, {"x": [1]}):  # flat and nested
        lines = written([{"b": b"caf\xc3\xa9", **rest}, {"b": b"\xff\\", **rest}, {"b": None, **rest}]).splitlines()
        assert [json.loads(line)["b"] for line in lines] == ["café", "\\xff\\\\", None]


@pytest.mark.parametrize("value", [[b"x"], dt.timedelta(1), {1}, {1: "a"}])
def test_what_json_cannot_hold(value: Any) -> None:
    batch, _ = from_python([{"v": value}], None)
    with pytest.raises(PlanError, match=r"write_json: column 'v' .*write_parquet"):
        JsonWriter().check(batch.schema)
