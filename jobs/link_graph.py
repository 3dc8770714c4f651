"""The graph of links between web pages.

Input: HTML files in folders or globs, tar archives (plain or compressed), WARC files. Output, a folder of
    edges/    src, dst (str: addresses of pages), links (int: how often src links to dst), by src and dst
    degrees/  url, out_degree, in_degree (int: distinct pages linked to and linking here), every page, by url
    anchors/  dst, text (str: what the links to dst say), links, pages (int), by dst, most pages first

    mr submit jobs/link_graph.py --input site.tar.zst --output graph

A link is an `<a>` or `<area>` whose `href` leads to a page, with `<base href>` and relative addresses resolved and
fragments dropped. A fragment alone leads nowhere and is no link; a page that names itself in full links to itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

import mr
from jobs import page_text
from jobs.charset import decode
from jobs.pages import read_pages


def links(page: Any) -> Iterator[tuple[str, str, str]]:
    """(src, dst, text) of each link in a page (url, content_type, body), in page order."""
    for link in page_text.links(decode(page.body, page.content_type), page.url):
        yield page.url, link.url, link.text


@mr.job
def link_graph(input: list[str], output: str, *, external: bool = False, base_url: str = "file:///") -> Any:
    """The graph of links between web pages.

    Only links from page to page count, unless `--external` keeps those that lead out of the crawl as well; files and
    members of archives have addresses below `--base-url`.
    """
    pages = read_pages(input, base_url)
    urls = pages.select("url")
    found = pages.flat_map(links, names=["src", "dst", "text"])
    if not external:
        found = found.join(urls, left_on="dst", right_on="url", how="inner")
    edges = found.group_by("src", "dst").agg(links=mr.count())
    degrees = (
        urls.with_columns(out_degree=pl.lit(0, pl.Int64), in_degree=pl.lit(0, pl.Int64))
        .union(
            edges.select(url="src", out_degree=pl.lit(1, pl.Int64), in_degree=pl.lit(0, pl.Int64)),
            edges.select(url="dst", out_degree=pl.lit(0, pl.Int64), in_degree=pl.lit(1, pl.Int64)),
        )
        .group_by("url")
        .agg(out_degree=mr.sum("out_degree"), in_degree=mr.sum("in_degree"))
    )
    anchors = (
        found.filter(pl.col("text") != "")
        .group_by("dst", "text", "src")
        .agg(links=mr.count())
        .group_by("dst", "text")
        .agg(links=mr.sum("links"), pages=mr.count())
    )
    return {
        "edges": edges.sort("src", "dst").write_parquet(f"{output}/edges"),
        "degrees": degrees.sort("url").write_parquet(f"{output}/degrees"),
        "anchors": anchors.sort("dst", "pages", "text", descending=[False, True, False]).write_parquet(
            f"{output}/anchors"
        ),
    }


if __name__ == "__main__":
    link_graph.main()
