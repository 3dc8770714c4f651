"""Checkpoints, and the namespace rebuilt from the nodes alone."""

from __future__ import annotations

import random

import pytest

from dfs.chains import Base, Choice, Link, choose, enough

# -- which chain. Records are written "txn:chain<prev@nodes" ----------------------------------------------------------


def link(text: str) -> Link:
    """
    >>> link("2:b<a@xy")
    Link(txn=2, chain='b', prev='a', nodes=frozenset({'x', 'y'}))
    """
    number, rest = text.split(":")
    chain, rest = rest.split("<")
    prev, nodes = rest.split("@")
    return Link(int(number), chain, prev, frozenset(nodes))


def chosen(bases: str, links: str) -> Choice | None:
    made = [Base(int(number), chain) for number, chain in (base.split(":") for base in bases.split())]
    return choose(made, [link(text) for text in links.split()])


@pytest.mark.parametrize(
    ("bases", "links", "base", "path", "aside", "beyond"),
    [
        ("0:r", "", 0, "", "", ""),
        ("0:r", "1:a<r@x 2:b<a@x", 0, "ab", "", ""),
        ("0:r 1:a", "1:a<r@x 2:b<a@x", 1, "b", "", ""),  # the newest checkpoint
        ("0:r 2:b", "1:a<r@x 2:b<a@x", 2, "", "", ""),  # nothing after it
        ("2:b", "1:a<r@x 2:b<a@x", 2, "", "", ""),  # older records of its own history
        ("2:b", "3:c<b@x", 2, "c", "", ""),
        ("0:r", "1:a<r@x 1:z<r@y 2:b<a@x", 0, "ab", "z", ""),  # the longer branch
        ("0:r", "1:a<r@x 1:z<r@xy", 0, "z", "a", ""),  # of equal ones that on more nodes
        ("0:r", "1:a<r@xy 1:z<r@x", 0, "a", "z", ""),
        ("0:r", "1:a<r@x 1:z<r@x", 0, "z", "a", ""),  # and in any case always the same one
        ("0:r 1:z", "1:a<r@x 2:b<a@x 1:z<r@y", 0, "ab", "z", ""),  # a checkpoint on the shorter branch
        ("0:r", "1:a<r@x 3:c<b@x", 0, "a", "c", "c"),  # a hole
        ("0:r", "2:b<a@x 3:c<b@x", 0, "", "bc", "bc"),
        ("2:b", "1:q<r@x 3:c<b@x", 2, "c", "", ""),  # of before the known history nothing can be said
        ("2:b", "2:q<a@x 3:c<q@x", 2, "", "qc", "c"),
        ("3:c", "1:a<r@x 2:b<a@x 2:q<a@y 3:c<b@x", 3, "", "q", ""),
        ("0:r", "2:b<r@x", 0, "", "b", "b"),  # the right chain with a wrong number
    ],
)
def test_the_chain_that_reaches_furthest_is_chosen(
    bases: str, links: str, base: int, path: str, aside: str, beyond: str
) -> None:
    choice = chosen(bases, links)
    assert choice is not None
    assert choice.base.txn == base
    assert "".join(link.chain for link in choice.links) == path
    assert {link.chain for link in choice.aside} == set(aside)
    assert {link.chain for link in choice.beyond} == set(beyond)
    assert choice.txn == base + len(path)


def test_without_a_checkpoint_nothing_is_chosen() -> None:
    assert chosen("", "1:a<r@x") is None


def test_no_other_chain_reaches_further() -> None:
    """Against every path of random trees of records."""
    source = random.Random(20)
    for _ in range(300):
        links = [Link(1, "0", "r", frozenset("x"))]
        for number in range(1, source.randrange(2, 14)):
            above = source.choice(links)
            links.append(Link(above.txn + 1, str(number), above.chain, frozenset("x")))
        links = [link for link in links if source.random() < 0.9]
        known = {link.chain: link for link in links}
        bases = [Base(0, "r"), *(Base(link.txn, link.chain) for link in source.sample(links, min(len(links), 2)))]
        rooted = {base.chain for base in bases}
        reach = max(base.txn for base in bases)
        for link in links:
            at = link
            while at.prev in known and at.prev not in rooted:
                at = known[at.prev]
            if at.prev in rooted:
                reach = max(reach, link.txn)
        choice = choose(bases, links)
        assert choice is not None
        assert choice.txn == reach
        for before, after in zip([choice.base, *choice.links], choice.links, strict=False):
            assert (after.txn, after.prev) == (before.txn + 1, before.chain)


@pytest.mark.parametrize(
    ("read", "nodes", "copies", "is_enough"),
    [
        (1, 1, 1, True),
        (0, 1, 1, False),
        (2, 3, 2, True),
        (1, 3, 2, False),
        (1, 3, 3, True),
        (3, 3, 1, True),
        (2, 3, 1, False),
    ],
)
def test_enough_nodes_are_read_to_have_seen_every_acknowledged_record(
    read: int, nodes: int, copies: int, is_enough: bool
) -> None:
    assert enough(read, nodes, copies) is is_enough
