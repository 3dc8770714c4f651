"""What order a plan asks for twice, or in vain: a sort before a grouping, a sort or grouping of what is grouped. Pure.

Every keyed stage keeps rows of equal keys in input order, and a sort leaves ties in input order. So a sort by some of
the keys changes nothing of a grouping: neither its order, which is that of buckets, nor that within a group. And what
has one row for each key can be put in the order of the keys while it is grouped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from mr.joining import untouched
from mr.operators.columns import FilterExpr, Select, WithColumns
from mr.operators.grouped import AggregateBy, Distinct
from mr.plan import Apply, GroupBy, Node, Repartition, Sort, walk

ONE_ROW_A_KEY = (AggregateBy, Distinct)
"""Groupings that leave one row for each key, whose rows may come to them in any order of keys."""

Uses = Mapping[int, int]
"""By id of a node, how many others read it."""


def uses_of(roots: tuple[Node, ...]) -> Uses:
    """How often each node of a plan is read."""
    return Counter(id(below) for node in walk(roots) for below in node.inputs)


def without_order(node: Node, keys: Sequence[str]) -> tuple[Node, tuple[str, ...]]:
    """`node` without sorts and repartitions by some of the columns `keys`, and what each that is left out was called.

    For what is shuffled by `keys`: rows of equal keys come in the same order without. Looks through expressions that
    leave these columns as they are.
    """
    match node:
        case Sort(input=below, by=by) | Repartition(input=below, by=by) if by and set(by) <= set(keys):
            kept, out = without_order(below, keys)
            name = "sort" if isinstance(node, Sort) else "repartition"
            return kept, (f"{name}({', '.join(by)})", *out)
        case Apply(input=below, op=op) if _is_row_wise(op, keys):
            kept, out = without_order(below, keys)
            return (replace(node, input=kept) if out else node), out
    return node, ()


def _is_row_wise(op: object, keys: Sequence[str]) -> bool:
    """Whether an operator looks at one row at a time and leaves the columns `keys` as they are."""
    return isinstance(op, FilterExpr) or (isinstance(op, Select | WithColumns) and untouched(op, keys))


class SortedGroups(Struct, frozen=True):
    """A grouping, expressions applied to its result, the first one first, and the keys in the order that is wanted."""

    group: GroupBy
    between: tuple[Apply, ...]
    by: tuple[str, ...]
    descending: tuple[bool, ...]


def sorted_groups(node: Sort, uses: Uses) -> SortedGroups | None:
    """The grouping whose result `node` sorts by its keys; None if there is none, or if somebody else reads the result.

    Behind all keys there may be more columns: there are no ties left that they could break.
    """
    between: list[Apply] = []
    below = node.input
    while isinstance(below, Apply) and uses[id(below)] == 1 and _is_row_wise(below.op, node.by):
        between.insert(0, below)
        below = below.input
    if not isinstance(below, GroupBy) or uses[id(below)] > 1 or not isinstance(below.op, ONE_ROW_A_KEY):
        return None
    keys = below.op.keys
    fixed = below.partitions is not None or below.partitioner is not None
    if fixed or not keys or set(node.by[: len(keys)]) != set(keys):
        return None
    return SortedGroups(below, tuple(between), node.by[: len(keys)], node.descending[: len(keys)])


def has_one_row_a_key(node: Node, keys: Sequence[str], partitions: int | None) -> bool:
    """Whether the tasks of `node` hold one row for each value of `keys`, in the order and the buckets that a shuffle by
    them into `partitions` would give."""
    while isinstance(node, Apply) and _is_row_wise(node.op, keys):
        node = node.input
    if not isinstance(node, GroupBy) or not isinstance(node.op, ONE_ROW_A_KEY):
        return False
    return node.op.keys == tuple(keys) and node.partitions == partitions and node.partitioner is None


__all__ = ["SortedGroups", "Uses", "has_one_row_a_key", "sorted_groups", "uses_of", "without_order"]
