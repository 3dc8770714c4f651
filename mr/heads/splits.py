"""The records of a split: its pieces through a reader, and what becomes of records that do not parse."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import numpy as np
from msgspec import Struct

from mr.batch import Batch, Origins
from mr.errors import CorruptInput, MillraceError, RecordError, RecordPlace
from mr.formats.base import Reader
from mr.heads.reading import Reading
from mr.operators.base import TaskEnv, reject_rows
from mr.pieces import OpenedPiece
from mr.program import ReadHead
from mr.tasks import PieceRef, Split

PIECE_SHIFT: Final = 40  # a record number is (piece << 40) + number in the piece
WHOLE_PIECE: Final = (1 << PIECE_SHIFT) - 1
"""Stands for the record number of a reject that is no record, but the rest of a damaged file."""


class _Rejecting(Struct):
    """What becomes of the records of one piece that do not parse (a `formats.base.Rejects`)."""

    head: ReadHead
    env: TaskEnv
    reading: Reading
    shift: int  # what the piece's number adds to record numbers

    def __call__(self, origins: Origins, raws: list[bytes], errors: list[str]) -> None:
        origins = origins + np.array([0, self.shift], dtype=np.int64)
        policy = self.head.on_error
        if policy.on_error == "fail":
            shown = raws[0][:200].decode("utf-8", "backslashreplace")
            raise RecordError(f"cannot parse{self.env.where(origins, 0)}: {errors[0]}: {shown}", 0)
        self.reading.records += len(raws)
        rows = np.arange(len(raws), dtype=np.int64)
        self.env.reject(reject_rows(origins, rows, call_of(self.head.reader), errors, raws))

    def rest(self, damage: CorruptInput) -> None:
        """The rest of the piece cannot be read; what came before it stays."""
        if self.head.on_error.on_error == "fail":
            raise damage
        self.env.count("damaged files", 1)
        self(np.array([[damage.offset, WHOLE_PIECE]], dtype=np.int64), [b""], [damage.reason])


def read_split(head: ReadHead, split: Split, env: TaskEnv, reading: Reading) -> Iterator[Batch]:
    """The records of a split; those that do not parse are left out, or fail the task, as the policy says."""
    for number, ref in enumerate(split.pieces):
        piece, before = OpenedPiece(ref, head.counts_lines), reading.bytes
        shift = number << PIECE_SHIFT
        rejects = _Rejecting(head, env, reading, shift)
        try:
            for batch in head.reader.read(piece, rejects, head.columns, head.track):
                reading.bytes = before + piece.consumed
                records = batch.renumbered(shift)
                try:
                    yield records
                finally:  # lines are counted for nothing once they are cut
                    reading.records += records.rows
        except CorruptInput as damage:
            piece.check_unchanged()  # what was changed under us is no damage
            rejects.rest(damage)
            piece = _read_over(ref, head.counts_lines)
        piece.check_unchanged()
        reading.bytes = before + ref.length
        reading.piece_lines.append(piece.lines)  # what the line numbers of the file's next piece start from


def _read_over(ref: PieceRef, counts_lines: bool) -> OpenedPiece:
    """A piece whose lines are counted although it was not read to its end; a compressed one is its file's only one."""
    piece = OpenedPiece(ref, counts_lines)
    if counts_lines and ref.compression is None:
        for _ in piece.blocks(1 << 22):
            pass
    return piece


def place_of(split: Split, offset: int, line: int) -> RecordPlace:
    """Where a record lies whose origin in the split is (offset, line); counts the lines before its piece."""
    piece, number = split.pieces[line >> PIECE_SHIFT], (line & WHOLE_PIECE) + 1
    base = 0 if piece.compression else piece.offset
    known = None if number > WHOLE_PIECE else number if base == 0 else _line_at(piece.path, base, number)
    return RecordPlace(piece.path, base + offset, known)


def _line_at(path: str, base: int, number: int) -> int | None:
    """The line number in the file of line `number` of a piece that begins at byte `base`: counts what lies before."""
    if "://" in path:
        return None
    with suppress(MillraceError, OSError):
        before = OpenedPiece(PieceRef(path, 0, base))
        return number + sum(block.count(b"\n") for block in before.blocks(1 << 22))
    return None


def call_of(reader: Reader) -> str:
    """The function that made a reader, as users know it.

    >>> from mr.formats.text import TextReader
    >>> call_of(TextReader())
    'read_text'
    """
    words = re.findall("[A-Z][a-z]*", type(reader).__name__.removesuffix("Reader"))
    return "_".join(["read", *words]).lower()
