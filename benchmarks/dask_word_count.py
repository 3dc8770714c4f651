"""The word count of the benchmark in Dask Bag; runs in the peers' environment.

`generator`: the words come out of the same Python generator as in our job; `split`: out of `str.split`, as in Dask's
documentation.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import dask.bag
import pyarrow as pa
import pyarrow.parquet as pq

BLOCK = "16MiB"  # of 4, 16, 64 MiB the fastest here


def words(line: str) -> Iterator[str]:
    yield from line.split()


def main(kind: str, text: str, output: str, processes: str) -> None:
    lines = dask.bag.read_text(text, blocksize=BLOCK)
    counted = lines.map({"generator": words, "split": str.split}[kind]).flatten().frequencies()
    pairs = counted.compute(scheduler="processes", num_workers=int(processes))
    Path(output).mkdir(exist_ok=True)
    found, numbers = zip(*pairs, strict=True)
    pq.write_table(pa.table({"word": found, "n": numbers}), f"{output}/part-00000.parquet")


if __name__ == "__main__":
    main(*sys.argv[1:])
