"""Methods of `str` given to map and flat_map run over columns: the results, errors and places are Python's."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mr
from mr.batch import Batch, with_kind
from mr.errors import JobFailed, MillraceError
from mr.kernels.lines import Lines, split_lines
from mr.operators.text import WordBatch, flat_mapped, mapped, strings_as_words

SCHEMA = with_kind(pa.schema([("value", pa.large_string())]), "values")
SPACES = st.sampled_from(["\t", "\r", "\x0b", "\x1c", "\x1f", " ", "\xa0", "\u2003", "\u3000", "\0", "\x1b", "\n"])
LETTERS = st.sampled_from(["a", "B", "z", "Z", "é", "É", "ß", "İ", "ı", "Σ", "ǅ", "\U0001f600", ",", ", "])
TEXTS = st.lists(SPACES | LETTERS | st.characters(codec="utf-8"), max_size=12).map("".join)
METHODS = [str.lower, str.upper, str.casefold, str.swapcase, str.strip, str.lstrip, str.rstrip]
SPLITS = [str.split, functools.partial(str.split, sep=","), functools.partial(str.split, sep="aa")]


def batch_of(values: list[str], skip: int = 0) -> Batch:
    places = np.column_stack([np.arange(len(values)) * 10, np.arange(len(values))]).astype(np.int64)
    data = pa.RecordBatch.from_arrays([pa.array(["skipped"] * skip + values, pa.large_string())], schema=SCHEMA)
    return Batch(data.slice(skip), places)


@settings(max_examples=80, deadline=None)
@given(st.lists(TEXTS, max_size=6), st.sampled_from(METHODS), st.integers(0, 1))
def test_methods_of_str_give_what_python_gives(values, method, skip):
    found = mapped(method, batch_of(values, skip), None, True)
    assert found.data["value"].to_pylist() == [method(value) for value in values]
    assert found.data.schema.equals(SCHEMA, check_metadata=True)
    assert found.origins[:, 1].tolist() == list(range(len(values)))


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, max_size=6), st.sampled_from(SPLITS), st.integers(0, 1), st.booleans())
def test_split_gives_what_python_gives_and_knows_the_lines_of_its_words(values, split, skip, tracked):
    found = flat_mapped(split, batch_of(values, skip), None, tracked)
    expected = [(word, row) for row, value in enumerate(values) for word in split(value)]
    assert found.rows == len(expected)
    assert found.data["value"].to_pylist() == [word for word, _ in expected]
    assert found.data.schema.equals(SCHEMA, check_metadata=True)
    assert (found.origins is not None) == tracked
    if tracked:
        assert found.origins[:, 1].tolist() == [row for _, row in expected]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(TEXTS.map(lambda text: text.replace("\n", "")), max_size=6), st.sampled_from(["\n", "\r\n"]), st.booleans()
)
def test_words_of_a_block_are_those_of_its_lines(values, newline, ended):
    text = newline.join(values) + newline * ended
    lines = Lines(text.encode(), text.isascii(), SCHEMA, offset=7, number=3, tracked=True)
    expected, offsets = split_lines(text.encode())
    assert lines.rows == len(expected)
    assert lines.data["value"].to_pylist() == [line.decode() for line in expected.to_pylist()]
    assert lines.origins.tolist() == [[offset + 7, row + 3] for row, offset in enumerate(offsets.tolist())]
    assert lines.values() == lines.data["value"].to_pylist()
    words = flat_mapped(str.split, lines, None, False)
    assert isinstance(words, WordBatch)
    assert words.data["value"].to_pylist() == text.split()
    assert lines.renumbered(5).origins.tolist() == [[offset, number + 5] for offset, number in lines.origins.tolist()]


@pytest.mark.parametrize("fn", [str.title, str.splitlines, functools.partial(str.split, maxsplit=1), len, str])
def test_other_functions_are_left_to_python(fn):
    assert mapped(fn, batch_of(["a b"]), None, False) is None
    assert flat_mapped(fn, batch_of(["a b"]), None, False) is None


TEXT = "to be\x1cor  not\n\n to\tbe \r\nthat\0is é\xa0à the Question\x85x " + "y" * 9 + " " + "z" * 40


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return str(path)


def test_a_word_count_is_that_of_python_in_order_of_nothing(inline, text_file):
    counted = mr.read_text(text_file).flat_map(str.split, names="word").group_by("word").agg(n=mr.count(), m=mr.count())
    assert {row.word: (row.n, row.m) for row in counted.take(99)} == {
        w: (n, n) for w, n in Counter(TEXT.split()).items()
    }


def test_words_counted_by_columns_and_by_strings_are_the_same_rows_in_the_same_order(inline, text_file):
    def words(line: str) -> list[str]:
        return line.split()

    lines = mr.read_text(text_file)
    by_columns, by_python = lines.flat_map(str.split, names="word"), lines.flat_map(words, names="word")
    for reduced in (
        lambda ds: ds.group_by("word").agg(n=mr.count()),
        lambda ds: ds.group_by("word").agg(n=mr.count(), first=mr.min("word")),
        lambda ds: ds.distinct(),
        lambda ds: ds.map(str.upper),
        lambda ds: ds.map(len),
    ):
        assert reduced(by_columns).take(99) == reduced(by_python).take(99)


def test_words_held_beyond_the_limit_are_written_early(inline, tmp_path, monkeypatch):
    from mr.kernels import tokens
    from mr.outlets import keyed

    monkeypatch.setattr(keyed, "WORDS_HELD_BYTES_MAX", 800)
    monkeypatch.setattr(tokens, "_TABLE_BITS", 4)
    monkeypatch.setattr(tokens, "_GATHERED_WORDS", 1)
    numbers = np.random.default_rng(1).integers(0, 3000, 20_000).tolist()
    (tmp_path / "n.txt").write_text("\n".join(map(str, numbers)))
    counted = mr.read_text(tmp_path / "n.txt").flat_map(str.split, names="word").group_by("word").agg(n=mr.count())
    assert {row.word: row.n for row in counted.take(5000)} == Counter(map(str, numbers))


def test_names_may_make_rows_of_the_words(inline, text_file):
    rows = mr.read_text(text_file).flat_map(str.split, names=["word"]).take(2)
    assert [row.word for row in rows] == ["to", "be"]


@pytest.mark.parametrize("call", ["map", "flat_map"])
def test_a_record_that_is_no_str_fails_as_in_python(inline, call):
    fn = {"map": str.lower, "flat_map": str.split}[call]
    with pytest.raises(JobFailed, match=r"TypeError.*'NoneType'.*for record None"):
        getattr(mr.from_items(["a", None]), call)(fn).take(5)
    with pytest.raises(JobFailed, match=r"TypeError.*'int'.*for record 1"):
        getattr(mr.from_items([1]), call)(fn).take(5)


def test_records_that_are_no_str_can_be_skipped(inline):
    items = mr.from_items(["a b", None, "c"])
    assert items.flat_map(str.split, on_error="skip").take(5) == ["a", "b", "c"]
    assert items.map(str.upper, on_error="skip").take(5) == ["A B", "C"]


def test_an_empty_separator_fails_as_in_python(inline):
    with pytest.raises(JobFailed, match="empty separator"):
        mr.from_items(["a"]).flat_map(functools.partial(str.split, sep="")).take(1)


def test_declared_types_that_no_str_fits_are_refused(inline):
    with pytest.raises(MillraceError, match="declared"):
        mr.from_items(["a b"]).flat_map(str.split, names={"n": int}).take(1)


def test_a_failure_behind_a_split_names_the_line_of_the_word(inline, text_file):
    with pytest.raises(JobFailed, match=r"text\.txt, line 4, byte 24"):
        mr.read_text(text_file).flat_map(str.split).map(lambda word: 1 / (word != "that\0is")).take(99)


@settings(max_examples=80, deadline=None)
@given(st.lists(TEXTS, max_size=6))
def test_strings_that_a_function_gave_are_a_column_without_conversion(values):
    found = strings_as_words(values, None)
    if not values or "\n" in "".join(values):
        assert found is None
    else:
        assert found.data["value"].to_pylist() == values
        assert found.data.schema.equals(SCHEMA, check_metadata=True)


class Label(str):
    pass


@pytest.mark.parametrize("odd", [None, 1, b"a", Label("a"), "\ud800", "a\nb"])
def test_other_values_are_converted_one_by_one(odd):
    assert strings_as_words(["a", odd], None) is None


def test_strings_of_any_kind_are_counted_as_python_counts_them(inline):
    values = ["", "a", "", "a\nb", "\0", "x" * 20, "é", "a"] * 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mr.operators.python.PYTHON_BATCH_ROWS", 4)
        counted = mr.from_items(values).map(lambda value: value, names="v").group_by("v").agg(n=mr.count())
        assert {row.v: row.n for row in counted.take(99)} == Counter(values)
