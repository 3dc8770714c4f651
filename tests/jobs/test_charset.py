"""Which character set a page is in, and that decoding never fails."""

from __future__ import annotations

import pytest

from jobs.charset import codec, declared, decode

KOREAN = "아파치 서버"


@pytest.mark.parametrize(
    "declaration",
    [
        '<meta charset="euc-kr">',
        "<meta charset=EUC-KR/>",
        "<META HTTP-EQUIV='Content-Type' CONTENT='text/html; charset=ks_c_5601-1987'>",
        '<?xml version="1.0" encoding="EUC-KR"?>',
        '<!-- <meta charset="utf-8"> --><meta name="x" charset="euc-kr">',
    ],
)
def test_the_pages_own_declaration_is_honoured(declaration: str) -> None:
    assert decode((declaration + KOREAN).encode("euc-kr")).endswith(KOREAN)


def test_the_http_header_counts_more_than_the_page() -> None:
    page = ("<meta charset=utf-8>" + KOREAN).encode("euc-kr")
    assert decode(page, 'text/html; charset="EUC-KR"').endswith(KOREAN)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_counts_most_and_is_no_text(encoding: str) -> None:
    assert decode(KOREAN.encode(encoding), "text/html; charset=iso-8859-1") == KOREAN


@pytest.mark.parametrize(
    ("page", "text"), [("naïve – x".encode(), "naïve – x"), ("naïve – x".encode("cp1252"), "naïve – x")]
)
def test_without_a_declaration_it_is_utf8_or_else_windows_1252(page: bytes, text: str) -> None:
    assert declared(page) is None
    assert decode(page) == text


def test_an_unknown_header_falls_back_to_the_page() -> None:
    assert declared(b"<meta charset=euc-kr>", "text/html; charset=none-such") == "cp949"


def test_a_declaration_of_utf16_that_can_be_read_is_utf8() -> None:
    assert declared(b"<meta charset=utf-16le>") == "utf-8"


@pytest.mark.parametrize(
    "label", ["rot13", "base64", "zlib", "undefined", "", "x" * 300, "unicode_escape", "idna", "x\0"]
)
def test_codecs_that_are_not_of_text_are_not_taken(label: str) -> None:
    assert codec(label) is None


@pytest.mark.parametrize("header", [None, "text/html; charset=utf-16", "text/html; charset=gb2312", "charset=utf-7"])
def test_any_bytes_decode(header: str | None) -> None:
    assert isinstance(decode(bytes(range(256)) * 3, header), str)
