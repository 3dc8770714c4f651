"""Joins: against nested loops in plain Python, and against DuckDB."""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_oracle import POOLS, columns, expected_order, identity

import mr.kernels.joined
from mr.errors import PlanError
from mr.kernels import lookup
from mr.kernels.join import Chunk, build, join_chunks, probe, right_names
from mr.kernels.joined import HOWS, JoinLayout
from mr.kernels.mapped_join import mapped_right, probe_mapped

Pairs = list[tuple[int | None, int | None]]


def layout_of(names: list[str], how: str) -> JoinLayout:
    wanted = () if how in ("semi", "anti") else (("b", "b"),)
    return JoinLayout(how, tuple(names), tuple(names), wanted)  # type: ignore[arg-type]


def probed(left: pa.RecordBatch, right: pa.RecordBatch, layout: JoinLayout) -> pa.Table:
    return pa.Table.from_batches(probe(left, build(right, layout), layout))


def chunked(left: pa.RecordBatch, right: pa.RecordBatch, layout: JoinLayout) -> pa.Table:
    return pa.Table.from_batches(join_chunks(Chunk(left), Chunk(right), layout))


@st.composite
def sides(draw: st.DrawFn) -> tuple[pa.RecordBatch, pa.RecordBatch, list[str]]:
    types = draw(st.lists(st.sampled_from(list(POOLS)), min_size=1, max_size=2))
    names = [f"k{i}" for i in range(len(types))]
    found = []
    for value in ("a", "b"):
        rows = draw(st.integers(0, 12))
        keys = [draw(columns(rows, [dtype])) for dtype in types]
        found.append(pa.RecordBatch.from_arrays([*keys, pa.array(range(rows), pa.int64())], [*names, value]))
    return found[0], found[1], names


def nested_loops(left: pa.RecordBatch, right: pa.RecordBatch, names: list[str], how: str) -> Pairs:
    """(left row, right row) in left row order; then the right rows that match nothing."""
    mine, theirs = identity(left, names), identity(right, names)
    found: Pairs = []
    for i, key in enumerate(mine):
        matches = [j for j, other in enumerate(theirs) if other == key and not any(null for null, _ in key)]
        if how in ("semi", "anti"):
            found += [(i, None)] * (bool(matches) == (how == "semi"))
        else:
            found += [(i, j) for j in matches] or ([(i, None)] if how in ("left", "full") else [])
    if how in ("right", "full"):
        alone = [j for j, key in enumerate(theirs) if key not in mine or any(null for null, _ in key)]
        found += [(None, j) for j in alone]
    return found


def by_key(left: pa.RecordBatch, right: pa.RecordBatch, names: list[str], pairs: Pairs) -> Pairs:
    """The pairs in (key, left row, right row) order; of a key with nulls the left rows come first."""
    both = pa.concat_batches([left.select(names), right.select(names)])
    rank = {row: place for place, row in enumerate(expected_order(both, names, [False] * len(names)))}
    key = identity(both, names)
    first: dict[object, int] = {}
    for row in sorted(rank, key=rank.__getitem__):
        first.setdefault(key[row], rank[row])
    at = {(i, j): first[key[i] if i is not None else key[left.num_rows + j]] for i, j in pairs}
    return sorted(pairs, key=lambda p: (at[p], p[0] is None, p[0] or 0, p[1] or 0))


def rows_of(table: pa.Table, how: str) -> Pairs:
    if how in ("semi", "anti"):
        return [(row, None) for row in table["a"].to_pylist()]
    return list(zip(table["a"].to_pylist(), table["b"].to_pylist(), strict=True))


@settings(max_examples=150, deadline=None)
@given(sides(), st.sampled_from(["inner", "left", "semi", "anti"]), st.sampled_from([1, 40, 1 << 20]))
def test_an_index_gives_matches_in_left_then_right_order_and_nulls_never(both, how, block_bytes):
    left, right, names = both
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mr.kernels.joined, "JOIN_BLOCK_BYTES", block_bytes)
        found = probed(left, right, layout_of(names, how))
    assert rows_of(found, how) == nested_loops(left, right, names, how)
    assert found.schema.names == [*names, "a"] + ["b"] * (how in ("inner", "left"))


@settings(max_examples=250, deadline=None)
@given(sides(), st.sampled_from(HOWS), st.sampled_from([1, 40, 1 << 20]), st.booleans())
def test_chunks_give_matches_in_key_order_whatever_order_they_come_in(both, how, block_bytes, collide):
    left, right, names = both
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mr.kernels.joined, "JOIN_BLOCK_BYTES", block_bytes)
        if collide:  # the path for keys whose hashes are equal
            patch.setattr(lookup, "hashes", lambda data, names: np.zeros(data.num_rows, np.uint64))
        found = chunked(left, right, layout_of(names, how))
    expected = by_key(left, right, names, nested_loops(left, right, names, how))
    assert rows_of(found, how) == expected
    both_keys = pa.concat_batches([left.select(names), right.select(names)])
    wanted = [identity(both_keys, names)[i if i is not None else left.num_rows + j] for i, j in expected]
    assert identity(found.combine_chunks().to_batches()[0], names) == wanted if wanted else found.num_rows == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([None, "", "a", "b", "c"])),
    st.lists(st.sampled_from([None, "", "a", "b"])),
    st.sampled_from(HOWS),
)
def test_the_rows_are_those_of_a_sql_join(left, right, how):
    mine = pa.RecordBatch.from_pydict(
        {"k": pa.array(left, pa.large_string()), "a": pa.array(range(len(left)), pa.int64())}
    )
    theirs = pa.RecordBatch.from_pydict(
        {"k": pa.array(right, pa.large_string()), "b": pa.array(range(len(right)), pa.int64())}
    )
    database = duckdb.connect()
    database.register("l", pa.Table.from_batches([mine]))
    database.register("r", pa.Table.from_batches([theirs]))
    columns = "k, a" if how in ("semi", "anti") else "k, a, b"
    expected = database.sql(f"select {columns} from l {how} join r using (k)").fetchall()
    found = chunked(mine, theirs, layout_of(["k"], how))
    assert sorted(map(repr, (tuple(row.values()) for row in found.to_pylist()))) == sorted(map(repr, expected))


def test_equal_hashes_of_different_keys_do_not_match(monkeypatch):
    monkeypatch.setattr(lookup, "hashes", lambda data, names: np.zeros(data.num_rows, np.uint64))
    left = pa.RecordBatch.from_pydict({"k": ["a", "bb", "x"]})
    right = pa.RecordBatch.from_pydict({"k": ["bb", "c", "a", "bb", None], "b": [1, 2, 3, 4, 5]})
    layout = layout_of(["k"], "left")
    assert build(right, layout).index.table is None
    assert probed(left, right, layout)["b"].to_pylist() == [3, 1, 4, None]
    assert probed(left, right.slice(0, 1), layout)["b"].to_pylist() == [None, 1, None]


def test_a_taken_name_gets_the_suffix_and_a_taken_suffix_is_refused():
    assert right_names(["k", "v"], ["k", "v"], ["k"], "_r") == {"v": "v_r"}
    with pytest.raises(PlanError, match="'v_right'"):
        right_names(["k", "v", "v_right"], ["k", "v"], ["k"], "_right")


def test_many_keys_are_all_found():
    rng = np.random.default_rng(3)
    right = pa.RecordBatch.from_pydict({"k": rng.permutation(20_000), "b": np.arange(20_000)})
    wanted = rng.integers(0, 40_000, 30_000)
    place = {key: row for row, key in enumerate(right["k"].to_pylist())}
    found = probed(pa.RecordBatch.from_pydict({"k": wanted}), right, layout_of(["k"], "left"))
    assert found["b"].to_pylist() == [place.get(key) for key in wanted.tolist()]


@pytest.mark.parametrize("length", [12, 17, 100])  # of one length: compared as such up to 64 bytes
def test_keys_of_one_length_are_compared_byte_for_byte(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def digests(data: pa.RecordBatch, names: list[str]) -> Any:  # equal for keys that differ in the last byte only
        return np.array([int.from_bytes(key.encode()[:3], "little") << 40 for key in data.column(0).to_pylist()], "u8")

    monkeypatch.setattr(lookup, "hashes", digests)
    values = [f"{n:03}".ljust(length - 1, "x") + str(n) for n in range(6)]  # too far apart to be packed
    keys = pa.array(["short", *values, values[1][:-1] + "y"], pa.large_string())
    right = pa.RecordBatch.from_arrays([keys.slice(2, 4), pa.array(range(4))], ["k", "b"])
    layout = layout_of(["k"], "inner")
    assert build(right, layout).index.table is not None
    for left in (keys, keys.slice(1, 6), keys.slice(2, 1)):
        found = probed(pa.RecordBatch.from_arrays([left], ["k"]), right, layout).to_pydict()
        known = {key: i for i, key in enumerate(right.column("k").to_pylist())}
        assert found == {
            "k": [key for key in left.to_pylist() if key in known],
            "b": [known[key] for key in left.to_pylist() if key in known],
        }


def test_strings_of_the_right_that_repeat_are_gathered_as_codes() -> None:
    texts = pa.array(["x", None, "x", "y", "y", "x"], pa.large_string())
    right = pa.RecordBatch.from_arrays([pa.array(range(6)), texts, texts.slice(0, 6)], ["k", "b", "c"])
    left = pa.RecordBatch.from_pydict({"k": [5, 7, 1, 0]})
    found = probed(left, right, layout_of(["k"], "left"))
    assert pa.types.is_dictionary(found.schema.field("b").type)
    assert found.to_pydict() == {"k": [5, 7, 1, 0], "b": ["x", None, None, "x"]}


def test_strings_of_a_smaller_right_chunk_are_gathered_as_codes() -> None:
    right = pa.RecordBatch.from_pydict({"k": [0, 1, 2, 3], "b": pa.array(["x", "y", "x", "x"], pa.large_string())})
    left = pa.RecordBatch.from_pydict({"k": [3, 0, 3, 7, 1]})
    found = chunked(left, right, layout_of(["k"], "left"))
    assert pa.types.is_dictionary(found.schema.field("b").type)
    assert found.to_pydict() == {"k": [0, 1, 3, 3, 7], "b": ["x", "y", "x", "x", None]}
    assert chunked(left.slice(0, 3), right, layout_of(["k"], "left")).schema.field("b").type == pa.large_string()


@pytest.mark.parametrize("how", ["inner", "left", "right", "full"])
def test_blocks_are_cut_by_what_their_rows_have_not_by_the_mean(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mr.kernels.joined, "JOIN_BLOCK_BYTES", 10_000)
    wide = 3000
    keys = [1] * 40 + list(range(2, 400))
    left = pa.RecordBatch.from_pydict({"k": keys, "a": range(len(keys))})
    right = pa.RecordBatch.from_pydict({"k": [1, *range(2, 600)], "b": ["x" * wide] + ["y"] * 598})
    right = right.set_column(1, "b", right["b"].cast(pa.large_string()))
    layout = layout_of(["k"], how)
    blocks = list(join_chunks(Chunk(left), Chunk(right), layout))
    if how in ("inner", "left"):
        blocks += probe(left, build(right, layout), layout)
        blocks += probe_mapped(left, mapped_right([right.slice(0, 300), right.slice(300)], 4096), layout)
    rows = [batch.cast(pa.schema([("k", "i8"), ("a", "i8"), ("b", pa.large_string())])) for batch in blocks]
    assert max(sum(map(len, batch["b"].fill_null("").to_pylist())) for batch in rows) <= 10_000
    assert sum(batch.num_rows for batch in rows) == (len(keys) * 3 if how in ("inner", "left") else len(keys) + 200)
    assert max(batch.num_rows for batch in blocks) > 100  # narrow rows stay together


def test_long_batches_of_a_mapped_side_are_cut_into_parts_that_fit() -> None:
    right = mapped_right([pa.RecordBatch.from_pydict({"k": range(1000)})], 1000)
    assert len(right.parts) >= 8
    assert max(sum(batch.nbytes for batch in right.batches[part]) for part in right.parts) <= 1000
    assert pa.Table.from_batches(right.batches)["k"].to_pylist() == list(range(1000))
