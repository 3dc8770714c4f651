"""`log_analytics` against the known facts of real logs and a parser of its own."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.log_analytics import log_analytics, read_labels

LINE = re.compile(r'(\S+) \S+ \S+ \[([^\]]+)\] "(\S+) (\S+) [^"]*" (\d{3}) (\d+|-) "([^"]*)" "([^"]*)"')


def test_the_known_facts_of_a_real_log(data: Path, tmp_path: Path, rows: Any) -> None:
    log_analytics(input=[str(data / "weblog" / "apache_logs.log.zst")], output=str(tmp_path / "out"), top=2000)
    tables = {folder.name: rows(folder) for folder in (tmp_path / "out").iterdir()}
    status: Counter[int] = Counter()
    for row in tables["hours"]:
        status[row["status"]] += row["requests"]
    assert status == {200: 9125, 206: 45, 301: 164, 304: 445, 403: 2, 404: 213, 416: 2, 500: 3}
    assert sum(row["bytes"] for row in tables["hours"]) == 2_747_282_505
    assert sum(row["errors"] for row in tables["hours"]) == 2 + 213 + 2 + 3
    assert (tables["urls"][0]["url"], tables["urls"][0]["requests"]) == ("/favicon.ico", 807)
    assert (len(tables["urls"]), len(tables["hosts"])) == (1498, 1753)
    (bad,) = tables["unparsed"]
    assert (bad["line"], bad["path"].endswith("apache_logs.log.zst")) == (8899, True)
    text = pa.input_stream(str(data / "weblog" / "apache_logs.log.zst"), compression="zstd").read()
    assert text[bad["offset"] :].startswith(bad["raw"] if isinstance(bad["raw"], bytes) else bad["raw"].encode())
    compare_with_a_parser_of_our_own(text.decode().splitlines(), tables)


def compare_with_a_parser_of_our_own(lines: list[str], tables: dict[str, list[dict[str, Any]]]) -> None:
    hits = [match.groups() for line in lines if (match := LINE.fullmatch(line))]
    for table, column, group in (
        ("hosts", "host", 0),
        ("urls", "url", 3),
        ("referrers", "referrer", 6),
        ("agents", "agent", 7),
    ):
        counted = Counter(hit[group] for hit in hits if hit[group] != "-")
        expected = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
        assert [(row[column], row["requests"]) for row in tables[table]] == expected[:2000]
    times = [(datetime.strptime(hit[1], "%d/%b/%Y:%H:%M:%S %z"), hit) for hit in hits]
    by_hour = Counter((time.replace(minute=0, second=0), int(hit[4])) for time, hit in times)
    assert [((row["hour"], row["status"]), row["requests"]) for row in tables["hours"]] == sorted(by_hour.items())
    by_day: dict[Any, set[str]] = {}
    for time, hit in times:
        by_day.setdefault(time.date(), set()).add(hit[0])
    assert [(row["day"], row["hosts"]) for row in tables["unique_hosts"]] == [
        (d, len(h)) for d, h in sorted(by_day.items())
    ]


def test_fragments_of_dirty_logs_are_kept_with_their_place(data: Path, tmp_path: Path, rows: Any) -> None:
    logs = sorted(str(path) for path in (data / "weblog").glob("tomcat-access.log.*.zst"))
    log_analytics(input=logs, output=str(tmp_path / "out"))
    unparsed = rows(tmp_path / "out" / "unparsed")
    assert len(unparsed) == 5796
    assert sum(row["requests"] for row in rows(tmp_path / "out" / "hours")) == 16_275 - 5_796
    assert len({(row["path"], row["offset"]) for row in unparsed}) == 5796


LOG = """\
10.0.0.1 - - [05/Jan/2026:10:00:00 +0000] "GET /docs/a HTTP/1.1" 200 100 "-" "curl"
10.0.0.1 - - [05/Jan/2026:10:59:59 +0000] "GET /docs/api/b HTTP/1.1" 404 - "http://x/" "-"
10.0.0.2 - - [05/Jan/2026:12:30:00 +0200] "GET /shop HTTP/1.1" 500 7 "-" "curl"
broken
10.0.0.3 - - [06/Jan/2026:00:00:00 +0000] "GET /shop HTTP/1.1" 200 1 "-" "curl"
"""


@pytest.fixture
def log(tmp_path: Path) -> str:
    path = tmp_path / "access.log.gz"
    path.write_bytes(gzip.compress(LOG.encode()))
    return str(path)


def test_urls_are_labelled_by_their_longest_prefix(log: str, tmp_path: Path, rows: Any) -> None:
    (tmp_path / "labels.csv").write_text("prefix,label\n/docs/,docs\n/docs/api/,api\n")
    log_analytics(input=[log], output=str(tmp_path / "out"), labels=str(tmp_path / "labels.csv"))
    assert [tuple(row.values()) for row in rows(tmp_path / "out" / "labels")] == [
        ("(none)", 2, 8, 1),
        ("api", 1, 0, 1),
        ("docs", 1, 100, 0),
    ]


def test_hosts_are_labelled(log: str, tmp_path: Path, rows: Any) -> None:
    (tmp_path / "labels.csv").write_text('host,label\n10.0.0.1,"office, first floor"\n10.0.0.3,bot\n')
    log_analytics(input=[log], output=str(tmp_path / "out"), labels=str(tmp_path / "labels.csv"))
    assert [tuple(row.values()) for row in rows(tmp_path / "out" / "labels")] == [
        ("(none)", 1, 7, 1),
        ("bot", 1, 1, 0),
        ("office, first floor", 2, 100, 1),
    ]


def test_top_limits_the_tables_and_dashes_are_no_agents(log: str, tmp_path: Path, rows: Any) -> None:
    log_analytics(input=[log], output=str(tmp_path / "out"), top=1)
    assert [(row["url"], row["requests"]) for row in rows(tmp_path / "out" / "urls")] == [("/shop", 2)]
    assert [(row["agent"], row["requests"]) for row in rows(tmp_path / "out" / "agents")] == [("curl", 3)]
    assert [row["hosts"] for row in rows(tmp_path / "out" / "unique_hosts")] == [2, 1]


def test_the_common_format_has_no_referrers_and_agents(tmp_path: Path, rows: Any) -> None:
    (tmp_path / "a.log").write_text('h - - [05/Jan/2026:10:00:00 +0000] "GET /a HTTP/1.0" 200 5\n')
    log_analytics(input=[str(tmp_path / "a.log")], output=str(tmp_path / "out"), format="common")
    assert [row["url"] for row in rows(tmp_path / "out" / "urls")] == ["/a"]
    assert {folder.name for folder in (tmp_path / "out").iterdir()} >= {"hours", "hosts", "unparsed"}
    assert not (tmp_path / "out" / "agents").exists()


@pytest.mark.parametrize("text", ["", "label,host\n", "url,label\n", "host\n"])
def test_a_labels_file_with_other_columns_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=r"labels.csv: the first line must be host,label or prefix,label"):
        read_labels(str(tmp_path / "labels.csv"))
