"""The log analytics of the benchmark: three tables from one parse."""

import polars as pl

import mr

TOP = 100


@mr.job
def three_tables(input: str, output: str):
    """Requests and bytes by hour and status, and the most requested URLs and most frequent hosts."""
    hits = mr.read_access_log(input, on_error="skip")
    hours = hits.group_by("status", hour=pl.col("time").dt.truncate("1h")).agg(
        requests=mr.count(), bytes=mr.sum("bytes")
    )
    urls = hits.group_by("url").agg(requests=mr.count())
    hosts = hits.group_by("host").agg(requests=mr.count())
    return [
        hours.with_columns(pl.col("bytes").fill_null(0)).write_parquet(f"{output}/hours"),
        urls.top_k(TOP, by=["requests", "url"], descending=[True, False]).write_parquet(f"{output}/urls"),
        hosts.top_k(TOP, by=["requests", "host"], descending=[True, False]).write_parquet(f"{output}/hosts"),
    ]


if __name__ == "__main__":
    three_tables.main()
