#!/usr/bin/env python
"""Sessions: what each visitor of a site did without a long pause, and where the visitor is from.

mr submit examples/sessions.py --input access.log --countries hosts.csv --output sessions --gap 30m
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial

import polars as pl

import mr

SESSION = {"host": str, "start": pl.Datetime("us", "UTC"), "seconds": float, "requests": int, "entry": str}


def sessions_of(host: str, hits: Iterator[mr.Row], gap: timedelta) -> Iterator[tuple[str, datetime, float, int, str]]:
    """Cut one host's hits, in order of time, wherever nothing happened for longer than `gap`."""
    first = last = next(hits)
    requests = 1
    for hit in hits:
        if hit.time - last.time > gap:
            yield host, first.time, (last.time - first.time).total_seconds(), requests, first.url
            first, requests = hit, 0
        last, requests = hit, requests + 1
    yield host, first.time, (last.time - first.time).total_seconds(), requests, first.url


@mr.job
def sessions(input: list[str], countries: str, output: str, *, gap: timedelta = timedelta(minutes=30)):
    """Cut the visits in access logs into sessions; COUNTRIES is a CSV of host and country."""
    return (
        mr.read_access_log(input, on_error="skip")
        .group_by("host")
        .map_groups(partial(sessions_of, gap=gap), sort_by="time", names=SESSION)
        .join(mr.read_csv(countries, schema={"host": str, "country": str}), on="host", how="left")
        .sort("start", "host")
        .write_parquet(output)
    )


if __name__ == "__main__":
    sessions.main()
