"""BM25 against a direct transcription of the formula."""

from __future__ import annotations

from math import log

import pytest

from jobs.bm25 import idf, rank

DOCUMENTS = {1: "a a b", 2: "a c c c c c", 3: "b", 4: "d d d d"}


def formula(query: list[str], text: str) -> float:
    words = [t.split() for t in DOCUMENTS.values()]
    average = sum(map(len, words)) / len(words)
    total = 0.0
    for term in query:
        n, tf, length = sum(term in w for w in words), text.split().count(term), len(text.split())
        weight = log(1 + (len(words) - n + 0.5) / (n + 0.5))
        total += weight * (tf * 2.2) / (tf + 1.2 * (0.25 + 0.75 * length / average))
    return total


@pytest.mark.parametrize("query", [["a"], ["a", "b"], ["c", "d"], ["nothing"]])
def test_scores_are_those_of_the_formula(query: list[str]) -> None:
    postings = {t: {d: text.split().count(t) for d, text in DOCUMENTS.items() if t in text.split()} for t in query}
    lengths = {d: len(text.split()) for d, text in DOCUMENTS.items()}
    expected = sorted(((formula(query, text), d) for d, text in DOCUMENTS.items()), key=lambda hit: (-hit[0], hit[1]))
    found = rank(postings, lengths, len(DOCUMENTS), sum(lengths.values()) / len(lengths))
    assert [d for _, d in found] == [d for score, d in expected if score > 0]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected if score > 0])


def test_equal_scores_are_in_order_of_id() -> None:
    assert [d for _, d in rank({"a": {9: 1, 2: 1, 5: 1}}, {9: 4, 2: 4, 5: 4}, 3, 4.0)] == [2, 5, 9]


def test_a_term_of_every_page_still_counts_a_little() -> None:
    assert 0 < idf(100, 100) < idf(100, 99) < idf(100, 1)
