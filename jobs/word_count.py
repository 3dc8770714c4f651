"""Count how often each word occurs.

Input: text files, folders or globs (`.gz`, `.bz2`, `.xz` and `.zst` too). Output: rows of word (str), n (int), most
frequent first, equal counts by word.

    mr submit jobs/word_count.py --input books/ --output counts --pattern letters --min-count 5
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import polars as pl

import mr

_LETTERS = re.compile(r"[^\W\d_]+")


def letters(line: str) -> list[str]:
    """The maximal runs of letters of any alphabet in `line`, as they are written.

    >>> letters("don't stop: Straße 42, naïve_x")
    ['don', 't', 'stop', 'Straße', 'naïve', 'x']
    """
    return _LETTERS.findall(line)


WORDS: dict[str, Callable[[str], list[str]]] = {"letters": letters, "split": str.split}


@mr.job
def word_count(
    input: list[str], output: str, *, min_count: int = 1, pattern: Literal["split", "letters"] = "split"
) -> Any:
    """Count how often each word occurs.

    A word is what stands between blanks (`--pattern split`) or a maximal run of letters (`--pattern letters`).
    """
    return (
        mr.read_text(input)
        .flat_map(WORDS[pattern], names="word")
        .group_by("word")
        .agg(n=mr.count())
        .filter(pl.col("n") >= min_count)
        .sort("n", "word", descending=[True, False])
        .write_parquet(output)
    )


if __name__ == "__main__":
    word_count.main()
