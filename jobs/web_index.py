"""Build an inverted index of web pages, and search it.

Input: HTML files in folders or globs, tar archives (plain or compressed), WARC files. Output, a folder of
    documents/   id (int), url, title (str), length (int: words), by id
    postings/    term (str), df (int: pages that have it), postings (list of doc, tf, positions; by doc), by term
    about/       one row: documents (int), words (int), stem (str or null), base_url (str)

    mr submit jobs/web_index.py --input site.tar.zst --output index
    python -m jobs.web_index search index "two words"
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import polars as pl
import xxhash

import mr
from jobs.charset import decode
from jobs.page_text import parse, tokens
from jobs.pages import read_pages


class Term(NamedTuple):
    """A term of one page: how often (`tf`) and as which words of the page, counted from 0, it occurs."""

    term: str
    tf: int
    positions: list[int]


class Posting(NamedTuple):
    """One page that has a term."""

    doc: int
    tf: int
    positions: list[int]


class Document(NamedTuple):
    """A page taken apart; `length` counts its words, the title's first."""

    id: int
    url: str
    title: str
    length: int
    terms: list[Term]


def document_id(url: str) -> int:
    """The 63-bit id of the page at `url`: from the address alone, so the same in every run and on every executor.

    >>> document_id("http://example.org/")
    6601963521976212160
    """
    return xxhash.xxh3_64_intdigest(url.encode()) >> 1


def document(page: Any, stem: str | None) -> Document:
    """Take a page (url, content_type, body) apart."""
    title, text = parse(decode(page.body, page.content_type))
    words = tokens(f"{title} {text}", stem)
    places: dict[str, list[int]] = defaultdict(list)
    for position, word in enumerate(words):
        places[word].append(position)
    terms = [Term(word, len(positions), positions) for word, positions in places.items()]
    return Document(document_id(page.url), page.url, title, len(words), terms)


def occurrences(page: Any) -> Iterator[tuple[str, int, int, list[int]]]:
    """(term, doc, tf, positions) of each term of a document."""
    for term in page.terms:
        yield term.term, page.id, term.tf, term.positions


def posting_list(term: str, rows: Iterator[Any]) -> Iterator[tuple[str, int, list[Posting]]]:
    """All pages that have `term`, from its rows in order of page id."""
    found = [Posting(row.doc, row.tf, row.positions) for row in rows]
    yield term, len(found), found


@mr.job
def web_index(input: list[str], output: str, *, stem: str | None = None, base_url: str = "file:///") -> Any:
    """Build an inverted index of web pages.

    `--stem english` brings words to their stems (any language of Snowball); files and members of archives have
    addresses below `--base-url`.
    """
    pages = read_pages(input, base_url).map(partial(document, stem=stem))
    documents = pages.select("id", "url", "title", "length")
    postings = (
        pages.flat_map(occurrences, names={"term": str, "doc": int, "tf": int, "positions": list[int]})
        .group_by("term")
        .map_groups(posting_list, sort_by="doc", names=["term", "df", "postings"])
    )
    about = documents.agg(documents=mr.count(), words=mr.sum("length")).with_columns(
        stem=pl.lit(stem, pl.String), base_url=pl.lit(base_url)
    )
    return {
        "documents": documents.sort("id").write_parquet(f"{output}/documents"),
        "postings": postings.sort("term").write_parquet(f"{output}/postings"),
        "about": about.write_parquet(f"{output}/about"),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["search"]:
        from jobs.index_search import main

        sys.exit(main(sys.argv[2:]))
    web_index.main()
