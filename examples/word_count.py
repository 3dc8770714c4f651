#!/usr/bin/env python
"""Word count, the classic way: a mapper, a combiner and a reducer in plain Python.

mr submit examples/word_count.py --input books/ --output counts --min-count 5
"""

from collections.abc import Iterator

import polars as pl

import mr


def words(line: str) -> Iterator[tuple[str, int]]:
    for word in line.split():
        yield word.lower(), 1


@mr.job
def word_count(input: list[str], output: str, *, min_count: int = 1):
    """Count how often each word occurs, whatever its case."""
    return (
        mr.read_text(input)
        .map_reduce(
            words,
            lambda word, ns: (word, sum(ns)),
            combiner=lambda word, ns: sum(ns),
            names={"word": str, "n": int},
        )
        .filter(pl.col("n") >= min_count)
        .sort("n", "word", descending=[True, False])
        .write_parquet(output)
    )


if __name__ == "__main__":
    word_count.main()
