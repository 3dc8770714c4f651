"""What a web server's access logs say: one parse, many tables.

Input: access logs in the combined or common format, files, folders or globs (compressed ones too). Output, a folder of
    hours/         hour, status, requests, bytes, errors; by hour and status
    urls/          the `--top` most requested: url, requests, bytes, errors; most requests first, then by name
    hosts/ referrers/ agents/   the same for host, referrer and agent (the last two with `--format combined` only)
    unique_hosts/  day, hosts (distinct), requests; by day
    unparsed/      the lines that do not parse: path, offset, line, operator, error, raw; in order of place
    labels/        with `--labels FILE` only: label, requests, bytes, errors; by label

Errors are requests answered with status 400 or more; "-" is no referrer, no agent and no bytes. The labels' file is
a small CSV with the columns host,label (whole addresses) or prefix,label (URLs; the longest prefix counts); what has no
label is counted as "(none)".

    mr submit jobs/log_analytics.py --input dfs://logs/access.log --output dfs://report --labels sections.csv
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import fsspec
import polars as pl

import mr

NO_LABEL = "(none)"


def read_labels(path: str) -> tuple[Literal["host", "prefix"], dict[str, str]]:
    """The labels' file at `path` (a path or URL): what it labels, and the labels.

    Raises ValueError where its columns are neither host,label nor prefix,label.
    """
    with fsspec.open(path, "rt", encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines))
    header = rows[0] if rows else []
    if header not in (["host", "label"], ["prefix", "label"]):
        raise ValueError(f"{path}: the first line must be host,label or prefix,label, not {','.join(header)!r}")
    return header[0], {row[0]: row[1] for row in rows[1:] if row}  # type: ignore[return-value]


def label_of(url: str, prefixes: Mapping[str, str]) -> str:
    """The label of the longest of `prefixes` that `url` begins with.

    >>> label_of("/docs/api/x", {"/": "site", "/docs/": "docs"}), label_of("*", {"/": "site"})
    ('docs', '(none)')
    """
    longest = max((prefix for prefix in prefixes if url.startswith(prefix)), key=len, default=None)
    return NO_LABEL if longest is None else prefixes[longest]


def _totals(hits: mr.Dataset, *by: str) -> mr.Dataset:
    counted = hits.group_by(*by).agg(requests=mr.count(), bytes=mr.sum("bytes"), errors=mr.sum("error"))
    return counted.with_columns(pl.col("bytes").fill_null(0))


def _top(totals: mr.Dataset, name: str, top: int) -> mr.Dataset:
    return totals.filter(pl.col(name).is_not_null()).top_k(top, by=["requests", name], descending=[True, False])


def _labelled(urls: mr.Dataset, hosts: mr.Dataset, labels: str) -> mr.Dataset:
    kind, table = read_labels(labels)
    if kind == "prefix":
        label = partial(_with_label, prefixes=table)
        named = urls.map(label, names={"label": str, "requests": int, "bytes": int, "errors": int})
    else:
        label_rows = mr.from_items([{"host": host, "label": label} for host, label in table.items()])
        named = hosts.join(label_rows, on="host", how="left", strategy="broadcast")
        named = named.with_columns(pl.col("label").fill_null(NO_LABEL))
    totals = named.group_by("label").agg(requests=mr.sum("requests"), bytes=mr.sum("bytes"), errors=mr.sum("errors"))
    return totals.sort("label")


def _with_label(row: Any, prefixes: Mapping[str, str]) -> tuple[str, int, int, int]:
    return label_of(row.url, prefixes), row.requests, row.bytes, row.errors


@mr.job
def log_analytics(
    input: list[str],
    output: str,
    *,
    format: Literal["combined", "common"] = "combined",
    top: int = 100,
    labels: str | None = None,
) -> Any:
    """What a web server's access logs say: requests, bytes and errors by hour, URL, referrer, agent, host and label."""
    parsed = mr.read_access_log(input, format=format, on_error="quarantine")
    hits = parsed.with_columns(error=(pl.col("status") >= 400).cast(pl.Int64))
    by_hour = hits.with_columns(hour=pl.col("time").dt.truncate("1h"))
    by_day = hits.with_columns(day=pl.col("time").dt.date())
    urls, hosts = _totals(hits, "url"), _totals(hits, "host")
    tables = {
        "hours": _totals(by_hour, "hour", "status").sort("hour", "status"),
        "urls": _top(urls, "url", top),
        "hosts": _top(hosts, "host", top),
        "unique_hosts": by_day.group_by("day").agg(hosts=mr.count_distinct("host"), requests=mr.count()).sort("day"),
        "unparsed": parsed.rejected().sort("path", "offset"),
    }
    if format == "combined":
        tables["referrers"] = _top(_totals(hits, "referrer"), "referrer", top)
        tables["agents"] = _top(_totals(hits, "agent"), "agent", top)
    if labels is not None:
        tables["labels"] = _labelled(urls, hosts, labels)
    return {name: table.write_parquet(f"{output}/{name}") for name, table in tables.items()}


if __name__ == "__main__":
    log_analytics.main()
