"""What sizes that are known before anything runs decide: how many bytes a dataset is made of, how many buckets it gets.

Pure: sizes come from a function that is given. Nothing here looks at memory or at the cluster.
"""

from __future__ import annotations

from collections.abc import Callable

from mr.options import BUCKET_CLASSES
from mr.plan import Apply, Items, Materialized, Node, Read, walk

SizeOf = Callable[[Read], int | None]
"""The bytes that a read will read, as they are stored; None where nobody knows."""


def known_size(node: Node, size_of: SizeOf) -> int | None:
    """Bytes of a side that is read from files or memory and only mapped since."""
    match node:
        case Read():
            return size_of(node)
        case Items():
            return max(int(node.data.nbytes), node.made_bytes)
        case Materialized():
            return sum(part.bytes for part in node.parts)
        case Apply():
            return known_size(node.input, size_of)
    return None


def source_bytes(nodes: tuple[Node, ...], size_of: SizeOf) -> int:
    """The bytes of all sources that `nodes` are made of, each counted once; what nobody knows counts for nothing."""
    sources = (node for node in walk(nodes) if isinstance(node, Read | Items | Materialized))
    return sum(known_size(source, size_of) or 0 for source in sources)


def bucket_count(size: int) -> int:
    """The hash buckets of a shuffle whose input is made of `size` bytes of sources.

    A coarse class, so that growth hardly ever moves a key: an input that grows past a bound computes its groupings and
    joins anew, once.

    >>> bucket_count(1 << 30), bucket_count(65 << 30), bucket_count(5 << 40)
    (256, 4096, 65536)
    """
    return max(count for above, count in BUCKET_CLASSES if size > above)


__all__ = ["SizeOf", "bucket_count", "known_size", "source_bytes"]
