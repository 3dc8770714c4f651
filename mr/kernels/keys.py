"""Keys: which columns can be one, when two are equal, and to which bucket they belong.

A key column is taken apart into *leaves* (a struct gives its own validity and its children), each a null mask and
canonical values: -0.0 is 0.0, there is one NaN, null slots are zero. Equality, grouping, order and hashing all start
from leaves, so they cannot disagree. The hash encoding is part of the run-file format: docs/formats/run-file.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import polars_hash  # noqa: F401  (registers the `nchash` namespace of expressions)
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from mr.errors import TypeConflict
from mr.kernels.distinct import binary_rows, first_equal, first_equal_bytes, first_in_arrow, numbered, numbered_close
from mr.kernels.types import display
from mr.options import BUCKETS

Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

NULL_HASH: Final = 0x9E3779B97F4A7C15
"""What null hashes to: any constant would do; this one is 2^64 divided by the golden ratio."""

PICKLE_EXTENSION: Final = b"mr.pickle"
_TWO_WORDS_BYTES: Final = 16
"""Strings of which at most one in eight is longer are compared as numbers: the addresses of hosts in 0.6 of the time of
Arrow's hash table, which is the faster one for URLs."""
_NAN: Final = np.uint64(0x7FF8000000000000)


class Leaf(Struct, frozen=True):
    """One flat part of a key: `nulls` (None: there are none) and `values`, by `kind`.

    signed, unsigned, float: uint64[n], the 64-bit pattern of the value widened to int64, uint64 or float64.
    wide: uint64[n, k], the little-endian words of a two's complement number. bytes: a `pa.LargeBinaryArray`.
    """

    kind: Literal["signed", "unsigned", "float", "wide", "bytes"]
    nulls: Mask | None
    values: Any

    def __len__(self) -> int:
        return len(self.values)


def key_problem(dtype: pa.DataType) -> str | None:
    """Why a column of this type cannot be a key, or None if it can.

    >>> key_problem(pa.list_(pa.int64()))
    'lists cannot be compared; use a tuple (a struct) or a string made of the parts'
    """
    t = pa.types
    if isinstance(dtype, pa.BaseExtensionType):
        if dtype.extension_name == PICKLE_EXTENSION.decode():
            return "it holds Python objects that no column can hold; key by a str, a number or a tuple of them"
        return "extension types have no order of their own; cast it to its storage type first"
    if t.is_dictionary(dtype) or t.is_run_end_encoded(dtype):
        return key_problem(dtype.value_type)
    if t.is_struct(dtype):
        return next((p for p in (key_problem(dtype.field(i).type) for i in range(dtype.num_fields)) if p), None)
    if t.is_map(dtype):
        return "maps cannot be compared; select the entries that matter, or use a string made of them"
    if t.is_nested(dtype) and not t.is_union(dtype):
        return "lists cannot be compared; use a tuple (a struct) or a string made of the parts"
    if t.is_union(dtype) or dtype == pa.month_day_nano_interval():
        return "values of this type have no order; cast it to a string or a number first"
    return None


def normalise_keys(data: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    """`data` with its key columns `names` plain and canonical: what comes out of a group is what is in them.

    Dictionaries are decoded, strings and binaries made large, -0.0 becomes 0.0, every NaN the same NaN.
    Raises `TypeConflict` naming column and type if a column cannot be a key.

    >>> batch = pa.RecordBatch.from_pydict({"k": [-0.0, 1.0], "v": [1, 2]})
    >>> normalise_keys(batch, ["k"])["k"].to_pylist()
    [0.0, 1.0]
    """
    for name in names:
        index = data.schema.get_field_index(name)
        field = data.schema.field(index)
        problem = key_problem(field.type)
        if (field.metadata or {}).get(b"ARROW:extension:name") == PICKLE_EXTENSION:
            problem = "it holds Python objects that no column can hold; key by a str, a number or a tuple of them"
        if problem:
            raise TypeConflict(f"column {name!r} of type {display(field.type)} cannot be a key: {problem}")
        plain = canonical(data.column(index))
        if plain is not data.column(index):
            data = data.set_column(index, field.with_type(plain.type), plain)
    return data


def canonical(array: Any) -> Any:
    """An array of any type that can be a key with decoded, large, canonical values; see `normalise_keys`.

    >>> canonical(pa.array(["a", "a"]).dictionary_encode()).type
    DataType(large_string)
    """
    t, dtype = pa.types, array.type
    if t.is_dictionary(dtype):
        return canonical(array.dictionary_decode())
    if t.is_run_end_encoded(dtype):
        return canonical(pc.run_end_decode(array))
    if t.is_string(dtype) or dtype == pa.string_view():
        return array.cast(pa.large_string())
    if t.is_binary(dtype) or dtype == pa.binary_view():
        return array.cast(pa.large_binary())
    if t.is_floating(dtype):
        return _plain_floats(array)
    if t.is_struct(dtype):
        children = [canonical(child) for child in array.flatten()]
        fields = [field.with_type(child.type) for field, child in zip(dtype, children, strict=True)]
        mask = array.is_null() if array.null_count else None
        return pa.StructArray.from_arrays(children, fields=fields, mask=mask)
    return array


def _plain_floats(array: Any) -> Any:
    values = _fixed(array, {16: np.float16, 32: np.float32, 64: np.float64}[array.type.bit_width])
    odd = np.isnan(values) | ((values == 0) & np.signbit(values))
    if not odd.any():
        return array
    clean = np.where(np.isnan(values), values.dtype.type(np.nan), values + values.dtype.type(0))
    return pa.array(clean, array.type, mask=null_mask(array))


def _fixed(array: Any, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The values of a fixed-width array as numpy, without a copy; null slots hold anything."""
    buffer = array.buffers()[1]
    if buffer is None or len(array) == 0:
        return np.zeros(len(array), dtype)
    return np.frombuffer(buffer, dtype, len(array), array.offset * np.dtype(dtype).itemsize)


def null_mask(array: Any) -> Mask | None:
    """True where `array` is null, or None if it is nowhere.

    >>> null_mask(pa.array([1, None])).tolist(), null_mask(pa.array([1]))
    ([False, True], None)
    """
    if array.null_count == 0:
        return None
    mask: Mask = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def leaves(data: pa.RecordBatch, names: Sequence[str]) -> list[Leaf]:
    """The leaves of the key columns `names` in order; equal schemas give equally many of the same kinds.

    >>> [leaf.kind for leaf in leaves(pa.RecordBatch.from_pydict({"k": [{"a": 1, "b": 0.5}]}), ["k"])]
    ['unsigned', 'signed', 'float']
    """
    found = []
    for name in names:
        try:
            found += leaves_of(data.column(name))
        except TypeConflict as error:
            raise TypeConflict(f"column {name!r}: {error.message}") from None
    return found


def leaves_of(array: Any) -> list[Leaf]:
    """The leaves of one column; see `leaves`. Raises `TypeConflict` if it cannot be a key.

    >>> leaves_of(pa.array([-1, None]))[0].nulls.tolist()
    [False, True]
    """
    if pa.types.is_struct(array.type):
        own = Leaf("unsigned", null_mask(array), np.zeros(len(array), np.uint64))
        return [own, *(leaf for child in array.flatten() for leaf in leaves_of(child))]
    return [_leaf(array)]


def _leaf(array: Any) -> Leaf:
    t, dtype, nulls = pa.types, array.type, null_mask(array)
    if t.is_null(dtype):
        return Leaf("unsigned", np.ones(len(array), bool), np.zeros(len(array), np.uint64))
    if t.is_large_binary(dtype) or t.is_large_string(dtype):
        return Leaf("bytes", nulls, array if t.is_large_binary(dtype) else array.view(pa.large_binary()))
    if t.is_fixed_size_binary(dtype) or t.is_binary(dtype) or t.is_string(dtype):
        return Leaf("bytes", nulls, array.cast(pa.large_binary()))
    if t.is_boolean(dtype):
        return Leaf("unsigned", nulls, _zeroed(array.cast(pa.uint8()), np.uint8, np.uint64, nulls))
    if t.is_floating(dtype):
        narrow = {16: np.float16, 32: np.float32, 64: np.float64}[dtype.bit_width]
        floats = _zeroed(array, narrow, np.float64, nulls) + 0.0  # -0.0 + 0.0 is 0.0
        words: Words = floats.view(np.uint64)
        words[np.isnan(floats)] = _NAN
        return Leaf("float", nulls, words)
    if t.is_decimal128(dtype) or t.is_decimal256(dtype):
        width = dtype.bit_width // 64
        wide = _fixed(array, np.dtype((np.uint64, (width,)))).reshape(-1, width)
        return Leaf("wide", nulls, wide if nulls is None else np.where(nulls[:, None], np.uint64(0), wide))
    if t.is_unsigned_integer(dtype):
        return Leaf("unsigned", nulls, _zeroed(array, f"u{dtype.bit_width // 8}", np.uint64, nulls))
    if t.is_integer(dtype) or t.is_temporal(dtype) or t.is_decimal(dtype):
        problem = key_problem(dtype)
        if problem is None:
            return Leaf("signed", nulls, _zeroed(array, f"i{dtype.bit_width // 8}", np.int64, nulls).view(np.uint64))
    raise TypeConflict(f"a column of type {display(dtype)} cannot be a key or sorted by: {key_problem(dtype)}")


def _zeroed(array: Any, narrow: npt.DTypeLike, wide: npt.DTypeLike, nulls: Mask | None) -> npt.NDArray[Any]:
    values = _fixed(array, narrow).astype(wide, copy=nulls is not None)
    if nulls is not None:
        values[nulls] = 0
    return values


def codes(data: pa.RecordBatch, names: Sequence[str]) -> tuple[Ints, Ints]:
    """Number the distinct keys of `data` densely in order of first occurrence.

    Returns (codes int64[rows], representatives int64[groups]): the group of each row and each group's first row.
    Exact: values are compared, never only hashes. No names at all: one group, of all rows.

    >>> codes(pa.RecordBatch.from_pydict({"k": ["b", None, "b"]}), ["k"])[0].tolist()
    [0, 1, 0]
    """
    parts = leaves(data, names)
    if len(parts) == 1 and parts[0].kind == "bytes" and parts[0].nulls is None:
        return numbered(_first_bytes(parts[0]))
    if len(parts) == 1 and parts[0].kind in ("signed", "unsigned") and parts[0].nulls is None:
        found = numbered_close(parts[0].values.view(np.int64))
        if found is not None:
            return found
    columns = [column for leaf in parts for column in _comparable(leaf)]
    return numbered(first_equal(columns) if columns else np.zeros(data.num_rows, np.int64))


def _comparable(leaf: Leaf) -> list[Words]:
    """Numbers that are equal in two rows exactly where the leaf is."""
    flags = [] if leaf.nulls is None else [leaf.nulls.astype(np.uint64)]
    if leaf.kind == "bytes":
        return [*flags, _first_bytes(leaf).view(np.uint64)]
    if leaf.kind == "wide":
        return [*flags, *(np.ascontiguousarray(column) for column in leaf.values.T)]
    return [*flags, leaf.values]


def _first_bytes(leaf: Leaf) -> Ints:
    """For each row the first one with the same bytes; nulls are as empty ones."""
    array = leaf.values
    if not len(array):
        return np.zeros(0, np.int64)
    _, offsets, buffer = array.buffers()
    bounds = np.frombuffer(offsets, np.int64, len(array) + 1, array.offset * 8)
    lengths = np.diff(bounds)
    if leaf.nulls is not None:
        lengths[leaf.nulls] = 0
    if 8 * np.count_nonzero(lengths > _TWO_WORDS_BYTES) > len(array):
        return first_in_arrow(array if leaf.nulls is None else array.fill_null(b""))
    data = np.zeros(0, np.uint8) if buffer is None else np.frombuffer(buffer, np.uint8)
    return first_equal_bytes(data, bounds[:-1], lengths)


def hashes(data: pa.RecordBatch, names: Sequence[str]) -> Words:
    """XXH3-64 of each row's encoded key, uint64[rows]; the encoding is in docs/formats/run-file.md.

    >>> import xxhash
    >>> int(hashes(pa.RecordBatch.from_pydict({"k": ["a"]}), ["k"])[0]) == xxhash.xxh3_64_intdigest(b"a")
    True
    """
    return _combined([_hash(data.column(name)) for name in names], data.num_rows, struct=len(names) != 1)


def buckets(data: pa.RecordBatch, names: Sequence[str], total: int = BUCKETS) -> npt.NDArray[np.unsignedinteger[Any]]:
    """The bucket of each row's key, one of `total`, a power of two up to 65,536: so many top bits of its hash.

    >>> batch = pa.RecordBatch.from_pydict({"k": ["a", "b", "a"]})
    >>> buckets(batch, ["k"]).tolist(), buckets(batch, ["k"], 65_536).tolist()
    ([230, 87, 230], [59078, 22362, 59078])
    """
    bits = total.bit_length() - 1
    return (hashes(data, names) >> np.uint64(64 - bits)).astype(np.uint8 if bits <= 8 else np.uint16)


def _hash(array: Any) -> Words:
    if pa.types.is_struct(array.type):
        found = _combined([_hash(child) for child in array.flatten()], len(array), struct=True)
        nulls = null_mask(array)
    else:
        leaf = _leaf(array)
        nulls = leaf.nulls
        found = _xxh3(leaf.values if leaf.kind == "bytes" else binary_rows(leaf.values))
    return found if nulls is None else np.where(nulls, np.uint64(NULL_HASH), found)


def _combined(columns: list[Words], rows: int, struct: bool) -> Words:
    if not struct:
        return columns[0]
    return _xxh3(binary_rows(np.stack(columns, axis=1) if columns else np.zeros((rows, 0), np.uint64)))


def _xxh3(array: Any) -> Words:
    column = pl.DataFrame({"key": pl.from_arrow(array)}).select(
        pl.col("key").nchash.xxh3_64().fill_null(NULL_HASH)  # type: ignore[attr-defined]
    )
    return column["key"].to_numpy()
