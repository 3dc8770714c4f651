"""Methods of `str` given to `map` and `flat_map`: run over columns, with exactly what Python would give.

They are known by identity (`fn is str.split`). A batch that is not of strings alone goes to Python, which also raises
what Python raises; so do single values where only Python knows the answer (letters beyond ASCII).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mr.batch import Batch, kind_of, with_kind
from mr.kernels.distinct import Bytes, Ints, binaries_at
from mr.kernels.lines import Lines
from mr.kernels.rows import Shape
from mr.kernels.tokens import WHITESPACE, split_words

Function = Callable[..., Any]

_STRINGS: Final = pa.large_string()
_NEWLINE_BYTE: Final = 10
_NEWLINE: Final = pa.scalar("\n", _STRINGS)

_LETTERS: Final[dict[Function, Function]] = {
    str.lower: pc.ascii_lower,
    str.upper: pc.ascii_upper,
    str.casefold: pc.ascii_lower,
    str.swapcase: pc.ascii_swapcase,
}
"""The same for ASCII only."""

_ENDS: Final[dict[Function, Function]] = {
    str.strip: functools.partial(pc.utf8_trim, characters=WHITESPACE),
    str.lstrip: functools.partial(pc.utf8_ltrim, characters=WHITESPACE),
    str.rstrip: functools.partial(pc.utf8_rtrim, characters=WHITESPACE),
}


class WordBatch(Batch):
    """Words of a text as records; they become strings only when somebody looks at `data`. Their origins are not known.

    They are the byte strings at `starts` (ascending) of `text`, `lengths` bytes long, in the one column of `shape`. Any
    strings will do, also empty ones.
    """

    def __init__(self, text: Bytes, starts: Ints, lengths: Ints, shape: Shape) -> None:
        self.text = text
        self.starts = starts
        self.lengths = lengths
        self.shape = shape

    @property
    def rows(self) -> int:
        return len(self.starts)

    @cached_property
    def data(self) -> pa.RecordBatch:
        """The words as a column."""
        return _one_column(binaries_at(self.text, self.starts, self.lengths).view(_STRINGS), self.shape)


def flat_mapped(fn: Function, batch: Batch, declared: Shape | None, tracked: bool) -> Batch | None:
    """What `flat_map(fn)` gives for `batch`; None where it is Python's turn. `tracked`: with origins, if there are any.

    >>> schema = with_kind(pa.schema([("value", pa.large_string())]), "values")
    >>> lines = Batch(pa.RecordBatch.from_pydict({"value": ["to be", "or"]}, schema))
    >>> flat_mapped(str.split, lines, None, False).data["value"].to_pylist()
    ['to', 'be', 'or']
    """
    shape, separator = _shape(declared), _separator(fn)
    if shape is None or separator is None:
        return None
    if isinstance(batch, Lines) and not separator and not tracked:
        text = np.frombuffer(batch.text, np.uint8)
        return WordBatch(text, *split_words(text, batch.is_ascii), shape)
    column = _strings(batch)
    if column is None:
        return None
    if separator:
        lists = pc.split_pattern(column, separator)
        owners, words = lists.value_parent_indices().to_numpy(), lists.flatten()
    else:
        text = np.frombuffer(_joined(column), np.uint8)
        starts, lengths = split_words(text, _is_ascii(column))
        if not tracked:
            return WordBatch(text, starts, lengths, shape)
        sizes = pc.binary_length(column).to_numpy()
        owners = np.searchsorted(np.cumsum(sizes + 1), starts, side="right")
        words = binaries_at(text, starts, lengths).view(_STRINGS)
    origins = batch.origins[owners] if tracked and batch.origins is not None else None
    return Batch(_one_column(words, shape), origins)


def mapped(fn: Function, batch: Batch, declared: Shape | None, tracked: bool) -> Batch | None:
    """What `map(fn)` gives for `batch`; None where it is Python's turn. `tracked`: with origins, if there are any.

    >>> schema = with_kind(pa.schema([("value", pa.large_string())]), "values")
    >>> lines = Batch(pa.RecordBatch.from_pydict({"value": ["To", "BE"]}, schema))
    >>> mapped(str.lower, lines, None, False).data["value"].to_pylist()
    ['to', 'be']
    """
    letters, ends, shape = _known(_LETTERS, fn), _known(_ENDS, fn), _shape(declared)
    column = None if shape is None or (letters or ends) is None else _strings(batch)
    if column is None or shape is None:
        return None
    if letters is None:
        assert ends is not None
        changed = ends(column)
    else:
        changed = letters(column)
        if not _is_ascii(column):
            other = pc.not_equal(pc.binary_length(column), pc.utf8_length(column))
            values = list(map(fn, column.filter(other).to_pylist()))
            changed = pc.replace_with_mask(changed, other, pa.array(values, _STRINGS))
    return Batch(_one_column(changed, shape), batch.origins if tracked else None)


def strings_as_words(values: list[Any], shape: Shape | None) -> WordBatch | None:
    """The strings that a function returned, without making a column of them; None if they are not all str.

    None also where they do not fit `shape`, and where a newline or half a character in one makes it harder than that.

    >>> strings_as_words(["to", "be"], None).data["value"].to_pylist()
    ['to', 'be']
    """
    one = _shape(shape)
    if one is None or not values or operator.countOf(map(type, values), str) < len(values):
        return None
    try:
        text = np.frombuffer("\n".join(values).encode(), np.uint8)
    except UnicodeEncodeError:
        return None
    ends = np.flatnonzero(text == _NEWLINE_BYTE)
    if len(ends) != len(values) - 1:
        return None
    starts = np.zeros(len(values), np.int64)
    np.add(ends, 1, out=starts[1:])
    return WordBatch(text, starts, np.append(ends, len(text)) - starts, one)


def _known(kernels: dict[Function, Function], fn: Function) -> Function | None:
    """The kernel of `fn`, which need not be hashable."""
    return next((kernel for known, kernel in kernels.items() if known is fn), None)


def _separator(fn: Function) -> str | None:
    """What `fn` splits at: "" for whitespace, None if `fn` is no `str.split` or has other arguments."""
    if fn is str.split:
        return ""
    if isinstance(fn, functools.partial) and fn.func is str.split and not fn.args and set(fn.keywords) == {"sep"}:
        separator = fn.keywords["sep"]
        return separator if type(separator) is str and separator else None
    return None


def _shape(declared: Shape | None) -> Shape | None:
    """The shape of records that are str, if they fit what was declared."""
    if declared is None:
        return Shape("values", ("value",), (None,))
    takes_strings = len(declared.names) == 1 and declared.types[0] in (None, _STRINGS)
    return declared if takes_strings and (declared.kind == "values" or declared.declared) else None


def _strings(batch: Batch) -> Any:
    """The records as a column, if they are all str."""
    column = batch.data.column(0) if batch.data.num_columns == 1 else None
    is_plain = column is not None and column.type == _STRINGS and not column.null_count
    return column if is_plain and kind_of(batch.data.schema) == "values" else None


def _is_ascii(column: Any) -> bool:
    return bool(pc.sum(pc.binary_length(column)) == pc.sum(pc.utf8_length(column)))


def _joined(column: Any) -> pa.Buffer:
    """All values with a newline between them."""
    whole = pa.LargeListArray.from_arrays(pa.array([0, len(column)], pa.int64()), column)
    return pc.binary_join(whole, _NEWLINE)[0].as_buffer()


def _one_column(column: Any, shape: Shape) -> pa.RecordBatch:
    schema = with_kind(pa.schema([(shape.names[0], column.type)]), shape.kind)
    return pa.RecordBatch.from_arrays([column], schema=schema)
