"""Answer queries from an index that `web_index` built: the pages with the query's terms, best first.

Reads what the query needs and no more: of the postings the row groups whose range of terms holds one of the query's,
of the documents two columns, and of the best pages their titles.
"""

from __future__ import annotations

import argparse
import sys
from functools import reduce
from operator import or_
from typing import NamedTuple

import fsspec
import pyarrow.compute as pc
import pyarrow.dataset as pads

from jobs.bm25 import rank
from jobs.page_text import tokens


class Hit(NamedTuple):
    """A page that answers a query; `rank` counts from 1."""

    rank: int
    score: float
    title: str
    url: str


def _part(index: str, name: str) -> pads.Dataset:
    filesystem, folder = fsspec.core.url_to_fs(f"{index.rstrip('/')}/{name}")
    parts = sorted(filesystem.glob(f"{folder}/part-*.parquet"))
    if not parts:
        raise FileNotFoundError(f"{index} is not an index: it has no {name}/part-*.parquet")
    return pads.dataset(parts, filesystem=filesystem, format="parquet")


def _any_of(column: str, values: list[str] | list[int]) -> pc.Expression:
    return reduce(or_, (pc.field(column) == value for value in values))


def search(index: str, query: str, limit: int = 10) -> list[Hit]:
    """The `limit` pages of `index` (a path or URL) that answer `query` best, by BM25; equal ones in order of id.

    A page needs one of the query's words, not all. Raises FileNotFoundError where there is no index.
    """
    about = _part(index, "about").to_table().to_pylist()[0]
    terms = sorted(set(tokens(query, about["stem"])))
    if not terms:
        return []
    rows = _part(index, "postings").to_table(filter=_any_of("term", terms)).to_pylist()
    postings = {row["term"]: {page["doc"]: page["tf"] for page in row["postings"]} for row in rows}
    documents = _part(index, "documents")
    sizes = documents.to_table(columns=["id", "length"])
    lengths = dict(zip(sizes["id"].to_pylist(), sizes["length"].to_pylist(), strict=True))
    best = rank(postings, lengths, about["documents"], about["words"] / max(about["documents"], 1))[:limit]
    if not best:
        return []
    names = documents.to_table(columns=["id", "title", "url"], filter=_any_of("id", [page for _, page in best]))
    named = {row["id"]: row for row in names.to_pylist()}
    return [Hit(n, score, named[page]["title"], named[page]["url"]) for n, (score, page) in enumerate(best, 1)]


def main(arguments: list[str]) -> int:
    """The command `python -m jobs.web_index search INDEX QUERY`; returns its exit code (4: no such index)."""
    parser = argparse.ArgumentParser(prog="python -m jobs.web_index search", description="Search an index by BM25.")
    parser.add_argument("index", help="the folder that web_index wrote (a path or URL)")
    parser.add_argument("query", help="the words to look for, quoted")
    parser.add_argument("--limit", type=int, default=10, help="pages to show (default 10)")
    options = parser.parse_args(arguments)
    try:
        hits = search(options.index, options.query, options.limit)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 4
    for hit in hits:
        print(f"{hit.rank:3}  {hit.score:7.3f}  {hit.title}  {hit.url}")
    if not hits:
        print(f"no page has any of: {options.query}", file=sys.stderr)
    return 0
