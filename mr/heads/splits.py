"""The records of a split: its pieces through a reader, and what becomes of records that do not parse."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from mr.batch import Batch, Origins
from mr.errors import RecordError
from mr.formats.base import Reader
from mr.heads.reading import Reading
from mr.operators.base import TaskEnv, reject_rows
from mr.pieces import OpenedPiece
from mr.program import ReadHead
from mr.tasks import Split

PIECE_SHIFT = 40  # a record number is (piece << 40) + number in the piece


def read_split(
    head: ReadHead, split: Split, env: TaskEnv, reading: Reading, reject: Callable[[pa.RecordBatch], None]
) -> Iterator[Batch]:
    """The records of a split; those that do not parse go to `reject`, or fail the task, as the policy says."""
    policy = head.on_error
    for number, ref in enumerate(split.pieces):
        piece, before = OpenedPiece(ref, head.counts_lines), reading.bytes
        shift = number << PIECE_SHIFT

        def rejects(origins: Origins, raws: list[bytes], errors: list[str], shift: int = shift) -> None:
            origins = origins + np.array([0, shift], dtype=np.int64)
            if policy.on_error == "fail":
                shown = raws[0][:200].decode("utf-8", "backslashreplace")
                raise RecordError(f"cannot parse{env.where(origins, 0)}: {errors[0]}: {shown}", 0)
            env.count("rejected records", len(raws))
            reading.records += len(raws)
            if policy.on_error == "quarantine":
                texts = [raw.decode("utf-8", "backslashreplace") for raw in raws]
                rows = np.arange(len(raws), dtype=np.int64)
                reject(reject_rows(origins, rows, call_of(head.reader), errors, texts))

        for batch in head.reader.read(piece, rejects, head.columns, head.track):
            if batch.origins is not None and shift:
                batch = Batch(batch.data, batch.origins + np.array([0, shift], dtype=np.int64))
            reading.records += batch.rows
            reading.bytes = before + piece.consumed
            yield batch
        piece.check_unchanged()
        reading.bytes = before + ref.length
        reading.piece_lines.append(piece.lines)  # what the line numbers of the file's next piece start from


def call_of(reader: Reader) -> str:
    """The function that made a reader, as users know it.

    >>> from mr.formats.text import TextReader
    >>> call_of(TextReader())
    'read_text'
    """
    words = re.findall("[A-Z][a-z]*", type(reader).__name__.removesuffix("Reader"))
    return "_".join(["read", *words]).lower()
