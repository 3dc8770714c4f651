"""Test kit of the store: the conformance suite of ChunkStore, ways to do damage. Product code never imports it."""

from dfs.testing.chunk_stores import check_chunk_store
from dfs.testing.damage import Damage, damage_local

__all__ = ["Damage", "check_chunk_store", "damage_local"]
