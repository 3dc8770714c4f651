r"""What a line of a web server's access log means; `access_lines` parses many at once, to the same effect.

Of a request, method and protocol are its first and last word where they look like it, else the URL is all of it.
"-" stands for nothing said and becomes null, but in host and URL. Escapes such as `\"` and `\xe4` stay as logged.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any, Final

import pyarrow as pa

_PREFIX: Final = r'(?P<host>\S+) (?P<identity>\S+) (?P<user>\S+) \[(?P<time>[^\]]*)\] "(?P<request>(?:[^"\\]|\\.)*)" '
_STATUS: Final = r"(?P<status>\d{3}) (?P<bytes>\d{1,18}|-)"
_QUOTED: Final = r' "(?P<{}>(?:[^"\\]|\\.)*)"'

COMMON: Final = re.compile(_PREFIX + _STATUS + r"(?: .*)?", re.ASCII | re.DOTALL)
COMBINED: Final = re.compile(
    _PREFIX + _STATUS + _QUOTED.format("referrer") + _QUOTED.format("agent") + r"(?: .*)?", re.ASCII | re.DOTALL
)
"""More fields may follow after a blank, as many servers log them; they are left out."""

_REQUEST: Final = re.compile(r"([A-Z]+) (.+) (HTTP/\d(?:\.\d)?)", re.ASCII | re.DOTALL)
_TIME: Final = re.compile(
    r"(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-])([01]\d|2[0-3])([0-5]\d)", re.ASCII
)
MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

TYPES: Final[dict[str, pa.DataType]] = {
    "host": pa.large_string(),
    "identity": pa.large_string(),
    "user": pa.large_string(),
    "time": pa.timestamp("us", "UTC"),
    "method": pa.large_string(),
    "url": pa.large_string(),
    "protocol": pa.large_string(),
    "status": pa.int64(),
    "bytes": pa.int64(),
    "referrer": pa.large_string(),
    "agent": pa.large_string(),
}
"""All columns that a line can have, in their order; the common format lacks the last two."""


def parse_line(line: str, pattern: re.Pattern[str]) -> dict[str, Any] | None:
    """The columns of one line under a pattern with named groups; None if it does not match or its time is none.

    A group `request` becomes method, url and protocol; `time`, `status` and `bytes` get their types where the text
    allows it, else the line does not match. Groups of other names are strings.

    >>> row = parse_line('a - - [17/May/2015:12:05:03 +0200] "GET / HTTP/1.1" 200 -', COMMON)
    >>> row["time"].isoformat(), row["url"], row["status"], row["bytes"]
    ('2015-05-17T10:05:03+00:00', '/', 200, None)
    """
    match = pattern.fullmatch(line)
    if match is None:
        return None
    row: dict[str, Any] = {}
    for name, text in match.groupdict().items():
        if name == "request":
            row["method"], row["url"], row["protocol"] = _request(text or "")
        elif name in ("host", "url"):
            row[name] = text
        elif text is None or text == "-":
            row[name] = None
        elif name == "time":
            row[name] = _time(text)
            if row[name] is None:
                return None
        elif name in ("status", "bytes"):
            if not (text.isascii() and text.isdigit() and len(text) <= 18):
                return None
            row[name] = int(text)
        else:
            row[name] = text
    return row


def _request(text: str) -> tuple[str | None, str, str | None]:
    match = _REQUEST.fullmatch(text)
    return (match[1], match[2], match[3]) if match else (None, text, None)


def _time(text: str) -> dt.datetime | None:
    match = _TIME.fullmatch(text)
    if match is None or match[2] not in MONTHS:
        return None
    day, month, year, hour, minute, second, sign, off_hours, off_minutes = match.groups()
    offset = dt.timedelta(hours=int(off_hours), minutes=int(off_minutes)) * (1 if sign == "+" else -1)
    try:
        local = dt.datetime(int(year), MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second))
        return (local - offset).replace(tzinfo=dt.UTC)
    except (ValueError, OverflowError):
        return None
