"""Web server access logs as rows; what is a line of them is said in `mr.kernels.access_log`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from mr.batch import Batch, with_kind
from mr.errors import PlanError
from mr.formats.base import Cut, Reader
from mr.formats.blocks import (
    UNDECODABLE,
    Overlong,
    is_utf8,
    needed,
    origins_of,
    record_blocks,
    reject_too_long,
    whole_lines,
)
from mr.kernels.access_lines import ParsedLines, parse_lines
from mr.kernels.access_log import TYPES, parse_line
from mr.kernels.lines import line_bounds
from mr.task_context import counter

if TYPE_CHECKING:
    from mr.formats.base import Piece, Rejects

FORMATS = ("combined", "common")


class AccessLogReader(Reader, frozen=True):
    r"""Requests as rows: host, identity, user, time (UTC), method, url, protocol, status, bytes, referrer, agent.

    `format` is "combined", "common" (without the last two) or a regular expression with named groups that matches
    whole lines: groups named as above get the same types, `request` becomes method, url and protocol, others are str.
    Lines that do not match are rejects. Bytes that are not UTF-8 become U+FFFD, and are counted.

    Raises `PlanError` for a pattern that is none or has no named group.

    >>> AccessLogReader(r"(?P<host>\S+) (?P<status>\d+) (?P<ms>\d+)").schema().types[1:]
    [DataType(int64), DataType(large_string)]
    """

    format: str = "combined"
    cut: ClassVar[Cut] = "lines"

    def __post_init__(self) -> None:
        if self.format in FORMATS:
            return
        try:
            groups = re.compile(self.format, re.ASCII).groupindex
        except re.error as error:
            raise PlanError(f"format={self.format!r} is neither combined nor common, and no pattern: {error}") from None
        if not groups:
            raise PlanError(f"format={self.format!r} has no named group: use combined, common or (?P<host>...) ...")

    def schema(self) -> pa.Schema:
        if self.format in FORMATS:
            names = [name for name in TYPES if self.format == "combined" or name not in ("referrer", "agent")]
        else:
            names = []
            for group in re.compile(self.format, re.ASCII).groupindex:
                names += ["method", "url", "protocol"] if group == "request" else [group]
        return with_kind(pa.schema([(name, TYPES.get(name, pa.large_string())) for name in names]), "rows")

    def read(self, piece: Piece, rejects: Rejects, columns: tuple[str, ...] | None, track: bool) -> Iterator[Batch]:
        schema = self.schema()
        schema = with_kind(pa.schema([schema.field(name) for name in needed(schema, columns)]), "rows")
        number = 0

        def too_long(at: int, raw: bytes) -> None:
            nonlocal number
            reject_too_long(rejects, at, number, raw)
            number += 1

        for data, offset in record_blocks(piece, whole_lines, Overlong(too_long)):
            batch, parsed, starts, ends = self._parse(data, schema)
            if not parsed.all():
                bad = np.flatnonzero(~parsed)
                raws = [data[starts[i] : ends[i]] for i in bad.tolist()]
                origins = origins_of(starts + offset, number)[bad]
                rejects(origins, raws, [f"not a line of the {self._title()} format"] * len(raws))
            if batch.num_rows:
                yield Batch(batch, origins_of(starts + offset, number)[parsed] if track else None)
            number += len(starts)

    def _title(self) -> str:
        return self.format if self.format in FORMATS else "given"

    def _parse(self, data: bytes, schema: pa.Schema) -> ParsedLines:
        if not is_utf8(data):  # replacing keeps newlines, so the lines stay the same ones
            starts, ends = line_bounds(data)
            beyond_ascii = np.flatnonzero(np.frombuffer(data, np.uint8) >= 0x80)
            some = np.flatnonzero(np.diff(np.searchsorted(beyond_ascii, starts), append=len(beyond_ascii)))
            counter(UNDECODABLE).add(sum(not is_utf8(data[starts[i] : ends[i]]) for i in some.tolist()))
            mended = self._parse(data.decode(errors="replace").encode(), schema)
            return mended._replace(starts=starts, ends=ends)
        if self.format in FORMATS:
            found = parse_lines(data, self.format == "combined", schema.names)
            return found._replace(batch=found.batch.replace_schema_metadata(schema.metadata))
        pattern = re.compile(self.format, re.ASCII)
        starts, ends = line_bounds(data)
        bounds = zip(starts.tolist(), ends.tolist(), strict=True)
        rows = [parse_line(data[start:end].decode(), pattern) for start, end in bounds]
        batch = pa.RecordBatch.from_pylist([row for row in rows if row is not None], schema=schema)
        return ParsedLines(batch, np.array([row is not None for row in rows], np.bool_), starts, ends)
