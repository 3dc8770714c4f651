"""HTML -> what a reader sees of it: title, text, words and links. Parsed by lexbor, which never refuses a page."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple, Protocol

from selectolax.lexbor import LexborHTMLParser, LexborNode

from jobs.urls import resolve

HIDDEN = ["script", "style", "noscript", "template", "head"]
# Elements whose content flows on in the line; every other element ends a word.
# fmt: off
INLINE = frozenset({
    "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i", "ins",
    "kbd", "mark", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr",
})
# fmt: on
_WORD = re.compile(r"[^\W_]+")


class Page(NamedTuple):
    """What a reader sees: the `title` and the visible `text`, each with its blanks collapsed."""

    title: str
    text: str


class Link(NamedTuple):
    """A link to the page `url`; `text` is what the reader clicks on (for a picture, what it says it shows)."""

    url: str
    text: str


def _collapse(text: str) -> str:
    return " ".join(text.split())


def _pieces(root: LexborNode) -> Iterator[str]:
    """The text below `root`, with a blank where an element that is not inline begins or ends.

    Walks by hand: the library's `traverse` does not tell where elements end, and pages nest too deep to recurse.
    """
    node: LexborNode | None = root
    while node is not None:
        if node.is_text_node:
            yield node.text_content or ""
        elif node.is_element_node and node.tag not in INLINE:
            yield " "
        if (child := node.first_child) is not None:
            node = child
            continue
        while node is not None and (following := node.next) is None:
            node = node.parent
            if node is not None and node.tag not in INLINE:
                yield " "
        if node is not None:
            node = following


def parse(html: str) -> Page:
    """Title and visible text of `html`; both empty where there is none.

    >>> parse("<title>A  page</title><h1>He<b>ll</b>o</h1><p>world<script>x()</script>")
    Page(title='A page', text='Hello world')
    """
    tree = LexborHTMLParser(html)
    title = tree.css_first("title")
    heading = _collapse(title.text()) if title is not None else ""
    tree.strip_tags(HIDDEN)
    return Page(heading, _collapse("".join(_pieces(tree.root))) if tree.root is not None else "")


def links(html: str, url: str) -> Iterator[Link]:
    """The links from `html`, which lies at `url`, in page order; `<base href>` is honoured.

    >>> list(links('<base href="/doc/"><a href="b.html#x">the <i>b</i></a><a href="#y">here</a>', "http://h/a.html"))
    [Link(url='http://h/doc/b.html', text='the b')]
    """
    tree = LexborHTMLParser(html)
    base_node = tree.css_first("base[href]")
    base = (base_node is not None and resolve(url, base_node.attributes["href"] or "")) or url
    for node in tree.css("a[href], area[href]"):
        target = resolve(base, node.attributes["href"] or "")
        if target is not None:
            yield Link(target, _collapse(node.text()) or _alternative(node))


def _alternative(node: LexborNode) -> str:
    picture = node if node.tag == "area" else node.css_first("img[alt]")
    return _collapse(picture.attributes.get("alt") or "") if picture is not None else ""


class Stemmer(Protocol):
    """What snowballstemmer gives: Porter's Snowball algorithms (https://snowballstem.org/)."""

    def stemWords(self, words: list[str], /) -> list[str]:
        """The stem of each word."""


@cache
def _stemmer(language: str) -> Stemmer:
    import snowballstemmer  # runs on PyStemmer where that is installed: the same stems, ten times as fast

    return snowballstemmer.stemmer(language)  # type: ignore[no-any-return]


def tokens(text: str, stem: str | None = None) -> list[str]:
    """The words of `text`: maximal runs of letters and digits, case-folded, in NFKC; stemmed in language `stem`.

    Raises KeyError for a language that Snowball does not know.

    >>> tokens("The WAL-mode's 2 Straße_n")
    ['the', 'wal', 'mode', 's', '2', 'strasse', 'n']
    >>> tokens("Running indexes", "english")
    ['run', 'index']
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    words = _WORD.findall(text.casefold())
    return _stemmer(stem).stemWords(words) if stem else words
