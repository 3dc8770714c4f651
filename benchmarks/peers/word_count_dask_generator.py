"""Word count in Dask Bag with the Python generator of our own job."""

import sys
from collections.abc import Iterator

from word_count_dask import main


def words(line: str) -> Iterator[str]:
    yield from line.split()


if __name__ == "__main__":
    main(*sys.argv[1:], split=words)
