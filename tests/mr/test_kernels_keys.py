"""Keys: what can be one, when two are equal, and the documented hash."""

from __future__ import annotations

import math
import struct

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from kernel_oracle import identity, key_batches, key_names

from mr.errors import RecordError, TypeConflict
from mr.kernels.keys import NULL_HASH, buckets, codes, hashes, normalise_keys
from mr.kernels.types import display


@settings(max_examples=150, deadline=None)
@given(key_batches())
def test_codes_number_equal_keys_in_order_of_first_occurrence(batch):
    names = key_names(batch)
    numbers: dict[object, int] = {}
    expected = [numbers.setdefault(key, len(numbers)) for key in identity(batch, names)]
    found, representatives = codes(batch, names)
    assert found.tolist() == expected
    assert representatives.tolist() == [expected.index(g) for g in range(len(numbers))]


def test_codes_without_names_are_one_group():
    batch = pa.RecordBatch.from_pydict({"x": [1, 2]})
    assert codes(batch, [])[0].tolist() == [0, 0]


@settings(max_examples=100, deadline=None)
@given(key_batches())
def test_normalised_keys_are_equal_exactly_where_their_values_are(batch):
    names = key_names(batch)
    plain = normalise_keys(batch, names)
    assert identity(plain, names) == identity(batch, names)
    texts = {repr(row) for row in zip(*(plain[name].to_pylist() for name in names), strict=True)}
    assert len(texts) == len(set(identity(batch, names)))  # 0.0 and -0.0 print differently


def xxh(data: bytes) -> int:
    return xxhash.xxh3_64_intdigest(data)


def reference(value: object, dtype: pa.DataType) -> int:
    """The hash of docs/formats/run-file.md, read from the document."""
    t = pa.types
    if value is None:
        return NULL_HASH
    if t.is_struct(dtype):
        children = [reference(value[dtype.field(i).name], dtype.field(i).type) for i in range(dtype.num_fields)]
        return xxh(struct.pack(f"<{len(children)}Q", *children))
    if t.is_large_string(dtype):
        return xxh(value.encode())
    if isinstance(value, bytes):
        return xxh(value)
    if isinstance(value, float):
        return xxh(struct.pack("<Q", 0x7FF8000000000000) if math.isnan(value) else struct.pack("<d", value + 0.0))
    if t.is_decimal(dtype):
        return xxh(int(value.scaleb(dtype.scale)).to_bytes(dtype.bit_width // 8, "little", signed=True))
    number = value if isinstance(value, int) else pa.array([value], dtype).view(f"int{dtype.bit_width}")[0].as_py()
    return xxh((int(number) % 2**64).to_bytes(8, "little"))


@settings(max_examples=150, deadline=None)
@given(key_batches())
def test_the_hash_is_the_documented_one(batch):
    names = key_names(batch)
    expected = []
    for row in range(batch.num_rows):
        parts = [reference(batch[name][row].as_py(), batch.schema.field(name).type) for name in names]
        expected.append(parts[0] if len(parts) == 1 else xxh(struct.pack(f"<{len(parts)}Q", *parts)))
    assert hashes(batch, names).tolist() == expected
    assert buckets(batch, names).tolist() == [value >> 56 for value in expected]
    assert buckets(batch, names, 4096).tolist() == [value >> 52 for value in expected]


def test_the_hash_of_no_columns_is_one_bucket():
    assert len(set(buckets(pa.RecordBatch.from_pydict({"x": [1, 2, 3]}), []).tolist())) == 1


def test_normalising_decodes_dictionaries_and_makes_strings_large():
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array(["a", None, "a"]).dictionary_encode(),
            pa.array(["x", "y", None]),
            pa.array(["v", None, "w"], pa.string_view()),
        ],
        ["d", "s", "v"],
    )
    plain = normalise_keys(batch, ["d", "s", "v"])
    assert plain.schema.types == [pa.large_string()] * 3
    assert plain.to_pydict() == {"d": ["a", None, "a"], "s": ["x", "y", None], "v": ["v", None, "w"]}


@pytest.mark.parametrize(
    ("array", "cure"),
    [
        (pa.array([[1], None]), "lists"),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "maps"),
        (pa.array([{"x": [1]}]), "lists"),
        (pa.nulls(1, pa.month_day_nano_interval()), "cast"),
    ],
)
def test_columns_that_cannot_be_keys_are_refused_with_name_type_and_cure(array, cure):
    with pytest.raises(TypeConflict) as caught:
        normalise_keys(pa.RecordBatch.from_arrays([array], ["bad"]), ["bad"])
    assert "'bad'" in str(caught.value)
    assert display(array.type) in str(caught.value)
    assert cure in str(caught.value)


def test_pickled_objects_are_refused_also_where_the_extension_type_is_not_registered():
    field = pa.field("bad", pa.large_binary(), metadata={b"ARROW:extension:name": b"mr.pickle"})
    batch = pa.RecordBatch.from_arrays([pa.array([b"x"], pa.large_binary())], schema=pa.schema([field]))
    with pytest.raises(RecordError, match=r"'bad'.*Python objects"):
        normalise_keys(batch, ["bad"])


def test_values_under_nulls_do_not_matter():
    def column(filler: float) -> pa.Array:
        valid = pa.py_buffer(bytes([0b101]))
        return pa.Array.from_buffers(pa.float64(), 3, [valid, pa.py_buffer(np.array([1.0, filler, 2.0]))])

    for filler in (math.nan, 1.0, -0.0):
        batch = pa.RecordBatch.from_arrays([column(filler)], ["k"])
        assert codes(batch, ["k"])[0].tolist() == [0, 1, 2]
        assert hashes(batch, ["k"])[1] == NULL_HASH
