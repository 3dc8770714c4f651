"""The join of the benchmark: facts with the dimension of their customer, summed by segment."""

from typing import Literal

import mr


@mr.job
def segments(facts: str, dimension: str, output: str, *, strategy: Literal["auto", "sort_merge", "broadcast"] = "auto"):
    """Number and sum of the amounts of each segment of customers."""
    joined = mr.read_parquet(facts).join(mr.read_parquet(dimension), on="customer", strategy=strategy)
    return joined.group_by("segment").agg(n=mr.count(), amount=mr.sum("amount")).write_parquet(output)


if __name__ == "__main__":
    segments.main()
