"""Dataset: what users chain. Lazy: every method returns a new plan, only actions run one.

Column arguments are names or Polars expressions; a callable is a Python function. All that can be checked before
anything runs is checked here, and the message names the call. The methods are grouped by what they do: `records`,
`columns`, `order`, `partitions`, `keyed`, `joins`, and `actions`, which end a chain; `grouped` is what `group_by`
returns.
"""

from __future__ import annotations

from mr.dataset.actions import Actions
from mr.dataset.grouped import GroupedDataset
from mr.dataset.joins import Joins
from mr.dataset.keyed import Keyed
from mr.dataset.order import Order
from mr.dataset.partitions import Partitions


class Dataset(Keyed, Joins, Order, Partitions, Actions):
    """A lazy collection of records: of plain *values*, or of *rows* with named columns.

    Made by `mr.read_text` and the other readers, or `mr.from_items`. Records keep their input order until a shuffle.

    >>> import mr
    >>> mr.from_items(["a b"]).flat_map(str.split).take_all()
    ['a', 'b']
    """


__all__ = ["Dataset", "GroupedDataset"]
