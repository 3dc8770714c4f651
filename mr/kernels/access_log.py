r"""Web server access logs, line by line in meaning and by position in fact.

What a line means is `COMBINED` and `COMMON`, two regular expressions. Nearly all lines of a real log are plain: as many
quotes as the format has and none of them escaped. Of these only the quotes are looked for in all bytes; the rest lies
at known distances from them, and is looked at for all lines at once, eight bytes of each as one number. Lines that are
not plain go through the expression one by one; a test holds both ways equal.

Of a request, method and protocol are its first and last word where they look like it, else the URL is all of it.
"-" stands for nothing said and becomes null, but in host and URL. Escapes such as `\"` and `\xe4` stay as logged.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mr.kernels.words import BLANKS, LOWEST, LOWS, ONES, TOPS, Words, has_blank, numbers, word, words_of, zero_bytes

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
_TIME_AT: Final = _TIME_BYTES + len("] ")  # so many bytes before the quote that opens the request
_NO_NAMES: Final = b" - - ["
_HEAD_BYTES_MIN: Final = len("h") + len(_NO_NAMES) + _TIME_AT
_PROTOCOL: Final = len(" HTTP/1.1")
_REQUEST_BYTES_MIN: Final = len('"G /') + _PROTOCOL
_SIZE_DIGITS_MAX: Final = 16

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
    """What the quotes of some lines tell, each (lines,), but quotes (2 or 6, lines)."""

    line: Positions  # the number of the line
    start: Positions
    quotes: Positions
    end: Positions

    @property
    def size_end(self) -> Positions:
        return self.quotes[2] - 1 if len(self.quotes) == 6 else self.end

    def keep(self, mask: Mask) -> _Places:
        return self if mask.all() else _Places(*(array[..., mask] for array in self))


class _Fields(NamedTuple):
    """What the columns need besides, each (lines,): positions of blanks, and values."""

    blank_1: Positions  # after host and identity
    blank_2: Positions
    method_end: Positions
    seconds: Positions
    size: Positions

    def keep(self, mask: Mask) -> _Fields:
        return self if mask.all() else _Fields(*(array[mask] for array in self))


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
    schema = pa.schema([(name, TYPES[name]) for name in columns])
    batch, plain = _parse_plain(data, _locate(data, starts, ends, 6 if combined else 2), schema)
    parsed = np.zeros(len(starts), np.bool_)
    parsed[plain] = True
    rows, lines = [], []
    for i in np.flatnonzero(~parsed).tolist():
        row = parse_line(data[starts[i] : ends[i]].decode(), COMBINED if combined else COMMON)
        if row is not None:
            rows.append({name: row[name] for name in columns})
            lines.append(i)
    if rows:
        order = np.argsort(np.concatenate([plain, np.array(lines)]), kind="stable")
        batch = pa.concat_batches([batch, pa.RecordBatch.from_pylist(rows, schema=schema)]).take(pa.array(order))
        parsed[lines] = True
    return batch, parsed


def _locate(data: bytes, starts: Positions, ends: Positions, quotes: int) -> _Places:
    """The lines that may be plain by the number of their quotes and by how far apart these are."""
    array = np.frombuffer(data, np.uint8)
    quote_at = np.flatnonzero(array == ord('"'))
    first_quote = np.searchsorted(quote_at, starts)
    plain = np.diff(first_quote, append=len(quote_at)) == quotes
    for other in (b"\t", b"\v", b"\f", b"\r"):  # what \S excludes besides blanks, if it occurs at all
        if other in data:
            others = np.flatnonzero(array == other[0])
            plain &= np.searchsorted(others, starts) == np.searchsorted(others, ends)
    lines = np.flatnonzero(plain)
    quoted = (
        quote_at[first_quote[lines] + np.arange(quotes)[:, None]] if len(lines) else np.empty((quotes, 0), np.int64)
    )
    places = _Places(lines, starts[lines], quoted, ends[lines])
    opening, closing = quoted[:2]
    near = (opening - places.start >= _HEAD_BYTES_MIN) & (closing - opening >= _REQUEST_BYTES_MIN)
    size_bytes = places.size_end - (closing + len('" 200 '))
    near &= (size_bytes >= 1) & (size_bytes <= _SIZE_DIGITS_MAX)
    if quotes == 6:
        near &= quoted[4] == quoted[3] + len('" ')
    return places.keep(near)


def _parse_plain(data: bytes, places: _Places, schema: pa.Schema) -> tuple[pa.RecordBatch, Positions]:
    """The columns of those of the lines that are plain, and their numbers."""
    array = np.frombuffer(data, np.uint8)
    words = words_of(data)
    blank_1, blank_2, headed = _heads(array, words, places)
    method_end, requested = _requests(array, words, places)
    seconds, timely = _times(array, words, places.quotes[0] - _TIME_AT)
    size, sized = _sizes(words, places.size_end, places.size_end - (places.quotes[1] + len('" 200 ')))
    plain = headed & requested & timely & sized & _separated(array, places)
    places, fields = places.keep(plain), _Fields(blank_1, blank_2, method_end, seconds, size).keep(plain)
    columns = [_column(name, data, array, places, fields) for name in schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=schema), places.line


def _separated(array: Bytes, places: _Places) -> Mask:
    """Which lines have the right bytes around their quotes."""
    opening, closing = places.quotes[:2]
    plain: Mask = (array[opening - 2] == ord("]")) & (array[opening - 1] == ord(" "))
    plain &= (array[closing + 1] == ord(" ")) & (array[closing + 5] == ord(" "))
    for at in (2, 3, 4):
        plain &= array[closing + at] - np.uint8(ord("0")) <= 9
    if len(places.quotes) == 6:
        referrer, referrer_end, _, agent_end = places.quotes[2:]
        plain &= (array[referrer - 1] == ord(" ")) & (array[referrer_end + 1] == ord(" "))
        plain &= (array[referrer_end - 1] != ord("\\")) & (array[agent_end - 1] != ord("\\"))
        plain &= (agent_end + 1 == places.end) | (array[np.minimum(agent_end + 1, len(array) - 1)] == ord(" "))
    return plain


def _heads(array: Bytes, words: Words, places: _Places) -> tuple[Positions, Positions, Mask]:
    """The blanks after host and identity, and which lines have these and one more before the time, and no others."""
    last = places.quotes[0] - _TIME_AT - len(" [")
    blank_1, blank_2 = last - 4, last - 2  # where identity and user are "-", as nearly always
    plain: Mask = array[last + 1] == ord("[")
    unnamed = words[last - 5] >> 8 & LOWEST[len(_NO_NAMES)] == word(_NO_NAMES)
    plain &= ~(unnamed & has_blank(words, places.start, blank_1))
    named = np.flatnonzero(~unnamed)
    if len(named):
        blank_at = np.append(np.flatnonzero(array == ord(" ")), [len(array)] * 3)
        first = np.searchsorted(blank_at, places.start[named])
        one, two, three = (blank_at[first + i] for i in range(3))
        blank_1[named], blank_2[named] = one, two
        fields = (one > places.start[named]) & (two > one + 1) & (three > two + 1)
        plain[named] &= fields & (three == last[named])
    return blank_1, blank_2, plain


def _requests(array: Bytes, words: Words, places: _Places) -> tuple[Positions, Mask]:
    """Where the methods end, and which requests are a method of up to 7 capitals, a URL, and HTTP/ with two digits."""
    opening, closing = places.quotes[:2]
    text = words[opening + 1]
    blank = zero_bytes(text ^ BLANKS)
    blank &= ~blank + 1  # the lowest bit: that of the first blank
    method = (blank >> 7) - 1  # the bits before it, or all
    method_end = opening + 1 + (np.bitwise_count(blank - 1) >> 3)
    low = text & LOWS
    capital = low + 0x3F * ONES & ~(low + 0x25 * ONES) & ~text  # 0x3F + "A" and 0x25 + "[" are 0x80
    plain: Mask = (blank > 0x80) & ((capital & TOPS & method) == (TOPS & method))
    plain &= words[closing - _PROTOCOL] & ~np.uint64(0xFF << 48) == word(b" HTTP/\0.")
    plain &= (array[closing - 3] - np.uint8(ord("0")) <= 9) & (array[closing - 1] - np.uint8(ord("0")) <= 9)
    return method_end, plain & (closing - _PROTOCOL > method_end + 1)


def _times(array: Bytes, words: Words, at: Positions) -> tuple[Positions, Mask]:
    """Seconds since 1970 of the times at some positions, and which of them are times.

    Lines of a log follow each other closely, so a minute is worked out once for all lines in a row that name it.
    """
    last = words[at + 18]  # "03 +0000"
    new = np.ones(len(at), np.bool_)
    new[1:] = False
    for part in (words[at], words[at + 8], words[at + 10], last >> 16):
        new[1:] |= part[1:] != part[:-1]
    seconds, valid = _minutes(array, at[new])
    row = np.cumsum(new) - 1
    tens, ones = (last & 0xFF) ^ ord("0"), (last >> 8 & 0xFF) ^ ord("0")
    return seconds[row] + (tens * 10 + ones).astype(np.int64), valid[row] & (tens <= 5) & (ones <= 9)


def _minutes(array: Bytes, at: Positions) -> tuple[Positions, Mask]:
    """Seconds since 1970 at the beginning of the minutes of the times at some positions, and which are minutes."""
    digits = [(array[at + i] - np.uint8(ord("0"))).astype(np.int64) for i in range(_TIME_BYTES)]
    valid = np.ones(len(at), np.bool_)
    for i, byte in enumerate(b"00/   /0000:00:00:    0000"):
        if byte == ord("0"):
            valid &= digits[i] <= 9
        elif byte != ord(" "):
            valid &= digits[i] == (byte - ord("0")) % 256
    day, year = digits[0] * 10 + digits[1], digits[7] * 1000 + digits[8] * 100 + digits[9] * 10 + digits[10]
    hour, minute, off_hours, off_minutes = (digits[i] * 10 + digits[i + 1] for i in (12, 15, 22, 24))
    code = (digits[3] << 16) | (digits[4] << 8) | digits[5]
    known = np.minimum(np.searchsorted(_MONTH_CODES, code), 11)
    valid &= (_MONTH_CODES[known] == code) & (year >= 1)
    sign = digits[21]
    valid &= (array[at + 20] == ord(" ")) & ((sign == _PLUS) | (sign == _MINUS))
    valid &= (hour < 24) & (minute < 60) & (off_hours < 24) & (off_minutes < 60) & (day >= 1)
    months = np.where(valid, (year - 1970) * 12 + _MONTH_NUMBERS[known], 0)
    first_day = months.astype("M8[M]").astype("M8[D]").astype(np.int64)
    next_month = (months + 1).astype("M8[M]").astype("M8[D]").astype(np.int64)
    valid &= first_day + day <= next_month
    offset = (off_hours * 60 + off_minutes) * np.where(sign == _MINUS, -60, 60)
    seconds = (first_day + day - 1) * 86_400 + hour * 3600 + minute * 60 - offset
    return seconds, valid & (year > 1) & (year < 9999)  # an offset may leave the years that Python has: see parse_line


def _sizes(words: Words, end: Positions, length: Positions) -> tuple[Positions, Mask]:
    """The numbers of up to 16 digits that end at some positions, -1 for a single "-", and which of them are either."""
    sizes, valid = numbers(words, end, np.minimum(length, 8))
    long = np.flatnonzero(length > 8)
    if len(long):
        high, high_valid = numbers(words, end[long] - 8, length[long] - 8)
        sizes[long] += high * 100_000_000
        valid[long] &= high_valid
    nothing = (length == 1) & (words[end - 8] >> 56 == ord("-"))
    sizes[nothing] = -1
    return sizes, valid | nothing


def _column(name: str, data: bytes, array: Bytes, places: _Places, fields: _Fields) -> pa.Array:
    quotes = places.quotes
    if name == "time":
        return pa.array(fields.seconds * 1_000_000).cast(TYPES["time"])
    if name == "status":
        hundreds, tens, ones = ((array[quotes[1] + i] - np.uint8(ord("0"))).astype(np.int64) for i in (2, 3, 4))
        return pa.array(hundreds * 100 + tens * 10 + ones)
    if name == "bytes":
        return pa.array(fields.size, mask=fields.size < 0)
    if name in ("referrer", "agent"):
        opening = 2 if name == "referrer" else 4
        start, end = quotes[opening] + 1, quotes[opening + 1]
    else:
        url_end = quotes[1] - _PROTOCOL
        start, end = {
            "host": (places.start, fields.blank_1),
            "identity": (fields.blank_1 + 1, fields.blank_2),
            "user": (fields.blank_2 + 1, quotes[0] - _TIME_AT - len(" [")),
            "method": (quotes[0] + 1, fields.method_end),
            "url": (fields.method_end + 1, url_end),
            "protocol": (url_end + 1, quotes[1]),
        }[name]
    return _strings(data, array, start, end, dash_is_null=name not in ("host", "url"))


def _strings(data: bytes, array: Bytes, start: Positions, end: Positions, dash_is_null: bool) -> pa.Array:
    """The texts data[start[i]:end[i]], one behind the other, as large_string.

    `data` itself, cut at all bounds, is a column of texts and of what lies between; Arrow copies every other one.
    """
    if not len(start):
        return pa.array([], pa.large_string())
    bounds = np.empty(2 * len(start), np.int64)
    bounds[0::2], bounds[1::2] = start, end
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(data)]
    pieces = pa.Array.from_buffers(pa.large_string(), len(bounds) - 1, buffers)
    missing = (end - start == 1) & (array[start] == ord("-")) if dash_is_null else None
    return pieces.take(pa.array(np.arange(0, len(bounds), 2), mask=missing))
