#!/usr/bin/env python
"""The most requested URLs of each hour, as one CSV file.

mr submit examples/top_urls.py --input access.log --output report --top 10
"""

import polars as pl

import mr


@mr.job
def top_urls(input: list[str], output: str, *, top: int = 10):
    """The most requested URLs of each hour, with their visitors."""
    return (
        mr.read_access_log(input, on_error="skip")
        .group_by("url", hour=pl.col("time").dt.truncate("1h"))
        .agg(n=mr.count(), visitors=mr.count_distinct("host"))
        .group_by("hour")
        .top_k(top, by=["n", "url"], descending=[True, False])
        .select("hour", "url", "n", "visitors")
        .sort("hour", "n", "url", descending=[False, True, False])
        .write_csv(f"{output}/top.csv")
    )


if __name__ == "__main__":
    top_urls.main()
