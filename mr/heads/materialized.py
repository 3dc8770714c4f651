"""The rows of run files as they lie: of materialized results, and of buckets whose rows were only dealt out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from msgspec.structs import replace

from mr.errors import FetchFailed
from mr.heads.exchanges import sources_of
from mr.options import MERGE_BLOCK_BYTES
from mr.scratch import used
from mr.shuffle.run_file import pieces
from mr.tasks import ExchangeInput, SourceFile, Split


def in_order(given: ExchangeInput, home: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a range of buckets in (producer, run, row) order."""
    low, high = given.buckets
    for source in sources_of(given, home):
        for span in source.index.spans(low, high):
            yield from map(source.cast, pieces(source.rows(span.run, span.start, span.stop), MERGE_BLOCK_BYTES))


def materialized(split: Split, home: Path) -> Iterator[pa.RecordBatch]:
    """The rows of one part of a materialized result. Raises FetchFailed.

    The failure names no producer: the task that wrote the file belongs to another run, and the session runs that again.
    """
    assert split.run is not None
    try:
        yield from in_order(split.run, home)
    except FetchFailed as error:
        raise FetchFailed(error.path, f"a materialized result is lost: {error.reason}") from None


def lost_files(part: ExchangeInput, home: Path, verify: bool) -> list[Path]:
    """The run files of a part that are gone; with `verify` also those that are damaged, which reads them."""
    return [home / file.path for file in part.files if not _whole(part, file, home, verify)]


def _whole(part: ExchangeInput, file: SourceFile, home: Path, verify: bool) -> bool:
    if not verify:
        return used(home / file.path)
    try:
        for _ in in_order(replace(part, files=(file,)), home):
            pass
    except FetchFailed:
        return False
    return True
