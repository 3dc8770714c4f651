"""Okapi BM25: how well a page answers a query.

S. Robertson, H. Zaragoza: The Probabilistic Relevance Framework: BM25 and Beyond. Foundations and Trends in
Information Retrieval 3(4), 2009, section 3. The inverse document frequency has 1 added inside the logarithm, so that
a term that most pages have counts little instead of against them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

K1 = 1.2
"""How soon repetition of a term stops helping."""

B = 0.75
"""How much a long page is held against it: 0 not at all, 1 in full proportion."""


def idf(documents: int, containing: int) -> float:
    """The weight of a term that `containing` of `documents` pages have.

    >>> round(idf(1000, 1), 3), round(idf(1000, 1000), 5)
    (6.503, 0.0005)
    """
    return math.log(1 + (documents - containing + 0.5) / (containing + 0.5))


def term_score(tf: int, length: int, average_length: float) -> float:
    """What `tf` occurrences in a page of `length` words are worth, before the term's weight; below K1 + 1.

    >>> round(term_score(1, 100, 100.0), 3), term_score(3, 100, 100.0) > term_score(3, 200, 100.0)
    (1.0, True)
    """
    return tf * (K1 + 1) / (tf + K1 * (1 - B + B * length / average_length))


def rank(
    postings: Mapping[str, Mapping[int, int]], lengths: Mapping[int, int], documents: int, average_length: float
) -> list[tuple[float, int]]:
    """(score, page id) of every page that has a term of the query, best first; equal scores by id.

    `postings` gives for each term of the query the occurrences by page id, `lengths` the words of each such page;
    `documents` and `average_length` (words) describe the whole collection.

    >>> [page for _, page in rank({"a": {1: 2, 2: 1}, "b": {2: 1}}, {1: 10, 2: 10, 3: 10}, 3, 10.0)]
    [2, 1]
    """
    scores: dict[int, float] = {}
    for _, pages in sorted(postings.items()):  # a fixed order: float sums depend on it
        weight = idf(documents, len(pages))
        for page, tf in pages.items():
            scores[page] = scores.get(page, 0.0) + weight * term_score(tf, lengths[page], average_length)
    return sorted(((score, page) for page, score in scores.items()), key=lambda hit: (-hit[0], hit[1]))
