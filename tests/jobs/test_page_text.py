"""What a reader sees of a page."""

from __future__ import annotations

import pytest

from jobs.page_text import Link, Page, links, parse, tokens


def test_blocks_end_words_and_inline_elements_do_not() -> None:
    html = "<body><p>one<p>two<table><tr><td>3<td>4</table>f<b>i</b>v<!-- -->e<br>six<ul><li>7<li>8</ul>"
    assert parse(html).text == "one two 3 4 five six 7 8"


def test_what_is_not_shown_is_no_text() -> None:
    html = "<title>T</title>"
    html += "<template>e</template><style>p{}</style><p>a<script>b()</script><noscript>c</noscript><!--d-->"
    assert parse(html) == Page("T", "a")


@pytest.mark.parametrize("html", ["", "plain", "<", "<title>", "<p>\0</p>", "<frameset><frame src=x></frameset>"])
def test_no_page_is_refused(html: str) -> None:
    assert isinstance(parse(html), Page)
    assert list(links(html, "file:///a")) == []


def test_entities_are_characters() -> None:
    assert parse("<p>a &amp; b&nbsp;&#8364;").text == "a & b €"


def test_links_use_the_base_and_say_what_they_say() -> None:
    html = """<base href="sub/"><a href="x">  the
      <i>x</i></a> <a href="#here">no</a> <a name="y">no</a> <a href="y"><img src=i alt="a  picture"></a>
      <map><area href="/z" alt="region"></map> <a href="mailto:a@b">no</a>"""
    assert list(links(html, "http://h/d/a.html")) == [
        Link("http://h/d/sub/x", "the x"),
        Link("http://h/d/sub/y", "a picture"),
        Link("http://h/z", "region"),
    ]


def test_words_are_case_folded_runs_of_letters_and_digits() -> None:
    assert tokens("Fußball_FUSSBALL ﬁnal 3rd 한국어,x") == ["fussball", "fussball", "final", "3rd", "한국어", "x"]


def test_words_can_be_stemmed() -> None:
    assert tokens("Foreign keys, indexed indexes", "english") == ["foreign", "key", "index", "index"]
    with pytest.raises(KeyError):
        tokens("x", "klingon")
