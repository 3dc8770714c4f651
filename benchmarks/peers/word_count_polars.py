"""Word count in Polars, lazy and streaming."""

import sys

import polars as pl


def main(output: str, cores: str, text: str) -> None:
    words = pl.scan_lines(text).select(word=pl.col("line").str.split(" ")).explode("word")
    words.group_by("word").agg(n=pl.len()).sink_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
