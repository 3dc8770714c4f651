#!/usr/bin/env python
"""Several outputs from one parse, and what did not parse: sums of a file of `name,amount` lines.

mr submit examples/several_outputs.py --input payments.txt --output report
"""

from typing import NamedTuple

import mr


class Payment(NamedTuple):
    name: str
    cents: int


def parse(line: str) -> Payment:
    name, amount = line.split(",")
    return Payment(name.strip(), round(float(amount) * 100))


@mr.job
def payments(input: list[str], output: str):
    """Sum payments by name; lines that are none are kept apart, with their place."""
    paid = mr.read_text(input).map(parse, on_error="quarantine")
    return {
        "names": paid.group_by("name").agg(n=mr.count(), cents=mr.sum("cents")).write_parquet(f"{output}/names"),
        "total": paid.agg(n=mr.count(), cents=mr.sum("cents")).write_json(f"{output}/total.jsonl"),
        "bad": paid.rejected().write_json(f"{output}/bad"),
    }


if __name__ == "__main__":
    payments.main()
