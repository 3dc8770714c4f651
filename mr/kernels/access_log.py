r"""Web server access logs, line by line in meaning and by position in fact.

What a line means is `COMBINED` and `COMMON`, two regular expressions. Nearly all lines of a real log are plain: as many
quotes as the format has and none of them escaped, so that each field lies between two blanks, brackets or quotes
whose positions NumPy finds for all lines at once. Lines that are not plain go through the expression one by one;
a test holds both ways equal.

Of a request, method and protocol are its first and last word where they look like it, else the URL is all of it.
"-" stands for nothing said and becomes null, but in host and URL. Escapes such as `\"` and `\xe4` stay as logged.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

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
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TIME_BYTES: Final = len("17/May/2015:10:05:03 +0000")
_METHOD_BYTES_MAX: Final = len("CONNECT")

_BY_CODE: Final = sorted(
    (sum((byte - 48) % 256 << 16 - 8 * i for i, byte in enumerate(m.encode())), n) for n, m in enumerate(_MONTHS)
)
_MONTH_CODES: Final = np.array([code for code, _ in _BY_CODE])
_MONTH_NUMBERS: Final = np.array([number for _, number in _BY_CODE])
_PLUS: Final = (ord("+") - ord("0")) % 256
_MINUS: Final = (ord("-") - ord("0")) % 256

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


# --- one line ---------------------------------------------------------------------------------------------------------


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
    if match is None or match[2] not in _MONTHS:
        return None
    day, month, year, hour, minute, second, sign, off_hours, off_minutes = match.groups()
    offset = dt.timedelta(hours=int(off_hours), minutes=int(off_minutes)) * (1 if sign == "+" else -1)
    try:
        local = dt.datetime(int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second))
        return (local - offset).replace(tzinfo=dt.UTC)
    except (ValueError, OverflowError):
        return None


# --- many lines -------------------------------------------------------------------------------------------------------


class _Places(NamedTuple):
    """Where the fields of some lines lie in the data: each (lines,), the position of a delimiter."""

    line: Positions  # not a position: the line's number
    start: Positions
    blank_1: Positions  # after host, identity and user
    blank_2: Positions
    blank_3: Positions
    quotes: Positions  # (lines, 2 or 6)
    method_end: Positions
    url_end: Positions
    end: Positions

    def keep(self, mask: Mask) -> _Places:
        return self if mask.all() else _Places(*(array[mask] for array in self))


def parse_lines(
    data: bytes, starts: Positions, ends: Positions, combined: bool, columns: Sequence[str]
) -> tuple[pa.RecordBatch, Mask]:
    """The `columns` of the lines that parse, in order, and which of the lines those are, (lines,).

    `data` is UTF-8; line i is `data[starts[i]:ends[i]]`, without its newline.

    >>> data = b'a - - [17/May/2015:12:05:03 +0200] "GET / HTTP/1.1" 200 12\\nnonsense'
    >>> batch, parsed = parse_lines(data, np.array([0, 59]), np.array([58, 67]), False, ["url", "bytes"])
    >>> batch.to_pylist(), parsed.tolist()
    ([{'url': '/', 'bytes': 12}], [True, False])
    """
    array = np.frombuffer(data, np.uint8)
    places = _locate(data, array, starts, ends, 6 if combined else 2)
    places = places.keep(_words_are_plain(array, places))
    seconds, timely = _times(array, places.blank_3 + 2)
    sizes, sized = _sizes(array, places.quotes[:, 1] + 6, _size_end(places))
    places, seconds, sizes = places.keep(timely & sized), seconds[timely & sized], sizes[timely & sized]
    schema = pa.schema([(name, TYPES[name]) for name in columns])
    batch = pa.RecordBatch.from_arrays(
        [_column(name, array, places, seconds, sizes) for name in columns], schema=schema
    )
    parsed = np.zeros(len(starts), np.bool_)
    parsed[places.line] = True
    rows, lines = [], []
    for i in np.flatnonzero(~parsed).tolist():
        row = parse_line(data[starts[i] : ends[i]].decode(), COMBINED if combined else COMMON)
        if row is not None:
            rows.append({name: row[name] for name in columns})
            lines.append(i)
    if rows:
        order = np.argsort(np.concatenate([places.line, np.array(lines)]), kind="stable")
        batch = pa.concat_batches([batch, pa.RecordBatch.from_pylist(rows, schema=schema)]).take(pa.array(order))
        parsed[lines] = True
    return batch, parsed


def _locate(data: bytes, array: Bytes, starts: Positions, ends: Positions, quotes: int) -> _Places:
    """The lines whose delimiters are as many and as far apart as in a plain line."""
    quote_at = np.flatnonzero(array == ord('"'))
    blank_at = np.flatnonzero(array == ord(" "))
    first_quote = np.searchsorted(quote_at, starts)
    first_blank = np.searchsorted(blank_at, starts)
    plain = np.diff(first_quote, append=len(quote_at)) == quotes
    plain &= first_blank + 6 <= len(blank_at)
    for other in (b"\t", b"\v", b"\f", b"\r"):  # what \S excludes besides blanks, if it occurs at all
        if other in data:
            others = np.flatnonzero(array == other[0])
            plain &= np.searchsorted(others, starts) == np.searchsorted(others, ends)
    lines = np.flatnonzero(plain)
    if not len(lines):
        return _Places(*(lines,) * 5, np.empty((0, quotes), np.int64), *(lines,) * 3)
    blanks = first_blank[lines]
    quoted = quote_at[first_quote[lines][:, None] + np.arange(quotes)]
    places = _Places(
        line=lines,
        start=starts[lines],
        blank_1=blank_at[blanks],
        blank_2=blank_at[blanks + 1],
        blank_3=blank_at[blanks + 2],
        quotes=quoted,
        method_end=blank_at[blanks + 5],  # after the two in and behind the time
        url_end=blank_at[np.searchsorted(blank_at, quoted[:, 1]) - 1],
        end=ends[lines],
    )
    return places.keep(_distances_are_plain(places))


def _distances_are_plain(places: _Places) -> Mask:
    opening, closing = places.quotes[:, 0], places.quotes[:, 1]
    plain: Mask = (places.start < places.blank_1) & (places.blank_1 + 1 < places.blank_2)
    plain &= (places.blank_2 + 1 < places.blank_3) & (opening == places.blank_3 + len(" [] ") + _TIME_BYTES)
    plain &= (places.method_end > opening + 1) & (places.method_end <= opening + 1 + _METHOD_BYTES_MAX)
    plain &= (places.url_end > places.method_end + 1) & (closing == places.url_end + len(" HTTP/1.1"))
    size_bytes = _size_end(places) - (closing + len('" 200 '))
    plain &= (size_bytes >= 1) & (size_bytes <= 18)
    if places.quotes.shape[1] == 6:
        plain &= places.quotes[:, 4] == places.quotes[:, 3] + len('" ')
    return plain


def _size_end(places: _Places) -> Positions:
    return places.quotes[:, 2] - 1 if places.quotes.shape[1] == 6 else places.end


def _words_are_plain(array: Bytes, places: _Places) -> Mask:
    """Which lines have the right bytes between their fields, a method, a protocol and a status."""
    opening, closing, time = places.quotes[:, 0], places.quotes[:, 1], places.blank_3
    plain: Mask = (array[time + 1] == ord("[")) & (array[opening - 2] == ord("]")) & (array[opening - 1] == ord(" "))
    plain &= (array[closing + 1] == ord(" ")) & (array[closing + 5] == ord(" "))
    for at in (2, 3, 4):
        plain &= _digit(array, closing + at) <= 9
    for at, letter in enumerate(b"HTTP/"):
        plain &= array[places.url_end + 1 + at] == letter
    plain &= (_digit(array, closing - 3) <= 9) & (array[closing - 2] == ord(".")) & (_digit(array, closing - 1) <= 9)
    for at in range(_METHOD_BYTES_MAX):
        capital = array[opening + 1 + at] - np.uint8(ord("A"))
        plain &= (capital < 26) | (opening + 1 + at >= places.method_end)
    if places.quotes.shape[1] == 6:
        referrer_end, agent_end = places.quotes[:, 3], places.quotes[:, 5]
        plain &= (array[places.quotes[:, 2] - 1] == ord(" ")) & (array[referrer_end + 1] == ord(" "))
        plain &= (array[referrer_end - 1] != ord("\\")) & (array[agent_end - 1] != ord("\\"))
        plain &= (agent_end + 1 == places.end) | (array[np.minimum(agent_end + 1, len(array) - 1)] == ord(" "))
    return plain


def _digit(array: Bytes, at: Positions) -> Bytes:
    """The digits at some positions; above 9 what is none."""
    return array[at] - np.uint8(ord("0"))


def _times(array: Bytes, at: Positions) -> tuple[Positions, Mask]:
    """Seconds since 1970 of the times at some positions, and which of them are times."""
    digits = [_digit(array, at + i).astype(np.int64) for i in range(_TIME_BYTES)]
    valid = np.ones(len(at), np.bool_)
    for i, byte in enumerate(b"00/   /0000:00:00:00  0000"):
        if byte == ord("0"):
            valid &= digits[i] <= 9
        elif byte != ord(" "):
            valid &= digits[i] == (byte - ord("0")) % 256
    day, year = digits[0] * 10 + digits[1], digits[7] * 1000 + digits[8] * 100 + digits[9] * 10 + digits[10]
    hour, minute, second, off_hours, off_minutes = (digits[i] * 10 + digits[i + 1] for i in (12, 15, 18, 22, 24))
    code = (digits[3] << 16) | (digits[4] << 8) | digits[5]
    known = np.minimum(np.searchsorted(_MONTH_CODES, code), 11)
    valid &= (_MONTH_CODES[known] == code) & (year >= 1)
    sign = digits[21]
    valid &= (array[at + 20] == ord(" ")) & ((sign == _PLUS) | (sign == _MINUS))
    valid &= (hour < 24) & (minute < 60) & (second < 60) & (off_hours < 24) & (off_minutes < 60) & (day >= 1)
    months = np.where(valid, (year - 1970) * 12 + _MONTH_NUMBERS[known], 0)
    first_day = months.astype("M8[M]").astype("M8[D]").astype(np.int64)
    next_month = (months + 1).astype("M8[M]").astype("M8[D]").astype(np.int64)
    valid &= first_day + day <= next_month
    offset = (off_hours * 60 + off_minutes) * np.where(sign == _MINUS, -60, 60)
    seconds = (first_day + day - 1) * 86_400 + hour * 3600 + minute * 60 + second - offset
    return seconds, valid & (year > 1) & (year < 9999)  # an offset may leave the years that Python has: see parse_line


def _sizes(array: Bytes, at: Positions, end: Positions) -> tuple[Positions, Mask]:
    """The numbers at some positions, -1 for a single "-", and which of them are either."""
    length = end - at
    sizes, valid, power = np.zeros(len(at), np.int64), np.ones(len(at), np.bool_), 1
    for i in range(int(length.max(initial=0))):
        digit = _digit(array, np.maximum(end - 1 - i, 0)).astype(np.int64)
        here = i < length
        valid &= (digit <= 9) | ~here
        sizes += np.where(here, digit * power, 0)
        power *= 10
    nothing = (length == 1) & (array[at] == ord("-")) if len(at) else np.zeros(0, np.bool_)
    return np.where(nothing, -1, sizes), valid | nothing


def _column(name: str, array: Bytes, places: _Places, seconds: Positions, sizes: Positions) -> pa.Array:
    if name == "time":
        return pa.array(seconds * 1_000_000).cast(TYPES["time"])
    if name == "status":
        hundreds, tens, ones = (_digit(array, places.quotes[:, 1] + i).astype(np.int64) for i in (2, 3, 4))
        return pa.array(hundreds * 100 + tens * 10 + ones)
    if name == "bytes":
        return pa.array(sizes, mask=sizes < 0)
    quotes = places.quotes
    bounds: dict[str, Callable[[], tuple[Positions, Positions]]] = {
        "host": lambda: (places.start, places.blank_1),
        "identity": lambda: (places.blank_1 + 1, places.blank_2),
        "user": lambda: (places.blank_2 + 1, places.blank_3),
        "method": lambda: (quotes[:, 0] + 1, places.method_end),
        "url": lambda: (places.method_end + 1, places.url_end),
        "protocol": lambda: (places.url_end + 1, quotes[:, 1]),
        "referrer": lambda: (quotes[:, 2] + 1, quotes[:, 3]),
        "agent": lambda: (quotes[:, 4] + 1, quotes[:, 5]),
    }
    start, end = bounds[name]()
    return _strings(array, start, end, dash_is_null=name not in ("host", "url"))


def _strings(array: Bytes, start: Positions, end: Positions, dash_is_null: bool) -> pa.Array:
    """The texts array[start[i]:end[i]] as large_string, gathered at once."""
    lengths, valid, nulls = end - start, None, 0
    if dash_is_null and len(start):
        missing = (lengths == 1) & (array[start] == ord("-"))
        nulls = int(missing.sum())
        if nulls:
            lengths = np.where(missing, 0, lengths)
            valid = pa.array(~missing).buffers()[1]
    bounds = np.zeros(len(start) + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    text = array[np.repeat(start - bounds[:-1], lengths) + np.arange(bounds[-1])]
    buffers = [valid, pa.py_buffer(bounds), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.large_string(), len(start), buffers, nulls)
