"""Implementations of ChunkStore."""
