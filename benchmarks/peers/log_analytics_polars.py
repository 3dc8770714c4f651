"""Three tables of an access log in Polars: one regular expression, three lazy frames collected together."""

import sys
from pathlib import Path

import polars as pl

LINE = (
    r'^(?P<host>\S+) \S+ \S+ \[(?P<time>[^\]]+)\] "\S+ (?P<url>\S+) [^"]*" (?P<status>\d{3}) (?P<bytes>\d+|-)'
    r' "[^"]*" "[^"]*"$'
)


def top(hits: pl.LazyFrame, column: str) -> pl.LazyFrame:
    counted = hits.group_by(column).agg(requests=pl.len())
    return counted.sort(["requests", column], descending=[True, False]).head(100)


def main(output: str, cores: str, log: str) -> None:
    lines = pl.scan_lines(log).select(pl.col("line").str.extract_groups(LINE).alias("hit")).unnest("hit")
    hits = lines.filter(pl.col("host").is_not_null()).with_columns(
        hour=pl.col("time").str.to_datetime("%d/%b/%Y:%H:%M:%S %z", time_unit="us").dt.truncate("1h"),
        status=pl.col("status").cast(pl.Int64),
        bytes=pl.col("bytes").cast(pl.Int64, strict=False),
    )
    hours = hits.group_by("hour", "status").agg(requests=pl.len(), bytes=pl.col("bytes").sum())
    tables = {"hours": hours, "urls": top(hits, "url"), "hosts": top(hits, "host")}
    for name in tables:
        Path(output, name).mkdir(parents=True)
    sinks = [table.sink_parquet(f"{output}/{name}/0.parquet", lazy=True) for name, table in tables.items()]
    pl.collect_all(sinks, engine="streaming")


if __name__ == "__main__":
    main(*sys.argv[1:])
