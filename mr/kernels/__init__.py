"""Vectorised inner loops over Arrow columns: no I/O, nothing of the engine but values."""
