"""What `at=` and `--at` name: a transaction by number, by a snapshot's name, or by time. Pure."""

from __future__ import annotations

import re
from datetime import datetime

from dfs.errors import UsageProblem

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)

Moment = int | str | datetime


def transaction_number(moment: Moment) -> int | None:
    """The number that a moment gives outright, None for a name or a time.

    >>> transaction_number(7), transaction_number("7"), transaction_number("v1.0")
    (7, 7, None)
    """
    if isinstance(moment, int):
        return moment
    return int(moment) if isinstance(moment, str) and _NUMBER.fullmatch(moment) else None


def time_ms(moment: Moment) -> int:
    """A time in ms since the epoch, from a datetime or ISO 8601 text; without a zone it is local time.

    Raises UsageProblem for text that is no time.

    >>> time_ms("2026-11-21T10:00:00+00:00")
    1795255200000
    """
    if not isinstance(moment, datetime):
        try:
            moment = datetime.fromisoformat(str(moment))
        except ValueError:
            raise UsageProblem(
                f"{moment!r} is no transaction number, no snapshot (`dfs snapshot list`), and no time such as "
                "2026-11-21 or 2026-11-21T10:00:00Z"
            ) from None
    return int(moment.timestamp() * 1000)
