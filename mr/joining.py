"""What is decided about joins: which columns they need, which strategy, which partitions fit, which keys are hot. Pure.

Sizes that are known before anything runs choose between broadcast and sort-merge; nothing here looks at memory or at
the cluster, so a plan gives the same rows in the same order wherever it runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import pyarrow as pa
from msgspec import Struct
from msgspec.structs import replace

from mr.kernels.joined import JoinLayout
from mr.kernels.keys import buckets, codes, leaves
from mr.kernels.rows import Shape
from mr.kernels.skew import ROWS, merged_keys
from mr.kernels.sort import SortedKeys
from mr.operators.base import Narrow
from mr.operators.columns import FilterExpr, Select, WithColumns
from mr.operators.grouped import AggregateBy, Distinct, TopByKey
from mr.operators.joins import layout_of
from mr.operators.ordered import AggregateOrdered
from mr.options import BROADCAST_BYTES_MAX, HOT_JOIN_ROWS, REDUCE_RANGE_BYTES_MAX
from mr.plan import Apply, GroupBy, Join, Materialized, Node, Repartition, Sort, walk
from mr.sizing import SizeOf, known_size
from mr.tasks import ExchangeInput

KEEPS_KEYS = (AggregateBy, AggregateOrdered, Distinct, TopByKey)
"""Groupings whose result has the key columns as they were."""

Needs = dict[int, frozenset[str] | None]
"""By id of a node, the columns that anything behind it looks at; None: all."""

ALIKE: Final = "both sides are partitioned alike by the keys"


def needs_of(roots: tuple[Node, ...]) -> Needs:
    """The columns of every node that are looked at, for joins to leave the others behind."""
    needs: Needs = {id(root): None for root in roots}
    for node in reversed(list(walk(roots))):
        wanted = needs[id(node)]
        for below, columns in _looked_at(node, wanted):
            known = needs.get(id(below), frozenset())
            needs[id(below)] = None if known is None or columns is None else known | columns
    return needs


def _looked_at(node: Node, wanted: frozenset[str] | None) -> Iterable[tuple[Node, frozenset[str] | None]]:
    """The inputs of `node` and what it looks at in each, given what is looked at of its result."""
    match node:
        case Apply(input=below, op=Select(exprs)):
            return [(below, _roots(exprs))]
        case Apply(input=below, op=WithColumns(exprs)) if wanted is not None:
            return [(below, (wanted - {e.meta.output_name() for e in exprs}) | _roots(exprs))]
        case Apply(input=below, op=FilterExpr(expr)) if wanted is not None:
            return [(below, wanted | _roots([expr]))]
        case Sort(input=below, by=by) if wanted is not None:
            return [(below, wanted | set(by))]
        case Join(left=left, right=right):
            layout, columns = trimmed(node, wanted)
            mine = None if columns is None else frozenset(columns)
            return [(left, mine), (right, frozenset(layout.right_columns))]
    return [(below, None) for below in node.inputs]


def _roots(exprs: Iterable[object]) -> frozenset[str]:
    return frozenset(name for e in exprs for name in e.meta.root_names())  # type: ignore[attr-defined]


def trimmed(join: Join, wanted: frozenset[str] | None) -> tuple[JoinLayout, tuple[str, ...] | None]:
    """The layout of a join with only the columns that are wanted of it, and those of the left (None: all of them).

    Names are those that the whole join would give: a column that is not wanted still takes its name.
    """
    left, right = join.left.known(), join.right.known()
    layout = layout_of(left, right, join.left_on, join.right_on, join.how, join.suffix)
    if wanted is None:
        return layout, None
    theirs = tuple((source, name) for source, name in layout.right if name in wanted)
    mine = tuple(name for name in left.names if name in wanted)
    if not mine and not theirs:
        mine = join.left_on[:1]  # a batch without columns would not know its number of rows
    columns = tuple(name for name in left.names if name in mine or name in join.left_on)
    return replace(layout, right=theirs, left=mine), columns


def partitioning_of(node: Node) -> tuple[tuple[str, ...], int] | None:
    """The columns by whose hash the tasks of `node` hold its rows, and their number; None where they are not fixed."""
    match node:
        case Materialized():
            return (node.keys, len(node.parts)) if node.keys else None
        case Repartition():
            return (node.by, node.partitions) if node.by else None
        case GroupBy(partitions=int(count), partitioner=None):
            return (node.op.keys, count) if isinstance(node.op, KEEPS_KEYS) and node.op.keys else None
        case Apply(op=FilterExpr()):
            return partitioning_of(node.input)
        case Apply(op=Select() | WithColumns() as op):
            found = partitioning_of(node.input)
            return found if found is not None and untouched(op, found[0]) else None
        case Join():
            return _of_join(node)
    return None


def untouched(op: Select | WithColumns, keys: Sequence[str]) -> bool:
    """Whether the columns `keys` come out as they went in."""
    made = {e.meta.output_name(): e for e in op.exprs}
    same = [key for key, e in made.items() if e.meta.is_column() and e.meta.undo_aliases().meta.output_name() == key]
    kept = (lambda key: key in same) if isinstance(op, Select) else (lambda key: key not in made or key in same)
    return all(map(kept, keys))


def _of_join(node: Join) -> tuple[tuple[str, ...], int] | None:
    if node.strategy == "sort_merge":
        return None if node.partitions is None else (node.left_on, node.partitions)
    return partitioning_of(node.left) if node.strategy != "broadcast" and alike(node) == "" else None


def alike(node: Join) -> str:
    """Why the sides of a join are not partitioned alike; "" if they are.

    They are where a `materialize()` left each by the hash of its join columns in as many parts as the other.
    """
    sides = []
    for name, side, on in (("left", node.left, node.left_on), ("right", node.right, node.right_on)):
        found = partitioning_of(side) if _lies(side) else None
        if found is None:
            return f"the {name} side is not a materialized dataset that keeps its partitioning"
        if found[0] != on:
            return f"the {name} side is partitioned by {', '.join(found[0])}, not by {', '.join(on)}"
        sides.append(found[1])
    if sides[0] != sides[1]:
        return f"the left side has {sides[0]} partitions, the right side {sides[1]}"
    types = [_key_types(side.known(), on) for side, on in ((node.left, node.left_on), (node.right, node.right_on))]
    return "" if types[0] == types[1] else "the types of the keys are not known to be the same"


def lying(node: Node) -> tuple[Materialized, tuple[Narrow, ...]]:
    """The materialized rows below `node`, and what was applied to them since. Requires: `partitioning_of` knows it."""
    ops: list[Narrow] = []
    while isinstance(node, Apply):
        ops.insert(0, node.op)
        node = node.input
    assert isinstance(node, Materialized)
    return node, tuple(ops)


def _lies(node: Node) -> bool:
    return _lies(node.input) if isinstance(node, Apply) else isinstance(node, Materialized)


def _key_types(shape: Shape, on: Sequence[str]) -> list[object]:
    types = dict(zip(shape.names, shape.types, strict=True))
    return [types[name] for name in on]


def choose(node: Join, size_of: SizeOf, waits: bool, beside: int) -> tuple[str, str]:
    """The strategy of a join that is not partitioned, and why.

    `waits`: what makes the left makes the right, too. `beside`: bytes that are broadcast to the stage of the left
    already: a worker holds the sides of all its joins at a time.
    """
    if node.strategy == "sort_merge":
        return "sort_merge", "asked for"
    if waits:
        return "sort_merge", "the right side is made by the stage that makes the left"
    if node.strategy == "broadcast":
        return "broadcast", "asked for"
    if node.how in ("right", "full"):
        return "sort_merge", f"a {node.how} join must see all of the left to know which right rows match nothing"
    size = known_size(node.right, size_of)
    if size is None:
        return "sort_merge", "the size of the right side is not known before it runs"
    sizes = f"{size:,} bytes" + (f", other sides of the stage {beside:,}" if beside else "")
    if size + beside <= BROADCAST_BYTES_MAX:
        return "broadcast", f"the right side has {sizes}, at most {BROADCAST_BYTES_MAX:,}"
    return "sort_merge", f"the right side has {sizes}, more than {BROADCAST_BYTES_MAX:,}"


# --- hot keys --------------------------------------------------------------------------------------------------------


class HotKey(Struct, frozen=True):
    """A key with so many matches that tasks share its left rows: each has all of its right rows."""

    bucket: int
    key: pa.RecordBatch
    matches: int

    @property
    def tasks(self) -> int:
        """How many tasks its matches are worth."""
        return -(-self.matches // HOT_JOIN_ROWS)


def hot_keys(
    left: Sequence[pa.RecordBatch],
    right: Sequence[pa.RecordBatch],
    left_on: Sequence[str],
    right_on: Sequence[str],
    total: int,
) -> list[HotKey]:
    """The keys to split, in (bucket of `total`, key) order, from the frequent keys of all map tasks of both sides.

    Only keys known to be on the left: a task without left rows of its key could not tell whether others have some.
    """
    if not left:
        return []
    mine = merged_keys(left, left_on)
    renamed = [keys.rename_columns([*left_on, ROWS]).cast(mine.schema) for keys in right]
    theirs = merged_keys(renamed, left_on) if right else mine.slice(0, 0)
    numbers, _ = codes(pa.concat_batches([mine, theirs]), left_on)
    many = dict(zip(numbers[mine.num_rows :].tolist(), theirs.column(ROWS).to_pylist(), strict=True))
    found = []
    for row, rows in enumerate(mine.column(ROWS).to_pylist()):
        key = mine.select(list(left_on)).slice(row, 1)
        matches = rows * many.get(int(numbers[row]), 1)
        null = any(leaf.nulls is not None and leaf.nulls.any() for leaf in leaves(key, left_on))  # also within tuples
        if matches >= 2 * HOT_JOIN_ROWS and not null:
            found.append(HotKey(int(buckets(key, left_on, total)[0]), key, matches))
    return sorted(found, key=lambda hot: (hot.bucket, SortedKeys(hot.key, left_on).at(0)))


def isolated(ranges: Sequence[tuple[int, int]], hot: Iterable[int]) -> list[tuple[int, int]]:
    """The ranges of buckets with each hot bucket in one of its own.

    >>> isolated([(0, 4), (4, 8)], [1])
    [(0, 1), (1, 2), (2, 4), (4, 8)]
    """
    cuts = {bound for bucket in hot for bound in (bucket, bucket + 1)} | {bound for pair in ranges for bound in pair}
    return list(pairwise(sorted(cuts)))


def shares(sizes: Sequence[int], parts: int) -> list[tuple[int, int]]:
    """Consecutive items in at most so many ranges of about equal size, none without items.

    >>> shares([5, 1, 1, 5], 2)
    [(0, 2), (2, 4)]
    """
    total, done, start = max(1, sum(sizes)), 0, 0
    found: list[tuple[int, int]] = []
    for i, size in enumerate(sizes):
        done += size
        if done * parts >= total * (len(found) + 1) or i == len(sizes) - 1:
            found.append((start, i + 1))
            start = i + 1
    return found


def skew_notes(tasks: Iterable[Sequence[ExchangeInput]]) -> tuple[str, ...]:
    """What was done about skew in a stage, given what each of its tasks reads, for people."""
    split: Counter[bytes] = Counter()
    notes = []
    for exchanges in tasks:
        first, size = exchanges[0], sum(given.bytes for given in exchanges)
        low, high = first.buckets
        if first.spans:
            continue
        if first.lower is not None and first.upper is not None and first.lower.key == first.upper.key:
            split[first.lower.key] += 1
        elif high - low == 1 and size > 2 * REDUCE_RANGE_BYTES_MAX and first.lower is None and first.upper is None:
            notes.append(f"bucket {low} has {size:,} bytes, mostly of few keys: a task of its own streams it")
    for key, parts in split.items():
        columns = pa.ipc.open_stream(key).read_next_batch().columns
        values = ", ".join(repr(column[0].as_py()) for column in columns)
        notes.append(f"hot key {values[:80]}: its rows on the left are split over {parts} tasks")
    return tuple(notes)
