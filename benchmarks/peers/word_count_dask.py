"""Word count in Dask Bag with `str.split`, as in Dask's documentation."""

import sys
from pathlib import Path

import dask.bag
import pyarrow as pa
import pyarrow.parquet as pq

BLOCK = "16MiB"  # of 4, 16, 64 MiB the fastest here


def main(output: str, cores: str, text: str, split=str.split) -> None:
    counted = dask.bag.read_text(text, blocksize=BLOCK).map(split).flatten().frequencies()
    pairs = counted.compute(scheduler="processes", num_workers=int(cores))
    Path(output).mkdir(exist_ok=True)
    found, numbers = zip(*pairs, strict=True)
    pq.write_table(pa.table({"word": found, "n": numbers}), f"{output}/part-00000.parquet")


if __name__ == "__main__":
    main(*sys.argv[1:])
