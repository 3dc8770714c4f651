"""Join and sums in Dask DataFrame on processes."""

import sys

import dask.dataframe as dd
from dask.distributed import Client


def main(output: str, cores: str, facts: str, dimension: str) -> None:
    with Client(n_workers=int(cores), threads_per_worker=1, dashboard_address=None):
        left, right = dd.read_parquet(facts, split_row_groups=True), dd.read_parquet(dimension, split_row_groups=True)
        groups = left.merge(right, on="customer").groupby("segment").amount
        sums = groups.agg(["count", "sum"]).rename(columns={"count": "n", "sum": "amount"}).reset_index()
        sums.to_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
