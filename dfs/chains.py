"""Which checkpoint to begin with, which records of the log to apply, and whether enough nodes were read. Pure
(docs/formats/checkpoint.md, "Rebuilding from nodes").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct


class Link(Struct, frozen=True):
    """A valid record of the log: `chain` is the hash of it and, through `prev`, of all before; `nodes` hold it."""

    txn: int
    chain: str
    prev: str
    nodes: frozenset[str]


class Base(Struct, frozen=True):
    """A checkpoint to begin with."""

    txn: int
    chain: str


class Choice(Struct, frozen=True):
    """Begin with `base` and apply `links`. `aside` are records of other branches, or beyond a hole (`beyond`)."""

    base: Base
    links: tuple[Link, ...]
    aside: tuple[Link, ...]
    beyond: tuple[Link, ...]

    @property
    def txn(self) -> int:
        """Where it ends."""
        return self.base.txn + len(self.links)


def choose(bases: Iterable[Base], links: Iterable[Link]) -> Choice | None:
    """The chain that reaches furthest, from the newest base that lies on it; None without a base.

    Of two branches that reach equally far the one whose first record is on more nodes is taken.

    >>> one, two = Link(1, "b", "a", frozenset("x")), Link(2, "c", "b", frozenset("y"))
    >>> choose([Base(0, "a")], [one, two]).txn, choose([Base(0, "a"), Base(1, "b")], [one, two]).base.txn
    (2, 1)
    """
    links = sorted(links, key=lambda link: (link.txn, link.chain))
    after: dict[str, list[Link]] = {}
    for link in links:
        after.setdefault(link.prev, []).append(link)
    best: dict[str, tuple[int, Link | None]] = {}  # chain -> (how far it reaches, the next link)
    for link in reversed(links):
        best[link.chain] = _follow(link.txn, link.chain, after, best)

    def rank(base: Base) -> tuple[int, int, str]:
        return _follow(base.txn, base.chain, after, best)[0], base.txn, base.chain

    base = max(bases, key=rank, default=None)
    if base is None:
        return None
    path = []
    _, following = _follow(base.txn, base.chain, after, best)
    while following is not None:
        path.append(following)
        _, following = best[following.chain]
    known = _history(base, {link.chain: link for link in links}) | {link.chain for link in path}
    first = min(link.txn for link in links if link.chain in known) if known & best.keys() else base.txn
    aside = tuple(link for link in links if link.chain not in known and link.txn >= first)
    end = base.txn + len(path)
    return Choice(base, tuple(path), aside, tuple(link for link in aside if link.txn > end))


def _follow(
    txn: int, chain: str, after: Mapping[str, Sequence[Link]], best: Mapping[str, tuple[int, Link | None]]
) -> tuple[int, Link | None]:
    """How far the chain goes on from here, and by which link."""
    nexts = [link for link in after.get(chain, ()) if link.txn == txn + 1]
    if not nexts:
        return txn, None
    link = max(nexts, key=lambda link: (best[link.chain][0], len(link.nodes), link.chain))
    return best[link.chain][0], link


def _history(base: Base, links: Mapping[str, Link]) -> set[str]:
    """Chains of the base and of what is known before it."""
    known, chain = {base.chain}, base.chain
    while chain in links:
        chain = links[chain].prev
        known.add(chain)
    return known


def enough(nodes_read: int, nodes: int, copies: int) -> bool:
    """Whether one of any `copies` nodes was read: then no acknowledged record can have been missed.

    >>> enough(2, 3, 2), enough(1, 3, 2), enough(1, 1, 1)
    (True, False, True)
    """
    return nodes_read > nodes - copies
