"""Addresses of pages: one spelling for each, so that a page and the links to it meet under the same key."""

from __future__ import annotations

import re
from urllib.parse import quote, urldefrag, urljoin, urlsplit, urlunsplit

SCHEMES = ("http", "https", "file")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_ESCAPE = re.compile("%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_KEPT = "%/:@!$&'()*+,;=[]?~"
_NEWLINES = {ord(c): None for c in "\t\r\n"}
_BLANKS = "".join(map(chr, range(33)))


def _escape(match: re.Match[str]) -> str:
    byte = int(match[1], 16)
    return chr(byte) if byte in _UNRESERVED else f"%{match[1].upper()}"


def normalise(url: str) -> str:
    """One spelling of an absolute URL: RFC 3986 section 6.2.2 and default ports; the fragment is dropped.

    Raises ValueError where the URL cannot be taken apart (a bracket or a port that is none).

    >>> normalise("HTTP://Example.ORG:80/%7euser/a b.html#top")
    'http://example.org/~user/a%20b.html'
    """
    parts = urlsplit(urldefrag(url).url)
    host = parts.netloc.lower().removesuffix(_DEFAULT_PORTS.get(parts.scheme, ""))
    path = _ESCAPE.sub(_escape, quote(parts.path, safe=_KEPT))
    query = _ESCAPE.sub(_escape, quote(parts.query, safe=_KEPT))
    return urlunsplit((parts.scheme, host, path or "/", query, ""))


def page_url(base_url: str, name: str) -> str:
    """The address of the page that lies as file `name` (a relative path, `/` between folders) under `base_url`.

    >>> page_url("https://example.org/doc", "a/what is 100%.html")
    'https://example.org/doc/a/what%20is%20100%25.html'
    """
    return normalise(f"{base_url}{'' if base_url.endswith('/') else '/'}{quote(name)}")


def resolve(base: str, href: str) -> str | None:
    """The page that `href` leads to when it stands in a page whose base is `base`; None where it leads to none.

    That is: a reference within the same page (empty, or a fragment alone), another scheme than http, https and
    file, or something that is not a URL.

    >>> resolve("file:///doc/a.html", "../b.html#x"), resolve("file:///doc/a.html", "#x")
    ('file:///b.html', None)
    >>> resolve("http://example.org/", "mailto:me@example.org") is None
    True
    """
    href = href.strip(_BLANKS).translate(_NEWLINES)
    if not href or href.startswith("#"):
        return None
    try:
        url = urljoin(base, href)
        return normalise(url) if urlsplit(url).scheme in SCHEMES else None
    except ValueError:
        return None
