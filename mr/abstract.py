"""What operators, aggregates, readers and writers are made of: values with methods that subclasses must have."""

from __future__ import annotations

from abc import ABCMeta

from msgspec import Struct, StructMeta


class _AbstractMeta(StructMeta, ABCMeta):
    """A metaclass for both, as Python asks for."""


class AbstractStruct(Struct, metaclass=_AbstractMeta, frozen=True):
    """A `Struct` that may have abstract methods: what lacks one of them cannot be made."""
