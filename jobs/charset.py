"""Bytes of a web page -> text: which character set they are in, and how to decode them whatever they claim.

Follows the order of the WHATWG Encoding and HTML standards (https://encoding.spec.whatwg.org/,
https://html.spec.whatwg.org/#determining-the-character-encoding): byte order mark, HTTP header, declaration in the
page; then UTF-8 if the bytes are valid in it, else windows-1252, which decodes anything.
"""

from __future__ import annotations

import codecs
import re

DECLARATION_BYTES = 4096
"""How far into the page a declaration is looked for. The standard says 1,024; real pages have long prologues."""

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_META = re.compile(rb"""<meta\b[^>]*?\bcharset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
_XML = re.compile(rb"""^\s*<\?xml\b[^>]*?\bencoding\s*=\s*["']([\w.:-]+)""", re.IGNORECASE)
_HEADER = re.compile(r"""\bcharset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)

# Browsers read these labels as the larger set on the right: pages use its characters under the smaller one's name.
_SUPERSETS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "big5": "big5hkscs",
}

_NOT_OF_THE_WEB = frozenset({"idna", "punycode", "raw-unicode-escape", "unicode-escape", "utf-7"})


def codec(label: str) -> str | None:
    """The Python codec for the character set called `label` on the web; None for one that nobody knows.

    >>> codec("ISO-8859-1"), codec("ks_c_5601-1987"), codec("x-unheard-of")
    ('cp1252', 'cp949', None)
    """
    try:
        name = codecs.lookup(label).name
        "a".encode(name)  # "zlib" and "rot13" are codecs too, but not of text
    except (LookupError, ValueError):
        return None
    return None if name in _NOT_OF_THE_WEB else _SUPERSETS.get(name, name)


def declared(body: bytes, content_type: str | None = None) -> str | None:
    """The codec that the page names by byte order mark, HTTP `content_type` or declaration; None if by none.

    >>> declared(b'<meta http-equiv="Content-Type" content="text/html; charset=EUC-KR">')
    'cp949'
    >>> declared(b"<p>plain", "text/html; charset=utf-8")
    'utf-8'
    """
    for bom, name in _BOMS:
        if body.startswith(bom):
            return name
    if (match := _HEADER.search(content_type or "")) and (found := codec(match[1])):
        return found
    head = body[:DECLARATION_BYTES]
    for pattern, text in ((_META, _COMMENT.sub(b"", head)), (_XML, head)):
        if (label := pattern.search(text)) and (found := codec(label[1].decode("ascii", "replace"))):
            # A declaration that could be read byte by byte was not written in UTF-16.
            return "utf-8" if found.startswith("utf-16") else found
    return None


def decode(body: bytes, content_type: str | None = None) -> str:
    """The text of a page. Never fails: bytes that are invalid in the page's own set become U+FFFD.

    >>> decode(b"<meta charset=euc-kr>" + "한국어".encode("euc-kr"))
    '<meta charset=euc-kr>한국어'
    >>> decode("naïve".encode("cp1252")), decode("naïve".encode("utf-8"))
    ('naïve', 'naïve')
    """
    name = declared(body, content_type)
    if name is None:
        try:
            return body.decode("utf-8")
        except UnicodeDecodeError:
            name = "cp1252"
    return body.decode(name, "replace").removeprefix("\ufeff")
