"""Many lines of an access log at once, by position; what they mean is said in `access_log`.

Nearly all lines of a real log are plain: as many quotes as the format has and none of them escaped. Of these only the
quotes are looked for in all bytes; the rest lies at known distances from them, and is looked at for all lines at once,
eight bytes of each as one number. Lines that are not plain go through the regular expression one by one; a test holds
both ways equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mr.kernels.access_log import COMBINED, COMMON, MONTHS, TYPES, parse_line
from mr.kernels.bits import Bits
from mr.kernels.lines import bounds_of
from mr.kernels.words import (
    BLANKS,
    LOWS,
    ONES,
    TOPS,
    Words,
    fits,
    has_blank,
    next_blank,
    numbers,
    word,
    words_at,
    words_of,
    zero_bytes,
)

Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

_TIME_BYTES: Final = len("17/May/2015:10:05:03 +0000")
_TIME_AT: Final = _TIME_BYTES + len("] ")  # so many bytes before the quote that opens the request
_UNNAMED: Final = len(" - - [") + _TIME_AT
_HEAD_BYTES_MIN: Final = len("h") + _UNNAMED
_HEAD_AT: Final = 8 + _UNNAMED  # then no number that is looked at goes from one field to the next
_HEAD_WORDS: Final = 7
_PROTOCOL: Final = len(" HTTP/1.1")
_REQUEST_BYTES_MIN: Final = len('"G /') + _PROTOCOL
_SIZE_DIGITS_MAX: Final = 16

_BY_CODE: Final = sorted(
    (sum((byte - 48) % 256 << 16 - 8 * i for i, byte in enumerate(m.encode())), n) for n, m in enumerate(MONTHS)
)
_MONTH_CODES: Final = np.array([code for code, _ in _BY_CODE])
_MONTH_NUMBERS: Final = np.array([number for _, number in _BY_CODE])
_LAYOUT: Final = b"00/???/0000:00:00:?? ?0000"
_DIGITS: Final = np.array([i for i, byte in enumerate(_LAYOUT) if byte == ord("0")])
_MARKS: Final = np.array([i for i, byte in enumerate(_LAYOUT) if byte not in b"0?"])
_MARK_CODES: Final = np.array([[(_LAYOUT[i] - ord("0")) % 256] for i in _MARKS])
_PLUS: Final = (ord("+") - ord("0")) % 256
_MINUS: Final = (ord("-") - ord("0")) % 256


class ParsedLines(NamedTuple):
    """The rows of the lines that parse, which of all lines those are, and where all begin and end, (lines,) each."""

    batch: pa.RecordBatch
    parsed: Mask
    starts: Positions
    ends: Positions


class _Places(NamedTuple):
    """Where some lines and their 2 or 6 quotes are, each (lines,)."""

    start: Positions
    quotes: list[Positions]
    end: Positions

    @property
    def size_end(self) -> Positions:
        end: Positions = self.quotes[2] - 1 if len(self.quotes) == 6 else self.end
        return end

    @property
    def size_bytes(self) -> Positions:
        length: Positions = self.size_end - (self.quotes[1] + len('" 200 '))
        return length


class _Fields(NamedTuple):
    """What the columns need besides, each (lines,): positions of blanks, and values."""

    blank_1: Positions  # after host and identity
    blank_2: Positions
    method_end: Positions
    seconds: Positions
    status: Positions
    size: Positions


def parse_lines(data: bytes, combined: bool, columns: Sequence[str]) -> ParsedLines:
    """The `columns` of the lines of `data` that parse, in order; `data` is UTF-8 and not empty.

    >>> data = b'a - - [17/May/2015:12:05:03 +0200] "GET / HTTP/1.1" 200 12\\nnonsense'
    >>> batch, parsed, starts, ends = parse_lines(data, False, ["url", "bytes"])
    >>> batch.to_pylist(), parsed.tolist(), starts.tolist(), ends.tolist()
    ([{'url': '/', 'bytes': 12}], [True, False], [0, 59], [58, 67])
    """
    schema = pa.schema([(name, TYPES[name]) for name in columns])
    marks = Bits(np.equal, np.frombuffer(data, np.uint8), ord('"'))
    places, near = _located(data, marks, 6 if combined else 2)
    batch, parsed = _parse_plain(data, marks, places, near, schema)
    rows, lines = [], []
    for i in np.flatnonzero(~parsed).tolist():
        line = data[places.start[i] : places.end[i]].decode()
        row = parse_line(line, COMBINED if combined else COMMON)
        if row is not None:
            rows.append({name: row[name] for name in columns})
            lines.append(i)
    if rows:
        order = np.argsort(np.concatenate([np.flatnonzero(parsed), lines]), kind="stable")
        batch = pa.concat_batches([batch, pa.RecordBatch.from_pylist(rows, schema=schema)]).take(pa.array(order))
        parsed[lines] = True
    return ParsedLines(batch, parsed, places.start, places.end)


def _located(data: bytes, marks: Bits, quotes: int) -> tuple[_Places, Mask]:
    """All lines with their first quotes, and which may be plain by how far apart these are; `marks` are all quotes."""
    array = np.frombuffer(data, np.uint8)
    ends = Bits(np.less_equal, array, ord("\r")).places
    others = array[ends] != ord("\n")
    odd = ends[others]  # what \S excludes besides blanks, and things as rare
    if len(odd):
        ends = ends[~others]
    if not data.endswith(b"\n"):
        ends = np.append(ends, len(data))
    start, end = bounds_of(data, ends)
    opening = marks.next(start)
    closing = marks.next(opening + 1)
    near: Mask = (opening >= np.maximum(start + _HEAD_BYTES_MIN, _HEAD_AT)) & (closing - opening >= _REQUEST_BYTES_MIN)
    places = _Places(start, [opening, closing], end)
    if quotes == 6:
        referrer = marks.next(closing + 1)
        referrer_end = marks.next(referrer + 1)
        agent, agent_end = referrer_end + len('" '), end - 1
        further = np.flatnonzero(array[agent_end] != ord('"'))  # there are fields behind it
        agent_end[further] = marks.next(np.minimum(agent[further] + 1, len(data)))
        near &= agent < agent_end
        places.quotes.extend([referrer, referrer_end, agent, agent_end])
    near &= places.quotes[-1] < end
    near &= (places.size_bytes - 1).view(np.uint64) < _SIZE_DIGITS_MAX
    if len(odd):
        near &= np.searchsorted(odd, start) == np.searchsorted(odd, end)
    return places, near


def _parse_plain(
    data: bytes, marks: Bits, lines: _Places, near: Mask, schema: pa.Schema
) -> tuple[pa.RecordBatch, Mask]:
    """The columns of those of the lines that are plain, and which these are."""
    if not near.any():
        return pa.RecordBatch.from_pylist([], schema=schema), near
    places, far = lines, np.flatnonzero(~near)
    if len(far):  # these stand where one is that may be plain: all that is looked at is there
        model, places = int(np.argmax(near)), _Places(lines.start.copy(), lines.quotes, lines.end.copy())
        for array in (places.start, *places.quotes, places.end):
            array[far] = array[model]
    text = np.frombuffer(data, np.uint8)
    head = words_at(data, places.quotes[0] - _HEAD_AT, _HEAD_WORDS)
    blank_1, blank_2, headed = _heads(data, head, places)
    method_end, requested = _methods(head, places)
    seconds, timely = _times(text, head, places.quotes[0] - _TIME_AT)
    status, answered = _statuses(data, places.quotes[1])
    size, sized = _sizes(data, places.size_end, places.size_bytes)
    plain = near & headed & requested & timely & answered & sized
    if len(places.quotes) == 6:
        plain &= _separated(data, places)
    plain &= _alone(data, marks, lines, plain)
    fields = _Fields(blank_1, blank_2, method_end, seconds, status, size)
    rows = None if plain.all() else np.flatnonzero(plain)
    columns = [_column(name, data, places, fields, rows) for name in schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=schema), plain


def _alone(data: bytes, marks: Bits, lines: _Places, plain: Mask) -> Mask:
    """Which lines have no further quotes, of those that have all that belong there."""
    quotes, others = len(lines.quotes), np.flatnonzero(~plain).tolist()  # which are looked at one by one anyway
    if marks.total - sum(data.count(b'"', lines.start[i], lines.end[i]) for i in others) == quotes * (
        len(plain) - len(others)
    ):
        return plain
    alone: Mask = np.diff(np.searchsorted(marks.places, [lines.start, lines.end]), axis=0)[0] == quotes
    return alone


def _heads(data: bytes, head: Words, places: _Places) -> tuple[Positions, Positions, Mask]:
    """The blanks after host and identity, and which lines have these and one more before the time, and no others."""
    last = places.quotes[0] - _TIME_AT - len(" [")
    blank_1, blank_2 = last - 4, last - 2  # where identity and user are "-", as nearly always
    unnamed = fits(head[1], b" - - [")
    length = blank_1 - places.start
    first, rest = words_of(data)[places.start], head[0]  # all of a host of 8 to 16 bytes
    first ^= BLANKS
    rest = rest ^ BLANKS
    plain = unnamed & ((first - ONES & ~first | rest - ONES & ~rest) & TOPS == 0)
    others = np.flatnonzero((length < 8) | (length > 16))
    if len(others):
        plain[others] = unnamed[others] & ~has_blank(data, places.start[others], blank_1[others])
    named = np.flatnonzero(~unnamed & fits(head[1], b"???? ["))
    if len(named):
        start, end = places.start[named], last[named]
        one = next_blank(data, start, end)
        two = next_blank(data, one + 1, end)
        three = next_blank(data, two + 1, end)
        blank_1[named], blank_2[named] = one, two
        plain[named] = (one > start) & (two > one + 1) & (three > two + 1) & (three == end)
    return blank_1, blank_2, plain


def _methods(head: Words, places: _Places) -> tuple[Positions, Mask]:
    """Where the methods end, and which requests are one of up to 7 capitals, and something before the protocol."""
    opening, closing = places.quotes[:2]
    text = head[5] >> 24 | head[6] << 40
    blank = zero_bytes(text ^ BLANKS)
    blank &= ~blank + 1  # the lowest bit: that of the first blank
    method = (blank >> 7) - 1  # the bits before it, or all
    method_end = opening + 1 + (np.bitwise_count(blank - 1) >> 3)
    low = text & LOWS
    capital = low + 0x3F * ONES & ~(low + 0x25 * ONES) & ~text  # 0x3F + "A" and 0x25 + "[" are 0x80
    plain: Mask = (blank > 0x80) & ((capital & TOPS & method) == (TOPS & method))
    return method_end, plain & (closing - _PROTOCOL > method_end + 1)


def _times(array: Bytes, head: Words, at: Positions) -> tuple[Positions, Mask]:
    """Seconds since 1970 of the times at some positions, and which of them are times, and closed.

    Lines of a log follow each other closely, so a minute is worked out once for all lines in a row that name it.
    """
    day, month, minute, second, closing = head[1:6]  # " - - [17", "/May/201", "5:10:05:", "03 +0000", '] "GET /'
    differs = (day[1:] ^ day[:-1]) >> 48 | month[1:] ^ month[:-1]
    differs |= minute[1:] ^ minute[:-1] | (second[1:] ^ second[:-1]) >> 16
    new = np.ones(len(at), np.bool_)
    new[1:] = differs != 0
    seconds, valid = _minutes(array, at[new])
    row = np.cumsum(new) - 1
    tens, ones = second & 0xFF ^ ord("0"), second >> 8 & 0xFF ^ ord("0")
    closed = (tens <= 5) & (ones <= 9) & (closing & 0xFFFF == word(b"] "))
    tens *= 10
    tens += ones
    return seconds[row] + tens.view(np.int64), closed if valid.all() else closed & valid[row]


def _minutes(array: Bytes, at: Positions) -> tuple[Positions, Mask]:
    """Seconds since 1970 at the beginning of the minutes of the times at some positions, and which are minutes."""
    digits = (array[at + np.arange(_TIME_BYTES)[:, None]] - np.uint8(ord("0"))).astype(np.int64)
    valid: Mask = (digits[_DIGITS] <= 9).all(axis=0) & (digits[_MARKS] == _MARK_CODES).all(axis=0)
    day, year = digits[0] * 10 + digits[1], digits[7] * 1000 + digits[8] * 100 + digits[9] * 10 + digits[10]
    hour, minute, off_hours, off_minutes = (digits[i] * 10 + digits[i + 1] for i in (12, 15, 22, 24))
    code = (digits[3] << 16) | (digits[4] << 8) | digits[5]
    known = np.minimum(np.searchsorted(_MONTH_CODES, code), 11)
    valid &= (_MONTH_CODES[known] == code) & (year >= 1)
    sign = digits[21]
    valid &= (sign == _PLUS) | (sign == _MINUS)
    valid &= (hour < 24) & (minute < 60) & (off_hours < 24) & (off_minutes < 60) & (day >= 1)
    months = np.where(valid, (year - 1970) * 12 + _MONTH_NUMBERS[known], 0)
    first_day = months.astype("M8[M]").astype("M8[D]").astype(np.int64)
    next_month = (months + 1).astype("M8[M]").astype("M8[D]").astype(np.int64)
    valid &= first_day + day <= next_month
    offset = (off_hours * 60 + off_minutes) * np.where(sign == _MINUS, -60, 60)
    seconds = (first_day + day - 1) * 86_400 + hour * 3600 + minute * 60 - offset
    return seconds, valid & (year > 1) & (year < 9999)  # an offset may leave the years that Python has: see parse_line


def _statuses(data: bytes, closing: Positions) -> tuple[Positions, Mask]:
    """The statuses behind quotes at some positions, and which there are, between blanks, behind a protocol of HTTP."""
    protocol, status = words_at(data, closing - _PROTOCOL, 2)  # " HTTP/1." and '1" 200 1'
    plain = fits(protocol, b" HTTP/0.") & fits(status, b'0" 000 ')
    digits = status >> 24
    hundreds = digits & 0xF
    hundreds *= 100
    digits &= 0x0F0F00
    hundreds += (digits * 0xA01 >> 16) & 0xFF  # the tens ten times and the ones, in one byte
    return hundreds.view(np.int64), plain


def _sizes(data: bytes, end: Positions, length: Positions) -> tuple[Positions, Mask]:
    """The numbers of up to 16 digits that end at some positions, -1 for a single "-", and which of them are either."""
    text = words_of(data)[end - 8]
    sizes, valid = numbers(text, np.minimum(length, 8))
    long = np.flatnonzero(length > 8)
    if len(long):
        high, high_valid = numbers(words_of(data)[end[long] - 16], length[long] - 8)
        sizes[long] += high * 100_000_000
        valid[long] &= high_valid
    nothing = (length == 1) & (text >> 56 == ord("-"))
    sizes[nothing] = -1
    return sizes, valid | nothing


def _separated(data: bytes, places: _Places) -> Mask:
    """Which lines have blanks between size, referrer, agent and what follows, and no backslash before a quote."""
    array = np.frombuffer(data, np.uint8)
    referrer, referrer_end, _, agent_end = places.quotes[2:]
    between = np.ndarray((len(data) - 3,), "<u4", buffer=data, strides=(1,))[referrer_end - 1]
    plain: Mask = (between >> 8 == word(b'" "')) & (between & 0xFF != ord("\\"))
    plain &= (array[referrer - 1] == ord(" ")) & (array[agent_end - 1] != ord("\\"))
    further = np.flatnonzero(agent_end + 1 != places.end)
    plain[further] &= array[agent_end[further] + 1] == ord(" ")
    return plain


def _column(name: str, data: bytes, places: _Places, fields: _Fields, rows: Positions | None) -> pa.Array:
    """The column `name` of the lines `rows` (None: of all)."""
    quotes = places.quotes
    if name in ("time", "status", "bytes"):
        values = {"time": fields.seconds, "status": fields.status, "bytes": fields.size}[name]
        values = values if rows is None else values[rows]
        if name == "time":
            return pa.array(values * 1_000_000).view(TYPES["time"])
        return pa.array(values, mask=values < 0 if name == "bytes" else None)
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
    if rows is not None:
        start, end = start[rows], end[rows]
    return _strings(data, start, end, dash_is_null=name not in ("host", "url"))


def _strings(data: bytes, start: Positions, end: Positions, dash_is_null: bool) -> pa.Array:
    """The texts data[start[i]:end[i]], one behind the other, as large_string.

    `data` itself, cut at all bounds, is a column of texts and of what lies between; Arrow copies every other one.
    """
    if not len(start):
        return pa.array([], pa.large_string())
    bounds = np.empty(2 * len(start), np.int64)
    bounds[0::2], bounds[1::2] = start, end
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(data)]
    pieces = pa.Array.from_buffers(pa.large_string(), len(bounds) - 1, buffers)
    missing = (end - start == 1) & (np.frombuffer(data, np.uint8)[start] == ord("-")) if dash_is_null else None
    return pieces.take(pa.array(np.arange(0, len(bounds), 2), mask=missing))
