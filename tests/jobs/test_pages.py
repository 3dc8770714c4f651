"""Pages out of folders, tar archives and WARC files."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pytest

import mr
from jobs.charset import declared
from jobs.pages import file_pages, name_below, read_pages, root_of, tar_pages


class StoredFile(NamedTuple):
    path: str
    bytes: bytes


def make_tar(*members: tuple[str, bytes | None], kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "target.html"
            info.size = len(body or b"")
            archive.addfile(info, io.BytesIO(body or b""))
    return out.getvalue()


@pytest.mark.parametrize("kind", ["plain", "gzip", "bz2", "xz", "zstd"])
def test_pages_of_a_tar_however_it_is_compressed(kind: str) -> None:
    import bz2
    import lzma

    tar = make_tar(("b.html", b"<p>b"), ("a.htm", b"<p>a"), ("style.css", b"p {}"))
    packed = {
        "plain": bytes,
        "gzip": gzip.compress,
        "bz2": bz2.compress,
        "xz": lzma.compress,
        "zstd": lambda data: pa.compress(data, "zstd", asbytes=True),
    }[kind](tar)
    pages = list(tar_pages(packed, "http://h/d"))
    assert [(page.url, page.body) for page in pages] == [("http://h/d/b.html", b"<p>b"), ("http://h/d/a.htm", b"<p>a")]


def test_names_that_leave_the_archive_are_skipped() -> None:
    tar = make_tar(("../up.html", b"x"), ("/abs.html", b"y"), ("a/../../up.html", b"z"), ("./d//e.html", b"w"))
    assert [page.url for page in tar_pages(tar, "file:///")] == ["file:///abs.html", "file:///d/e.html"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_only_regular_members_are_read(kind: bytes) -> None:
    assert list(tar_pages(make_tar(("x.html", None), kind=kind), "file:///")) == []


def test_a_damaged_tar_is_an_error_not_a_short_list() -> None:
    tar = gzip.compress(make_tar(("a.html", b"<p>" + bytes(range(256)) * 400)))
    with pytest.raises((tarfile.TarError, EOFError)):
        list(tar_pages(tar[: len(tar) // 2], "file:///"))


def test_a_files_address_is_its_path_below_the_input() -> None:
    roots = (root_of("/data/site/"), root_of("/data/other/*/x"))
    assert roots == ("/data/site/", "/data/other/")
    (page,) = file_pages(StoredFile("/data/site/a b.html", b""), roots, "https://example.org/")
    assert page.url == "https://example.org/a%20b.html"
    assert name_below("/data/other/1/x/p.html", roots) == "1/x/p.html"


def test_a_file_without_an_ending_is_a_page_if_it_begins_like_one() -> None:
    assert len(list(file_pages(StoredFile("page", b"\n<!DOCTYPE HTML><p>"), (), "file:///"))) == 1
    assert list(file_pages(StoredFile("notes.txt", b"<p>"), (), "file:///")) == []


def test_pages_of_warc_files_and_folders_together(tmp_path: Path) -> None:
    http = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n\r\n<p>x"
    records = [
        warc_record("response", "http://H/a?x#y", http % b"text/html; charset=utf-8"),
        warc_record("response", "http://h/a?x", http % b"TEXT/HTML"),  # the same page again
        warc_record("response", "http://h/i", http % b"image/png"),
        warc_record("request", "http://h/a", b"GET / HTTP/1.1\r\nContent-Type: text/html\r\n\r\n"),
    ]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(map(gzip.compress, records)))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "b.html").write_text("<p>b")
    pages = read_pages([str(tmp_path / "a.warc.gz"), str(tmp_path / "site")], "http://h").take_all()
    assert sorted(pages) == [
        ("http://h/a?x", "text/html; charset=utf-8", b"<p>x"),
        ("http://h/b.html", None, b"<p>b"),
    ]


def test_a_warc_file_in_a_folder_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.warc.gz").write_bytes(b"")
    with pytest.raises(mr.MillraceError, match=r"a.warc.gz is a WARC file in a folder: give it, or a glob"):
        read_pages([str(tmp_path)]).take_all()


def warc_record(kind: str, url: str, block: bytes) -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nContent-Type: application/http\r\n"
    return f"{head}Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n"


def test_the_warc_sample_has_its_140_pages(data: Path) -> None:
    pages = read_pages([str(data / "warc" / "*.warc.gz")]).take_all()
    assert len({page.url for page in pages}) == len(pages) == 140


@pytest.mark.parametrize(("site", "count", "korean"), [("sqlite3", 766, 0), ("apache2", 828, 108)])
def test_the_crawls_have_their_pages(data: Path, site: str, count: int, korean: int) -> None:
    pages = list(tar_pages((data / "crawl" / f"{site}.html.tar.zst").read_bytes(), "file:///"))
    assert len({page.url for page in pages}) == count
    assert sum(declared(page.body) == "cp949" for page in pages) == korean
