"""What every group of dataset methods stands on: a plan node, and how a further one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from mr.dataset.arguments import unknown
from mr.errors import PlanError
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

    def _other(self, other: Any, call: str) -> Node:
        """The node of another dataset. Raises PlanError for what is none."""
        if not isinstance(other, DatasetBase):
            kind = type(other).__name__
            raise PlanError(f"{call}: a Dataset is needed, not {kind}; mr.from_items() makes one of a list")
        return other._node

    def _with(self, node: Node) -> Dataset:
        return type(self)(node)  # type: ignore[return-value]

    def _apply(self, op: Any) -> Dataset:
        return self._with(Apply(op.shape(self._node.shape), self._node, op))
