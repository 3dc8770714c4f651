"""Test kit of the store: the conformance suite of ChunkStore, ways to do damage, a disk that forgets and fails. Product
code never imports it."""

from dfs.testing.chunk_stores import check_chunk_store
from dfs.testing.damage import Damage, damage_local
from dfs.testing.fault_disk import FaultDisk, PowerCut

__all__ = ["Damage", "FaultDisk", "PowerCut", "check_chunk_store", "damage_local"]
