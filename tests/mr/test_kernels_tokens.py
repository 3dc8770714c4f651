"""Where the words of a text are, and how often each occurs: as `str.split` and `Counter` say."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mr.kernels import tokens
from mr.kernels.tokens import WHITESPACE, WordCounts, split_words

ODD = ["\0", "\t", "\x0b", "\x0c", "\r", "\n", "\x1b", "\x1c", "\x1d", "\x1e", "\x1f", " ", "!", "\x7f"]
WIDE = ["\x84", "\x85", "\xa0", "\u1680", "\u167f", "\u2007", "\u200b", "\u2028", "\u3000", "é", "\u0420", "\U0001f600"]
TEXTS = st.text(alphabet=st.one_of(st.sampled_from("ab"), st.sampled_from(ODD), st.sampled_from(WIDE), st.characters()))
WORDS = st.sampled_from(
    ["a", "b", "ab", "x" * 8, "x" * 9, "x" * 8 + "y", "y" * 16, "y" * 17, "z" * 40, "", "\0", "a\0"]
)


def words_of(text: str) -> list[bytes]:
    data = text.encode("utf-8", "surrogatepass")
    starts, lengths = split_words(data, text.isascii())
    return [data[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]


def test_whitespace_is_what_python_splits_at():
    assert set(WHITESPACE) == {chr(point) for point in range(sys.maxunicode + 1) if chr(point).isspace()}


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_words_are_those_of_str_split(text):
    text = text.encode("utf-8", "replace").decode()
    assert words_of(text) == [word.encode() for word in text.split()]


def test_every_character_splits_or_does_not_as_in_python():
    points = [chr(point) for point in range(0x3100) if not 0xD800 <= point < 0xE000]
    text = "".join(f"a{point}b" for point in points)
    assert words_of(text) == [word.encode() for word in text.split()]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(WORDS, max_size=30), max_size=4), st.sampled_from([1, 8, 1000]), st.sampled_from([1, 5, 1000]))
def test_counts_are_those_of_a_counter(texts, gathered, cached):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "_GATHERED_WORDS", gathered)
        patch.setattr(tokens, "_CACHED_WORDS", cached)
        counts, expected = WordCounts(), Counter()
        for words in texts:
            values = [word.encode() for word in words]
            lengths = np.array(list(map(len, values)), np.int64)
            starts = np.cumsum(lengths + 1) - lengths - 1
            counts.add(np.frombuffer(b"\n".join(values), np.uint8), starts, lengths)
            expected.update(values)
        assert taken(counts) == expected
        assert taken(counts) == Counter()


def taken(counts: WordCounts) -> Counter[bytes]:
    words, numbers = counts.take()
    assert len(set(words.to_pylist())) == len(words)
    return Counter(dict(zip(words.to_pylist(), numbers.tolist(), strict=True)))


def test_words_beyond_the_room_of_the_tables_are_counted_too(monkeypatch):
    monkeypatch.setattr(tokens, "_TABLE_BITS", 4)
    monkeypatch.setattr(tokens, "_GATHERED_WORDS", 1)
    rng = np.random.default_rng(1)
    counts, expected = WordCounts(), Counter()
    for _ in range(3):
        text = b" ".join(b"%d" % number for number in rng.integers(0, 200, 2000) ** 4)
        counts.add(np.frombuffer(text, np.uint8), *split_words(text, True))
        expected.update(text.split())
    assert counts.held_bytes > 0
    assert taken(counts) == expected
    assert counts.held_bytes == 0


def test_long_strings_are_held_by_their_bytes(monkeypatch):
    monkeypatch.setattr(tokens, "_GATHERED_BYTES", 1000)
    counts = WordCounts()
    for _ in range(3):
        counts.add(np.frombuffer(b"x" * 600, np.uint8), np.array([0]), np.array([600]))
    assert counts.held_bytes >= 1200
    assert taken(counts) == {b"x" * 600: 3}
    assert counts.held_bytes == 0
