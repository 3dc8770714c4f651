"""Rejected records, their positions turned into path, offset and line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mr.heads.exchanges import CastSource, schema_of
from mr.heads.splits import PIECE_SHIFT, WHOLE_PIECE
from mr.operators.base import REJECTED
from mr.tasks import ExchangeInput

RESOLVED = pa.schema(
    [
        ("path", pa.large_string()),
        ("offset", pa.int64()),
        ("line", pa.int64()),
        ("operator", pa.large_string()),
        ("error", pa.large_string()),
        ("raw", pa.large_binary()),
    ]
)
"""Rejected records as the user sees them: `offset` in bytes from 0, `line` from 1; null where they mean nothing."""


def resolved(given: ExchangeInput, home: Path) -> Iterator[pa.RecordBatch]:
    """All rejected records of an exchange as `RESOLVED` rows."""
    yield pa.RecordBatch.from_pylist([], schema=RESOLVED)
    schema = schema_of(given)
    for file, place in zip(given.files, given.places, strict=True):
        pieces = place.pieces or (("", 0, 0),)
        paths = pa.array([path or None for path, _, _ in pieces], pa.large_string())
        offsets = np.array([offset for _, offset, _ in pieces], dtype=np.int64)
        lines = np.array([line for _, _, line in pieces], dtype=np.int64)
        source = CastSource(home, file, schema if len(schema) else REJECTED)
        for segment in source.index.segments:
            for batch in source.batches(segment):
                offset, line = batch.column("offset").to_numpy(), batch.column("line").to_numpy()
                known = offset >= 0
                piece = np.where(known, line >> PIECE_SHIFT, 0)
                number = line & WHOLE_PIECE
                columns = [
                    pc.if_else(pa.array(known), paths.take(pa.array(piece)), pa.scalar(None, pa.large_string())),
                    pa.array(offset + offsets[piece], mask=~known),
                    pa.array(number + lines[piece] + 1, mask=~known | (number == WHOLE_PIECE)),
                    *(batch.column(name) for name in ("operator", "error", "raw")),
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=RESOLVED)
