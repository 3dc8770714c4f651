"""Access logs: known answers, and the way by position against the regular expression on every line."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import Collected, batches, origins, read_all, shared

import mr.formats.blocks
from mr.errors import PlanError, RecordError
from mr.formats.access_log import AccessLogReader
from mr.kernels import access_lines

QUOTED = r'"((?:[^"\\]|\\.)*)"'
COMMON = r"(\S+) (\S+) (\S+) \[([^\]]*)\] " + QUOTED + r" (\d{3}) (\d{1,18}|-)"
ORACLES = {
    "common": re.compile(COMMON + "(?: .*)?", re.ASCII | re.DOTALL),
    "combined": re.compile(COMMON + f" {QUOTED} {QUOTED}(?: .*)?", re.ASCII | re.DOTALL),
}
REQUEST = re.compile(r"([A-Z]+) (.+) (HTTP/\d(?:\.\d)?)", re.ASCII | re.DOTALL)
GOOD = 'h.x - u [17/May/2015:12:05:03 +0200] "GET /a?b=c HTTP/1.1" 200 12 "http://r/" "Mozilla/5.0 (X)"'


def oracle(line: bytes, format: str) -> tuple[Any, ...] | None:
    """What plain Python makes of a line; None if it does not parse."""
    match = ORACLES[format].fullmatch(line.decode(errors="replace"))
    if match is None:
        return None
    host, identity, user, time, request, status, size, *rest = match.groups()
    try:
        if not re.fullmatch(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}", time, re.ASCII):
            raise ValueError(time)
        moment = dt.datetime.strptime(time, "%d/%b/%Y:%H:%M:%S %z").astimezone(dt.UTC)
    except ValueError:
        return None
    parts = REQUEST.fullmatch(request)
    words = parts.groups() if parts else (None, request, None)
    return (
        host,
        *(None if text == "-" else text for text in (identity, user)),
        moment,
        *words,
        int(status),
        None if size == "-" else int(size),
        *(None if text == "-" else text for text in rest),
    )


def check(data: bytes, format: str) -> tuple[int, int]:
    """Compare every line with the oracle; return how many parse and how many do not."""
    rejects = Collected()
    found = batches(AccessLogReader(format), data, rejects)
    lines = data.split(b"\n")[: -1 if data.endswith(b"\n") else None] if data else []
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    lines = [
        line.removesuffix(b"\r") if start <= len(data) else line for line, start in zip(lines, starts[1:], strict=True)
    ]
    expected = [(i, oracle(line, format)) for i, line in enumerate(lines)]
    rows = [tuple(row.values()) for b in found for row in b.data.to_pylist()]
    assert rows == [row for _, row in expected if row is not None]
    if found:
        assert origins(found) == [[starts[i], i] for i, row in expected if row is not None]
    assert rejects.origins == [[starts[i], i] for i, row in expected if row is None]
    assert rejects.raws == [lines[i] for i, row in expected if row is None]
    for b in found:
        b.data.validate(full=True)
    return len(rows), len(rejects.raws)


def test_apache_logs() -> None:
    data = shared("weblog/apache_logs.log.zst")
    assert check(data, "combined") == (9_999, 1)
    rejects = Collected()
    rows = read_all(AccessLogReader(), data, rejects)
    assert rejects.origins[0][1] == 8_898
    assert rejects.errors == ["not a line of the combined format"]
    statuses = {200: 9125, 206: 45, 301: 164, 304: 445, 403: 2, 404: 213, 416: 2, 500: 3}
    assert Counter(row.status for row in rows) == statuses
    assert len({row.host for row in rows}) == 1_753
    assert Counter(row.url for row in rows).most_common(1) == [("/favicon.ico", 807)]
    assert sum(row.bytes or 0 for row in rows) == 2_747_282_505
    assert check(data, "common") == (10_000, 0)


def test_tomcat_logs() -> None:
    counts = [check(shared(f"weblog/tomcat-access.log.{i}.zst"), "combined") for i in range(1, 10)]
    assert sum(good + bad for good, bad in counts) == 16_275
    assert sum(bad for _, bad in counts) == 5_796


def test_a_line_and_its_columns() -> None:
    row = read_all(AccessLogReader(), GOOD.encode())[0]
    assert row._asdict() == {
        "host": "h.x",
        "identity": None,
        "user": "u",
        "time": dt.datetime(2015, 5, 17, 10, 5, 3, tzinfo=dt.UTC),
        "method": "GET",
        "url": "/a?b=c",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 12,
        "referrer": "http://r/",
        "agent": "Mozilla/5.0 (X)",
    }
    assert read_all(AccessLogReader(), GOOD.encode(), columns=("bytes", "url")) == [("/a?b=c", 12)]
    assert batches(AccessLogReader(), GOOD.encode(), columns=())[0].rows == 1


SPECIAL = [
    GOOD.replace("Mozilla/5.0 (X)", r"a \"quoted\" agent"),
    GOOD.replace("Mozilla/5.0 (X)", "ends in a backslash\\\\"),
    GOOD.replace("http://r/", 'x\\" "y'),
    GOOD.replace("GET /a?b=c HTTP/1.1", "-"),
    GOOD.replace("GET /a?b=c HTTP/1.1", ""),
    GOOD.replace("GET /a?b=c HTTP/1.1", "GET /a b c HTTP/1.0"),
    GOOD.replace("GET /a?b=c HTTP/1.1", "GET  HTTP/1.0"),
    GOOD.replace("GET /a?b=c HTTP/1.1", "PROPFINDLONG / HTTP/2"),
    GOOD.replace("GET /a?b=c HTTP/1.1", r"\x16\x03\x01 \x00"),
    GOOD.replace("200 12", "200 -"),
    GOOD.replace("200 12", "200 999999999999999999"),
    GOOD.replace("200 12", "200 9999999999999999999"),
    GOOD.replace("200 12", "2x0 12"),
    GOOD.replace("17/May", "31/Jun"),
    GOOD.replace("17/May/2015", "29/Feb/2023"),
    GOOD.replace("17/May/2015", "29/Feb/2024"),
    GOOD.replace("17/May/2015", "01/Jan/0001"),
    GOOD.replace("17/May/2015", "31/Dec/9999"),
    GOOD.replace("12:05:03", "24:05:03"),
    GOOD.replace("+0200", "-0930"),
    GOOD.replace("+0200", "Z"),
    GOOD.replace("+0200", "+0260"),
    GOOD.replace("+0200", "+2400"),
    GOOD.replace("+0200", "-2359"),
    GOOD.replace("h.x - u", "h.x -  u"),
    GOOD.replace("h.x", "h\tx"),
    GOOD.replace("h.x", "é"),
    GOOD + ' "extra" 0.003',
    GOOD + " 0.003",
    GOOD + "x",
    GOOD[:-1],
    GOOD[: GOOD.index(' "http')],
    " " + GOOD,
    "",
    " " * 20,
    '"' * 6,
    "\x85\u2028",
]


@pytest.mark.parametrize("format", ["combined", "common"])
@pytest.mark.parametrize("line", SPECIAL)
def test_unusual_lines(line: str, format: str) -> None:
    for data in (line, line + "\n", f"{GOOD}\n{line}\r\n{GOOD}"):
        check(data.encode(), format)


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    line = bytearray(draw(st.sampled_from(SPECIAL + [GOOD] * 10)).encode())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(line) - 1)))
        new = draw(
            st.sampled_from([b"", b'"', b" ", b"\\", b"-", b"0", b"9", b"[", b"]", b"\t", b"\r", b"\xff", b"\xc3"])
        )
        line[at : at + draw(st.integers(0, 1))] = new
    return bytes(line)


@settings(max_examples=200, deadline=None)
@given(st.lists(mutants(), max_size=5), st.sampled_from(["combined", "common"]), st.sampled_from([64, 1 << 22]))
def test_damaged_lines(lines: list[bytes], format: str, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mr.formats.blocks, "READ_BLOCK_BYTES", block)
        check(b"\n".join(lines).removeprefix(b"\xef\xbb\xbf"), format)


LAYOUT = '{host} {names} {open}{day}:{clock}{second} {zone}{close}"{method} {url} {protocol}" {status} {size} {rest}'
USUAL = {
    "host": ["h", "h" * 7, "h" * 8, "h" * 9, "10.11.12.13", "h" * 40, "é"],
    "names": ["- -", "- -", "- u", "i u"],
    "open": ["["],
    "close": ["] "],
    "day": ["17/May/2015", "17/May/2015", "18/May/2015", "17/May/2016", "17/May/2115", "17/Jun/2015"],
    "clock": ["10:05:", "10:05:", "10:06:", "20:05:"],
    "second": ["00", "09", "10", "59"],
    "zone": ["+0000", "+0000", "+0200", "-0000"],
    "method": ["GET", "G", "OPTIONS", "A", "Z"],
    "url": ["/", "/a b", " ", "/é", "/" * 20],
    "protocol": ["HTTP/1.1", "HTTP/2.0", "HTTP/9.9"],
    "status": ["200", "404", "999"],
    "size": ["-", *(("9876543210" * 2)[:digits] for digits in range(1, 19))],
    "rest": ['"-" "-"', '"r" "a"', '"" ""', '"r" "a" x'],
}
ODD = {
    "host": ["h h", "h" * 8 + " ", "h" * 17 + " x", "h" * 16 + " x", " h", "", "h\u00a0x"],
    "names": ["-  -", "- - -", "-", "- u v", " - -", "- - "],
    "open": ["(", "", "[ "],
    "close": [") ", "]", "]  ", "", "]x"],
    "day": ["17/Mai/2015", "00/May/2015", "31/Jun/2015", "17-May/2015", "17/May/2o15", "017/May/2015", "29/Feb/2015"],
    "clock": ["10:65:", "10:0x:", "24:00:", "10-05:", "10:05-"],
    "second": ["60", "0:", ":0", "/1", "x1", "99", "000", "1"],
    "zone": [" 0000", "+00:0", "+0060", "+2400", "0000+"],
    "method": ["PROPFIND", "G@T", "G[T", "GeT", "GÉT", "", "G1"],
    "url": ["", 'a"b', '\\"'],
    "protocol": ["HTTP/2", "HTTP/1,1", "HTTP/1.x", "HTTPS/1.1", "HTTP/x.1", "http/1.1", "HTTP/1.", "HTTP/11"],
    "status": ["20", "2000", "2x0", "/00", "20:", "2/0", "-"],
    "size": [
        "--",
        "x",
        "1\u00b2",
        "é",
        "1/",
        ":1",
        "",
        " ",
        "1" * 7 + ":",
        "1/" + "1" * 12,
        "1" * 19,
        "1" * 20,
        "1-",
        "-1",
    ],
    "rest": ['"r""a"', '"r"  "a"', '"r\\\\" "a"', '"r\\" "a"', '"r" "a\\"', '"r" "a"x', '"r"x"a"', 'x"r" "a"'],
}


@st.composite
def variants(draw: st.DrawFn) -> str:
    """A line whose fields have all lengths, up to two of them nearly right; its neighbours differ in any part."""
    odd = draw(st.sets(st.sampled_from(sorted(ODD)), max_size=2)) if draw(st.booleans()) else set()
    return LAYOUT.format(**{name: draw(st.sampled_from((ODD if name in odd else USUAL)[name])) for name in USUAL})


@pytest.mark.parametrize("format", ["combined", "common"])
def test_each_odd_field_among_usual_ones(format: str) -> None:
    lines = []
    for number in range(3):
        usual = {name: values[number % len(values)] for name, values in USUAL.items()}
        for name, values in ODD.items():
            for value in [*values, *USUAL[name]]:
                lines += [LAYOUT.format(**usual), LAYOUT.format(**usual | {name: value})]
    good, bad = check("\n".join(lines).encode(), format)
    assert bad < good
    for line in lines:  # alone, it is nobody's neighbour
        check(line.encode(), format)


def test_quotes_too_many_are_not_made_up_for_by_quotes_too_few() -> None:
    more, fewer = GOOD.replace("(X)", '"(X)"'), GOOD.replace('"http://r/" ', "")
    for lines in ([GOOD, more, fewer], [GOOD, more, fewer, fewer], [more, GOOD], [GOOD, more.replace('"(X)', " (X)")]):
        check("\n".join(lines * 3).encode(), "combined")
        check("\n".join(lines * 3).encode(), "common")


@settings(max_examples=100, deadline=None)
@given(st.lists(variants(), min_size=1, max_size=8), st.sampled_from(["combined", "common"]), st.booleans())
def test_fields_of_all_lengths(lines: list[str], format: str, short: bool) -> None:
    if short:
        lines = [line[: line.rindex(' "', 0, line.rindex('"') - 1)] for line in lines]
    check("\n".join(lines).encode(), format)


@pytest.mark.parametrize("column", AccessLogReader().schema().names)
def test_each_column_alone(column: str) -> None:
    text = "\n".join([GOOD, GOOD.replace("- u [", "- - ["), SPECIAL[0], GOOD.replace("200 12", "304 -")])
    rows = read_all(AccessLogReader(), text.encode())
    alone = read_all(AccessLogReader(), text.encode(), columns=(column,))
    assert [row[0] for row in alone] == [row[rows[0]._fields.index(column)] for row in rows]


def test_many_lines_are_plain() -> None:
    """The way by position takes real lines; the expression on each would be ten times slower."""
    data = shared("weblog/apache_logs.log.zst")
    with pytest.MonkeyPatch.context() as patch:
        one_by_one: list[str] = []
        patch.setattr(access_lines, "parse_line", lambda line, pattern: one_by_one.append(line))
        access_lines.parse_lines(data, True, ["url"])
    assert len(one_by_one) < 100


def test_own_pattern() -> None:
    reader = AccessLogReader(r'(?P<host>\S+) "(?P<request>[^"]*)" (?P<status>\S+) (?P<ms>\d+)')
    rejects = Collected()
    rows = read_all(reader, b'h "GET / HTTP/1.1" 200 15\nh "-" OK 15\n\xff "x" - 1\n', rejects)
    assert [row._asdict() for row in rows] == [
        {"host": "h", "method": "GET", "url": "/", "protocol": "HTTP/1.1", "status": 200, "ms": "15"},
        {"host": "\ufffd", "method": None, "url": "x", "protocol": None, "status": None, "ms": "1"},
    ]
    assert rejects.raws == [b'h "-" OK 15']
    assert rejects.errors == ["not a line of the given format"]
    assert batches(reader, b'h "x" 1 1')[0].data.schema.equals(reader.schema(), check_metadata=True)
    for pattern in ("(", r"\S+", "combine"):
        with pytest.raises(PlanError, match="format="):
            AccessLogReader(pattern)


def test_policy_fail_stops_at_the_first_bad_line() -> None:
    with pytest.raises(RecordError, match="combined"):
        read_all(AccessLogReader(), b"nonsense\n")
