"""Which nodes hold a chunk: weighted rendezvous hashing. Pure.

Every node gets a score from (chunk, node) alone; the highest scores win. So all parties agree without a table, the
choice does not depend on the order of the nodes, and a node that joins or leaves moves only the chunks it gains or
loses.

Source: C. Schindelhauer, G. Schomaker, "Weighted Distributed Hash Tables", SPAA 2005 (the logarithmic method).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from blake3 import blake3
from msgspec import Struct

from dfs.ids import ChunkId


class PlacementNode(Struct, frozen=True):
    """A node that may hold chunks. `weight` is its share relative to the others (> 0); one that is `draining` takes no
    new chunks."""

    id: str
    weight: float = 1.0
    draining: bool = False


def place(chunk_id: ChunkId, nodes: Iterable[PlacementNode]) -> tuple[str, ...]:
    """All node ids, best first: the first `replicas` of them hold the chunk, and readers try them in this order.

    >>> order = place(ChunkId.of(b"x"), [PlacementNode("a"), PlacementNode("b"), PlacementNode("c")])
    >>> order == place(ChunkId.of(b"x"), [PlacementNode("c"), PlacementNode("b"), PlacementNode("a")])
    True
    """
    digest = chunk_id.digest
    return tuple(node.id for node in sorted(nodes, key=lambda node: (-_score(digest, node), node.id)))


def _score(digest: bytes, node: PlacementNode) -> float:
    draw = int.from_bytes(blake3(digest + node.id.encode()).digest(8), "big") >> 11  # 53 bits: exact as a float
    return -node.weight / math.log((draw + 0.5) / (1 << 53))
