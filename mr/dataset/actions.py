"""Actions: the dataset methods that run a plan, and those that declare or write an output."""

from __future__ import annotations

import html
import os
from typing import Any

import polars as pl
import pyarrow as pa

from mr.aggregates import count
from mr.dataset.base import DatasetBase
from mr.errors import PlanError
from mr.explain import explain_graph
from mr.formats.base import Writer
from mr.formats.csv import CsvWriter
from mr.formats.jsonl import JsonWriter
from mr.formats.parquet import ParquetWriter
from mr.formats.text import TextWriter
from mr.kernels.frames import to_polars
from mr.kernels.rows import to_python
from mr.operators.base import rows_shape
from mr.operators.batches import LimitRows
from mr.operators.grouped import AggregateBy
from mr.plan import Collect, First, GroupBy, Mode, Node, Write
from mr.session import current


def first_rows(node: Node, n: int) -> First:
    """The first `n` records of `node` in input order."""
    return First(node.shape, node, n, LimitRows(n), early=True)


class Actions(DatasetBase):
    """Base of `Dataset`: what ends a chain."""

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.explain())}</pre>"

    def take_all(self) -> list[Any]:
        """All records, in order: Python values, or `Row`s. Runs the plan.

        >>> import mr
        >>> mr.from_items(["a", "b"]).take_all()
        ['a', 'b']
        """
        return to_python(current().collect(self._node))

    def take(self, n: int = 20) -> list[Any]:
        """The first `n` records; reads no more of the input than it needs.

        >>> import mr
        >>> mr.from_items(range(100)).take(2)
        [0, 1]
        """
        return to_python(current().collect(first_rows(self._node, n)))

    def first(self) -> Any:
        """The first record, or None if there is none.

        >>> import mr
        >>> mr.from_items([]).first() is None
        True
        """
        return next(iter(self.take(1)), None)

    def count(self) -> int:
        """The number of records. Runs the plan.

        >>> import mr
        >>> mr.from_items(range(7)).count()
        7
        """
        op = AggregateBy((), (("n", count()),))
        total = GroupBy(op.shape(rows_shape((), ())), self._node, op)
        return int(current().collect(total).column("n")[0].as_py())

    def schema(self) -> pa.Schema:
        """Names and types of the columns (Arrow types); runs the plan for one record where only that tells.

        >>> import mr
        >>> mr.from_items([("a", 1)]).schema().names
        ['key', 'value']
        """
        shape = self._node.shape
        known = None if shape is None else shape.schema()
        return known if known is not None else current().collect(first_rows(self._node, 1)).schema

    def show(self, n: int = 20) -> None:
        """Print the first `n` records as a table.

        >>> import mr
        >>> mr.from_items([1]).show()
        shape: (1, 1)
        ┌───────┐
        │ value │
        │ ---   │
        │ i64   │
        ╞═══════╡
        │ 1     │
        └───────┘
        """
        with pl.Config(tbl_rows=n, tbl_cols=-1, fmt_str_lengths=80):
            print(to_polars(current().collect(first_rows(self._node, n))))

    def explain(self) -> str:
        """The stages that the plan compiles to, as text. Runs nothing.

        >>> import mr
        >>> print(mr.from_items([1]).map(str).explain().splitlines()[0])
        stage 0: items > map
        """
        return explain_graph(current().compile((Collect(self._node.shape, self._node),)))

    # --- outputs -----------------------------------------------------------------------------------------------------

    def write_parquet(self, path: str, *, mode: Mode | None = None) -> Any:
        """Write Parquet: one file if `path` ends in .parquet, else a folder of part-00000.parquet and so on.

        Inside a job function this declares an output, which must be returned; outside it runs at once and returns a
        `JobResult`. `mode`: "error" (default) refuses what exists, "overwrite" replaces it, "append" adds parts.

        >>> import mr, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mr.from_items([1, 2]).write_parquet(folder + "/out.parquet").outputs["out"].rows
        2
        """
        return self._write(path, ParquetWriter(), mode)

    def write_csv(self, path: str, *, mode: Mode | None = None) -> Any:
        """Write CSV with a header; nested columns are refused. Otherwise as `write_parquet`, for .csv.

        >>> import mr, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = mr.from_items([("a", 1)]).write_csv(folder + "/out.csv")
        ...     open(folder + "/out.csv").read()
        'key,value\\na,1\\n'
        """
        return self._write(path, CsvWriter(), mode)

    def write_json(self, path: str, *, mode: Mode | None = None) -> Any:
        """Write one JSON object a line. Otherwise as `write_parquet`, for .json.

        >>> import mr, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = mr.from_items([("a", 1)]).write_json(folder + "/out.json")
        ...     open(folder + "/out.json").read()
        '{"key":"a","value":1}\\n'
        """
        return self._write(path, JsonWriter(), mode)

    def write_text(self, path: str, *, mode: Mode | None = None) -> Any:
        """Write one string column as lines. Otherwise as `write_parquet`, for .txt.

        >>> import mr, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = mr.from_items(["a", "b"]).write_text(folder + "/out.txt")
        ...     open(folder + "/out.txt").read()
        'a\\nb\\n'
        """
        return self._write(path, TextWriter(), mode)

    def _write(self, path: str, writer: Writer, mode: Mode | None) -> Any:
        from mr.job_function import declare

        if mode not in (None, "error", "overwrite", "append"):
            raise PlanError(f'mode={mode!r}: use "error", "overwrite" or "append"')
        if not isinstance(path, (str, os.PathLike)):
            raise PlanError(f"a path is a str, not {path!r}")
        shape = self._node.shape
        known = None if shape is None else shape.schema()
        if known is not None:
            writer.check(known)
        return declare(Write(shape, self._node, os.fspath(path), writer, mode))
