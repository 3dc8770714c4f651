"""One spelling for each address, and where links lead."""

from __future__ import annotations

import pytest

from jobs.urls import normalise, page_url, resolve


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("HTTPS://Example.org:443", "https://example.org/"),
        ("http://h:8080/a", "http://h:8080/a"),
        ("http://h/%41%2f%c3%a9", "http://h/A%2F%C3%A9"),
        ("http://h/é?q=ü v", "http://h/%C3%A9?q=%C3%BC%20v"),
        ("http://h/a#b", "http://h/a"),
        ("file:///a/b.html", "file:///a/b.html"),
    ],
)
def test_equal_addresses_are_spelt_alike(url: str, same: str) -> None:
    assert normalise(url) == same
    assert normalise(same) == same


@pytest.mark.parametrize(
    ("href", "target"),
    [
        ("b.html", "http://h/d/b.html"),
        ("../b.html#part", "http://h/b.html"),
        ("/b.html", "http://h/b.html"),
        ("//other/x", "http://other/x"),
        ("?q=1", "http://h/d/a.html?q=1"),
        ("a.html", "http://h/d/a.html"),  # a page that names itself in full
        (" b\n.html ", "http://h/d/b.html"),
        ("", None),
        ("#part", None),
        ("mailto:a@b", None),
        ("javascript:void(0)", None),
        ("http://[bad", None),
        ("http://h:port/", "http://h:port/"),
    ],
)
def test_where_a_link_leads(href: str, target: str | None) -> None:
    assert resolve("http://h/d/a.html", href) == target


def test_a_file_and_the_link_to_it_meet() -> None:
    assert page_url("file:///", "d/über uns.html") == resolve("file:///d/a.html", "%C3%BCber uns.html")
