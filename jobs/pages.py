"""Pages from wherever they lie: folders and globs of HTML files, tar archives, WARC files; the input of the web jobs.

A page's address is its key. For a WARC record it is the address it was fetched from; for a file, its path below the
input folder, and for a member of a tar, its path in the archive, both below `base_url`. Nothing is extracted to disk.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator
from functools import partial
from typing import IO, Any, NamedTuple

import polars as pl
import pyarrow as pa

import mr
from jobs.urls import normalise, page_url

PAGE_BYTES_MAX = 64 << 20
"""A longer file or member is no page: it is left out, and counted as `pages_too_long`."""

HTML_TYPE = r"(?i)^\s*(?:text/html|application/xhtml\+xml)\s*(?:;|$)"
"""The media types of pages, in HTTP headers."""

_HTML_NAME = re.compile(r"\.(?:s|x)?html?$", re.IGNORECASE)
_HTML_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<!doctype\s+html|<html\b)", re.IGNORECASE)
_TAR_NAME = re.compile(r"\.(?:tar(?:\.\w+)?|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
_WARC_NAME = re.compile(r"\.warc(?:\.gz)?$", re.IGNORECASE)
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_GLOB = re.compile(r"[*?\[]")


class RawPage(NamedTuple):
    """A page as it was found: `content_type` is the HTTP header's, None where there is none."""

    url: str
    content_type: str | None
    body: bytes


def tar_pages(archive: bytes, base_url: str) -> Iterator[RawPage]:
    """The HTML files in a tar, compressed or not, in archive order.

    As with Python's `data` extraction filter, only regular files count, a leading `/` is dropped, and names that
    leave the archive's root are refused: those members are skipped. Raises tarfile.TarError for a damaged archive.
    """
    source: IO[bytes] = io.BytesIO(archive)
    if archive.startswith(_ZSTD_MAGIC):
        source = pa.CompressedInputStream(source, "zstd")
    # Streamed for zstd, which cannot seek; "*" looks for gzip, bzip2 and xz by itself.
    with tarfile.open(fileobj=source, mode="r|*") as members:
        for member in members:
            name = posixpath.normpath(member.name.lstrip("/"))
            if not member.isreg() or name.startswith("../") or not _fits(member.size):
                continue
            file = members.extractfile(member)
            body = file.read() if file is not None else b""
            if is_html(name, body):
                yield RawPage(page_url(base_url, name), None, body)


def response_page(record: Any) -> RawPage:
    """The page in a WARC record (url, content_type, payload)."""
    return RawPage(_address(record.url), record.content_type, record.payload)


def file_pages(file: Any, roots: tuple[str, ...], base_url: str) -> Iterator[RawPage]:
    """The pages of one input file (path, bytes): those of a tar, the file itself if it is HTML, else none.

    Raises ValueError for a WARC file, which `read_pages` reads only where an input says that it is one.
    """
    if _TAR_NAME.search(file.path):
        yield from tar_pages(file.bytes, base_url)
    elif _WARC_NAME.search(file.path):
        raise ValueError(
            f"{file.path} is a WARC file in a folder: give it, or a glob *.warc.gz, as an input of its own"
        )
    elif is_html(file.path, file.bytes) and _fits(len(file.bytes)):
        yield RawPage(page_url(base_url, name_below(file.path, roots)), None, file.bytes)


def is_html(name: str, body: bytes) -> bool:
    """Whether a file is a page: by its name's ending, else by how it begins.

    >>> is_html("a/b.HTM", b""), is_html("page", b" <!DOCTYPE html>..."), is_html("style.css", b"p {}")
    (True, True, False)
    """
    return bool(_HTML_NAME.search(name) or _HTML_START.match(body))


def root_of(pattern: str) -> str:
    """What the names of an input's pages leave out: its folder, or what stands before the first wildcard.

    >>> root_of("site"), root_of("dfs:///crawl/2024-*/doc/*.html"), root_of("*.html")
    ('site/', 'dfs://crawl/', '')
    """
    if pattern.startswith("dfs://"):
        path = "dfs://" + pattern.removeprefix("dfs://").lstrip("/")
    else:
        path = os.path.expanduser(pattern.removeprefix("file://"))
    wildcard = _GLOB.search(path)
    return path[: path.rfind("/", 0, wildcard.start()) + 1] if wildcard else path.rstrip("/") + "/"


def name_below(path: str, roots: tuple[str, ...]) -> str:
    """`path` without the longest of `roots` that it begins with; the bare file name if it begins with none.

    >>> name_below("/data/site/doc/a.html", ("/data/", "/data/site/")), name_below("/x/a.html", ("/data/",))
    ('doc/a.html', 'a.html')
    """
    above = max((root for root in roots if path.startswith(root)), key=len, default=posixpath.dirname(path))
    return path[len(above) :].lstrip("/")


def _fits(size: int) -> bool:
    if size > PAGE_BYTES_MAX:
        mr.counter("pages_too_long").add(1)
    return size <= PAGE_BYTES_MAX


def _address(url: str) -> str:
    try:
        return normalise(url)
    except ValueError:
        return url


def read_pages(inputs: list[str], base_url: str = "file:///") -> mr.Dataset:
    """The pages in `inputs`, one row each: url (str), content_type (str or null), body (bytes).

    Of several pages with one address the first counts (in file order, then by position). Grouping by address also
    spreads the pages of one big archive over all reduce tasks, so that what follows runs in parallel.
    """
    archives = [path for path in inputs if _WARC_NAME.search(path)]
    others = [path for path in inputs if path not in archives]
    found = []
    if others or not archives:
        pages_of = partial(file_pages, roots=tuple(map(root_of, others)), base_url=base_url)
        found.append(mr.read_binary_files(others).flat_map(pages_of))
    if archives:
        html = (pl.col("type") == "response") & pl.col("content_type").str.contains(HTML_TYPE)
        found.append(mr.read_warc(archives).filter(html).map(response_page))
    columns = {"url": str, "content_type": str, "body": bytes}
    first, *rest = found
    return first.union(*rest).group_by("url").map_groups(lambda url, pages: next(pages), names=columns)
