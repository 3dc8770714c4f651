"""Groupings by customer: one row each, and each one's rows through a Python function."""

from collections.abc import Iterator
from typing import Any

import mr


@mr.job
def totals(input: str, output: str):
    """Number and sum of the amounts of each customer."""
    rows = mr.read_parquet(input)
    return rows.group_by("customer").agg(n=mr.count(), amount=mr.sum("amount")).write_parquet(output)


def total(customer: str, rows: Iterator[Any]) -> tuple[str, int, int]:
    """What `totals` computes, row by row."""
    n = amount = 0
    for row in rows:
        n, amount = n + 1, amount + row.amount
    return customer, n, amount


@mr.job
def totals_by_rows(input: str, output: str):
    """The same in Python: no customer's rows need to fit into memory."""
    names = {"customer": str, "n": int, "amount": int}
    return mr.read_parquet(input).group_by("customer").map_groups(total, names=names).write_parquet(output)
