"""The word count of the benchmark: words come out of a Python generator, record by record."""

from collections.abc import Iterator

import mr


def words(line: str) -> Iterator[str]:
    yield from line.split()


@mr.job
def word_count(input: str, output: str):
    """Count the words of a text."""
    return mr.read_text(input).flat_map(words, names="word").group_by("word").agg(n=mr.count()).write_parquet(output)


if __name__ == "__main__":
    word_count.main()
