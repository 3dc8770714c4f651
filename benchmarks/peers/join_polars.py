"""Join and sums in Polars, lazy and streaming."""

import sys

import polars as pl


def main(output: str, cores: str, facts: str, dimension: str) -> None:
    joined = pl.scan_parquet(facts).join(pl.scan_parquet(dimension), on="customer")
    joined.group_by("segment").agg(n=pl.len(), amount=pl.col("amount").sum()).sink_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
