"""What every group of dataset methods stands on: a plan node, and how a further one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from mr.dataset.arguments import unknown
from mr.plan import Apply, Node

if TYPE_CHECKING:
    from mr.dataset import Dataset


class DatasetBase:
    """Base of the groups of methods that together are `Dataset`."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def __getattr__(self, name: str) -> NoReturn:
        unknown(self, name)

    def __iter__(self) -> NoReturn:
        raise TypeError("a Dataset is not iterated over; use take_all() or take(n) for its records")

    def _with(self, node: Node) -> Dataset:
        return type(self)(node)  # type: ignore[return-value]

    def _apply(self, op: Any) -> Dataset:
        return self._with(Apply(op.shape(self._node.shape), self._node, op))
