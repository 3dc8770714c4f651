"""WARC: the sample's known answers against warcio on the whole file, and damage."""

from __future__ import annotations

import gzip
import io
from collections import Counter

import pytest
from pieces import Collected, batches, origins, read_all, shared

import mr.formats.warc
from mr.errors import InputError
from mr.formats.warc import WarcReader


def record(url: str, body: bytes, kind: str = "response", extra: str = "") -> bytes:
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n" + extra.encode() + b"\r\n" + body
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2020-01-02T03:04:05Z\r\n"
    head += f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    return head.encode() + http + b"\r\n\r\n"


def test_sample() -> None:
    pytest.importorskip("warcio")
    from warcio.archiveiterator import ArchiveIterator

    data = gzip.decompress(shared("warc/example.warc.gz"))
    rows = read_all(WarcReader(), data, path="example.warc.gz")
    assert Counter(row.type for row in rows) == {"warcinfo": 1, "response": 299, "request": 261, "metadata": 261}
    pages = [row for row in rows if row.type == "response" and row.status is not None]
    assert Counter(row.status for row in pages) == {200: 214, 404: 40, 302: 5, 301: 2}
    html = [row for row in pages if (row.content_type or "").startswith("text/html")]
    assert len([row for row in rows if row.type == "response" and row.url.startswith("dns:")]) == 38
    assert len(html) == 140
    expected = [
        (r.rec_type, r.rec_headers.get_header("WARC-Target-URI"), r.content_stream().read())
        for r in ArchiveIterator(io.BytesIO(data))
    ]
    assert [(row.type, row.url, row.payload) for row in rows] == expected
    places = origins(batches(WarcReader(), data))
    assert [number for _, number in places] == list(range(822))
    assert all(data[offset : offset + 5] == b"WARC/" for offset, _ in places)


def test_a_record_and_its_columns() -> None:
    pytest.importorskip("warcio")
    body = gzip.compress(b"<p>hello")
    data = record("http://a/", body, extra="Content-Encoding: gzip\r\n")
    row = read_all(WarcReader(), data)[0]
    assert row.payload == b"<p>hello"
    assert (row.type, row.url, row.status, row.content_type) == (
        "response",
        "http://a/",
        200,
        "text/html; charset=utf-8",
    )
    assert row.date.isoformat() == "2020-01-02T03:04:05+00:00"
    assert read_all(WarcReader(), data, columns=("url",)) == [("http://a/",)]
    assert read_all(WarcReader(), b"") == []


@pytest.mark.parametrize("block", [50, 1 << 22])
def test_damaged_records_are_passed_over(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("warcio")
    first, middle, last = record("http://a/", b"a"), record("http://b/", b"b" * 500), record("http://c/", b"c")
    for damaged in (
        middle.replace(b"Content-Length", b"Content-Lengtx"),
        b"x" * 100 + b"\r\n\r\n",
        middle.replace(b"WARC/1.0", b"WORC/1.0"),
    ):
        rejects = Collected()
        rows = read_all(WarcReader(), first + damaged + last, rejects, returns_bytes=block)
        assert [row.url for row in rows] == ["http://a/", "http://c/"]
        assert rejects.origins == [[len(first), 1]]
        assert damaged.startswith(rejects.raws[0].rstrip(b"\r\n"))
        assert "header is damaged" in rejects.errors[0]
    monkeypatch.setattr(mr.formats.warc, "RECORD_BYTES_MAX", 400)
    rejects = Collected()
    assert [row.url for row in read_all(WarcReader(), first + middle + last, rejects)] == ["http://a/", "http://c/"]
    assert "longer than 400 bytes" in rejects.errors[0]


def test_a_file_cut_short_is_an_error_that_says_where() -> None:
    pytest.importorskip("warcio")
    first, last = record("http://a/", b"a"), record("http://c/", b"c")
    with pytest.raises(InputError, match=f"x.warc, byte {len(first)}: the file ends within this record"):
        read_all(WarcReader(), (first + last)[:-10], path="x.warc")


def test_a_payload_that_does_not_decode_is_kept_as_it_is() -> None:
    pytest.importorskip("warcio")
    data = record("http://a/", b"not gzip", extra="Content-Encoding: gzip\r\n") + record("http://b/", b"b")
    assert [(row.url, row.payload) for row in read_all(WarcReader(), data)] == [
        ("http://a/", b"not gzip"),
        ("http://b/", b"b"),
    ]
