"""Web server access logs as rows; what is a line of them is said in `mr.kernels.access_log`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from mr.batch import Batch, with_kind
from mr.errors import PlanError
from mr.formats.base import Cut, Reader
from mr.formats.blocks import UNDECODABLE, is_utf8, needed, origins_of, record_blocks, whole_lines
from mr.kernels.access_log import TYPES, Mask, parse_line, parse_lines
from mr.kernels.lines import Offsets, line_bounds
from mr.task_context import counter

if TYPE_CHECKING:
    from mr.formats.base import Piece, Rejects

FORMATS = ("combined", "common")


@dataclass(frozen=True)
class AccessLogReader(Reader):
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
        for data, offset in record_blocks(piece, whole_lines):
            starts, ends = line_bounds(data)
            origins = origins_of(starts + offset, number)
            number += len(starts)
            parsed_data, parsed = self._parse(data, starts, ends, schema)
            if not parsed.all():
                bad = np.flatnonzero(~parsed)
                raws = [data[starts[i] : ends[i]] for i in bad.tolist()]
                rejects(origins[bad], raws, [f"not a line of the {self._title()} format"] * len(raws))
            if parsed_data.num_rows:
                yield Batch(parsed_data, origins[parsed] if track else None)

    def _title(self) -> str:
        return self.format if self.format in FORMATS else "given"

    def _parse(self, data: bytes, starts: Offsets, ends: Offsets, schema: pa.Schema) -> tuple[pa.RecordBatch, Mask]:
        if not is_utf8(data):  # replacing keeps newlines, so the lines stay the same ones
            bad = sum(not is_utf8(data[start:end]) for start, end in zip(starts.tolist(), ends.tolist(), strict=True))
            counter(UNDECODABLE).add(bad)
            data = data.decode(errors="replace").encode()
            starts, ends = line_bounds(data)
        if self.format in FORMATS:
            batch, parsed = parse_lines(data, starts, ends, self.format == "combined", schema.names)
            return batch.replace_schema_metadata(schema.metadata), parsed
        pattern = re.compile(self.format, re.ASCII)
        bounds = zip(starts.tolist(), ends.tolist(), strict=True)
        rows = [parse_line(data[start:end].decode(), pattern) for start, end in bounds]
        kept = [row for row in rows if row is not None]
        return pa.RecordBatch.from_pylist(kept, schema=schema), np.array([row is not None for row in rows], np.bool_)
