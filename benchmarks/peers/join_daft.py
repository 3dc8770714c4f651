"""Join and sums in Daft."""

import sys

import daft


def main(output: str, cores: str, facts: str, dimension: str) -> None:
    daft.set_runner_native(num_threads=int(cores))
    joined = daft.read_parquet(facts).join(daft.read_parquet(dimension), on="customer")
    sums = joined.groupby("segment").agg(daft.col("amount").count().alias("n"), daft.col("amount").sum())
    sums.write_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
