"""`web_index` and `link_graph` on real crawls, against known answers and plain Python."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jobs.charset import decode
from jobs.index_search import Hit, main, search
from jobs.link_graph import link_graph
from jobs.page_text import parse, tokens
from jobs.pages import tar_pages
from jobs.web_index import document_id, web_index

PAGES = {
    "a.html": "<title>Mills</title><p>The water mill and the wind mill. <a href='sub/b.html'>wind</a>",
    "sub/b.html": "<title>Wind</title><p>Wind turns sails. <a href='../a.html#x'>mills</a> <a href='b.html'>me</a>",
    "sub/c.htm": "<p><a href='b.html'>wind</a> <a href='b.html'>Wind power</a> <a href='gone.html'>x</a>",
    "empty.html": "",
    "style.css": "p { color: wind }",
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name, html in PAGES.items():
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).write_text(html)
    return tmp_path / "site"


def test_an_index_of_a_folder(site: Path, tmp_path: Path, rows: Any) -> None:
    web_index(input=[str(site)], output=str(tmp_path / "index"), base_url="http://h/")
    documents = rows(tmp_path / "index" / "documents")
    names = {row["id"]: row["url"] for row in documents}
    assert list(names) == sorted(names)
    assert set(names.values()) == {
        "http://h/a.html",
        "http://h/sub/b.html",
        "http://h/sub/c.htm",
        "http://h/empty.html",
    }
    postings = rows(tmp_path / "index" / "postings")
    assert [row["term"] for row in postings] == sorted(row["term"] for row in postings)
    expected: dict[str, dict[str, list[int]]] = {}
    for row in documents:
        page = parse(PAGES[row["url"].removeprefix("http://h/")])
        words = tokens(f"{page.title} {page.text}")
        assert (row["title"], row["length"]) == (page.title, len(words))
        for position, word in enumerate(words):
            expected.setdefault(word, {}).setdefault(row["url"], []).append(position)
    assert {row["term"]: {names[p["doc"]]: p["positions"] for p in row["postings"]} for row in postings} == expected
    for row in postings:
        assert row["df"] == len(row["postings"])
        assert [p["doc"] for p in row["postings"]] == sorted(p["doc"] for p in row["postings"])
        assert all(p["tf"] == len(p["positions"]) for p in row["postings"])


def test_searching_it(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = str(tmp_path / "index")
    web_index(input=[str(site)], output=index, base_url="http://h/", stem="english")
    best = search(index, "the MILLS")
    assert [(hit.rank, hit.title, hit.url) for hit in best] == [
        (1, "Mills", "http://h/a.html"),
        (2, "Wind", "http://h/sub/b.html"),
    ]
    assert search(index, "wind", limit=1) == search(index, "winds")[:1]
    assert search(index, "nowhere") == search(index, "?!") == []
    assert main([index, "wind mill", "--limit", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[0] == "1"
    assert main([str(tmp_path / "none"), "x"]) == 4
    assert "is not an index" in capsys.readouterr().err


def test_the_index_does_not_depend_on_where_and_in_which_order_pages_lie(site: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "site.tar.gz", "w:gz") as archive:
        for name in sorted(PAGES, reverse=True):
            archive.add(site / name, name)
    web_index(input=[str(site)], output=str(tmp_path / "one"))
    web_index(input=[str(tmp_path / "site.tar.gz")], output=str(tmp_path / "two"))
    for name in ("documents", "postings", "about"):
        one, two = (sorted((tmp_path / index / name).glob("part-*")) for index in ("one", "two"))
        assert [part.read_bytes() for part in one] == [part.read_bytes() for part in two] != []


def test_two_real_sites_answer_queries_and_survive_korean_pages(data: Path, tmp_path: Path, rows: Any) -> None:
    index = str(tmp_path / "index")
    web_index(input=[str(data / "crawl" / f"{site}.html.tar.zst") for site in ("sqlite3", "apache2")], output=index)
    assert len(rows(Path(index) / "documents")) == 766 + 828
    assert top(search(index, "foreign key"), 1) == {"sqlite3/foreignkeys.html"}
    assert "apache2-doc/manual/en/vhosts/index.html" in top(search(index, "virtual hosts"), 5)
    assert all("/ko/" in url for url in top(search(index, "사용자 인증"), 5))
    pages = list(tar_pages((data / "crawl" / "apache2.html.tar.zst").read_bytes(), "file:///"))
    holding = {document_id(p.url) for p in pages if "인증" in tokens(" ".join(parse(decode(p.body))))}
    (row,) = [row for row in rows(Path(index) / "postings") if row["term"] == "인증"]
    assert {posting["doc"] for posting in row["postings"]} == holding


def top(hits: list[Hit], count: int) -> set[str]:
    return {hit.url.removeprefix("file:///usr/share/doc/") for hit in hits[:count]}


def test_the_warc_sample_gives_its_140_pages(data: Path, tmp_path: Path, rows: Any) -> None:
    web_index(input=[str(data / "warc" / "example.warc.gz")], output=str(tmp_path / "index"))
    documents = rows(tmp_path / "index" / "documents")
    assert len(documents) == 140
    assert all(row["url"].startswith("http://") for row in documents)


def test_search_runs_as_a_command(site: Path, tmp_path: Path) -> None:
    web_index(input=[str(site)], output=str(tmp_path / "index"))
    command = [sys.executable, "-m", "jobs.web_index", "search", str(tmp_path / "index"), "wind mill"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].endswith("a.html")


def test_the_graph_of_a_folder(site: Path, tmp_path: Path, rows: Any) -> None:
    link_graph(input=[str(site)], output=str(tmp_path / "graph"), base_url="http://h")
    values = {
        name: [tuple(row.values()) for row in rows(tmp_path / "graph" / name)]
        for name in ("edges", "degrees", "anchors")
    }
    a, b, c, empty = "http://h/a.html", "http://h/sub/b.html", "http://h/sub/c.htm", "http://h/empty.html"
    assert values["edges"] == [(a, b, 1), (b, a, 1), (b, b, 1), (c, b, 2)]
    assert values["degrees"] == [(a, 1, 1), (empty, 0, 0), (b, 2, 3), (c, 1, 0)]
    assert values["anchors"] == [(a, "mills", 1, 1), (b, "wind", 2, 2), (b, "Wind power", 1, 1), (b, "me", 1, 1)]


def test_links_out_of_the_crawl_are_kept_if_asked_for(site: Path, tmp_path: Path, rows: Any) -> None:
    link_graph(input=[str(site)], output=str(tmp_path / "graph"), base_url="http://h", external=True)
    assert "http://h/sub/gone.html" in {row["dst"] for row in rows(tmp_path / "graph" / "edges")}


@pytest.mark.parametrize(("name", "edges"), [("sqlite3", 18_328), ("python311", 14_961), ("apache2", 15_130)])
def test_the_known_links_of_real_sites(data: Path, tmp_path: Path, rows: Any, name: str, edges: int) -> None:
    link_graph(input=[str(data / "crawl" / f"{name}.html.tar.zst")], output=str(tmp_path / "graph"))
    found = rows(tmp_path / "graph" / "edges")
    assert len(found) == len({(row["src"], row["dst"]) for row in found}) == edges
    into, out = Counter(row["dst"] for row in found), Counter(row["src"] for row in found)
    degrees = rows(tmp_path / "graph" / "degrees")
    assert all((row["out_degree"], row["in_degree"]) == (out[row["url"]], into[row["url"]]) for row in degrees)
    assert sum(row["in_degree"] for row in degrees) == edges
