"""Actions: the dataset methods that run a plan, and those that declare or write an output."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from mr.aggregates import count
from mr.dataset.arguments import whole
from mr.dataset.base import DatasetBase
from mr.dataset.outputs import codec_of, one_of, write_node
from mr.errors import MillraceError
from mr.explain import explain_graph
from mr.formats.arrow import ArrowWriter
from mr.formats.arrow import Compression as ArrowCompression
from mr.formats.base import Writer
from mr.formats.compression import Codec
from mr.formats.csv import CsvWriter
from mr.formats.jsonl import JsonWriter
from mr.formats.parquet import Compression as ParquetCompression
from mr.formats.parquet import ParquetWriter
from mr.formats.text import TextWriter
from mr.kernels.frames import to_polars
from mr.kernels.rows import to_python
from mr.kernels.types import display
from mr.operators.base import rows_shape
from mr.operators.batches import LimitRows
from mr.operators.grouped import AggregateBy
from mr.plan import Collect, First, GroupBy, Mode, Node
from mr.session import current


def first_rows(node: Node, n: int) -> First:
    """The first `n` records of `node` in input order."""
    return First(node.shape, node, n, LimitRows(n), early=True)


class Actions(DatasetBase):
    """Base of `Dataset`: what ends a chain."""

    def __repr__(self) -> str:
        """Kind and columns, as far as they are known without running anything."""
        shape = self._node.shape
        if shape is None:
            return f"<Dataset {self._node.label}: columns known when it runs>"
        columns = ", ".join(f"{name}: {type}" for name, type in self._columns())
        return f"<Dataset of {shape.kind} ({columns})>"

    def _columns(self) -> list[tuple[str, str]]:
        """Names and types as far as they are known."""
        shape = self._node.shape
        known = [] if shape is None else list(zip(shape.names, shape.types, strict=True))
        return [(name, "?" if type is None else display(type)) for name, type in known]

    def _repr_html_(self) -> str:
        """Columns and plan, for notebooks; runs nothing."""
        try:
            plan = self.explain()
        except MillraceError as error:  # inputs that are not there yet
            plan = f"no plan: {error}"
        pairs = [(html.escape(name), html.escape(type)) for name, type in self._columns()]
        cells = "".join(f"<tr><td>{name}</td><td>{type}</td></tr>" for name, type in pairs)
        return f"<pre>{html.escape(repr(self))}</pre><table>{cells}</table><pre>{html.escape(plan)}</pre>"

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
        return to_python(current().collect(first_rows(self._node, whole(n, "take()"))))

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
        schema = known if known is not None else current().collect(first_rows(self._node, 1)).schema
        return schema.remove_metadata()

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
            print(to_polars(current().collect(first_rows(self._node, whole(n, "show()")))))

    def explain(self) -> str:
        """The stages that the plan compiles to, as text. Runs nothing.

        >>> import mr
        >>> print(mr.from_items([1]).map(str).explain().splitlines()[0])
        stage 0: items > map
        """
        return explain_graph(current().compile((Collect(self._node.shape, self._node),)))

    # --- outputs -----------------------------------------------------------------------------------------------------

    def write_parquet(
        self,
        path: str,
        *,
        mode: Mode | None = None,
        partition_by: str | Sequence[str] = (),
        compression: ParquetCompression = "zstd",
        target_file_size: str | int | None = None,
    ) -> Any:
        """Write Parquet: one file if `path` ends in .parquet, else a folder of part-00000.parquet and so on.

        Inside a job function this declares an output, which must be returned; outside it runs at once and returns a
        `WriteResult`. `mode`: "error" (default) refuses what exists, "overwrite" replaces it, "append" adds parts.

        `partition_by`: columns that name folders instead of being in the files, as `day=2026-01-01`; `read_parquet`
        restores them. A null is the folder `__HIVE_DEFAULT_PARTITION__`; values are escaped as Hive does.
        `compression`: "zstd", "snappy", "lz4" or "none". `target_file_size`: a task begins a new part after so
        many bytes of uncompressed rows (default 128 MB); what several tasks wrote is not joined.

        Raises PlanError for options that cannot be, an unknown column, or one of floats or lists in `partition_by`.

        >>> import mr, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = mr.from_items([("a", 1), ("b", 2)], names=["host", "n"])
        ...     _ = data.write_parquet(folder + "/out", partition_by="host")
        ...     mr.read_parquet(folder + "/out").take_all()
        [Row(host='a', n=1), Row(host='b', n=2)]
        """
        one_of("compression", compression, ParquetCompression)
        return self._write(path, ParquetWriter(compression), mode, partition_by, target_file_size)

    def write_arrow(
        self,
        path: str,
        *,
        mode: Mode | None = None,
        partition_by: str | Sequence[str] = (),
        compression: ArrowCompression | None = None,
        target_file_size: str | int | None = None,
    ) -> Any:
        """Write Arrow IPC files. `compression`: "lz4", "zstd" or None. Otherwise as `write_parquet`, for .arrow.

        >>> import mr, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = mr.from_items([1, 2]).write_arrow(folder + "/out.arrow")
        ...     mr.read_arrow(folder + "/out.arrow").take_all()
        [1, 2]
        """
        if compression is not None:
            one_of("compression", compression, ArrowCompression)
        return self._write(path, ArrowWriter(compression), mode, partition_by, target_file_size)

    def write_csv(
        self,
        path: str,
        *,
        mode: Mode | None = None,
        partition_by: str | Sequence[str] = (),
        compression: Codec | None = None,
        target_file_size: str | int | None = None,
    ) -> Any:
        """Write CSV with a header; nested columns are refused. Otherwise as `write_parquet`, for .csv.

        `compression`: "gzip" or "zstd", also told by a path that ends in .csv.gz or .csv.zst.

        >>> import mr, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = mr.from_items([("a", 1)]).write_csv(folder + "/out.csv")
        ...     open(folder + "/out.csv").read()
        'key,value\\na,1\\n'
        """
        return self._write_text(path, CsvWriter(), mode, partition_by, target_file_size, compression)

    def write_json(
        self,
        path: str,
        *,
        mode: Mode | None = None,
        partition_by: str | Sequence[str] = (),
        compression: Codec | None = None,
        target_file_size: str | int | None = None,
    ) -> Any:
        """Write one JSON object a line. Otherwise as `write_csv`, for .json (or .jsonl).

        JSON has less than columns have: NaN and infinities become null (as in Polars and pandas), dates and times ISO
        text, a Decimal text, a tuple an object with the keys "0", "1", ... (`read_json` makes it a tuple again).

        >>> import mr, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = mr.from_items([("a", 1)]).write_json(folder + "/out.json")
        ...     open(folder + "/out.json").read()
        '{"key":"a","value":1}\\n'
        """
        return self._write_text(path, JsonWriter(), mode, partition_by, target_file_size, compression)

    def write_text(
        self,
        path: str,
        *,
        mode: Mode | None = None,
        partition_by: str | Sequence[str] = (),
        compression: Codec | None = None,
        target_file_size: str | int | None = None,
    ) -> Any:
        """Write one string column as lines. Otherwise as `write_csv`, for .txt.

        >>> import mr, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = mr.from_items(["a", "b"]).write_text(folder + "/out.txt")
        ...     open(folder + "/out.txt").read()
        'a\\nb\\n'
        """
        return self._write_text(path, TextWriter(), mode, partition_by, target_file_size, compression)

    def _write(self, path: str, writer: Writer, *options: Any) -> Any:
        from mr.job_function import declare

        return declare(write_node(self._node, path, writer, *options))

    def _write_text(self, path: str, writer: Writer, *options: Any) -> Any:
        *others, compression = options
        return self._write(path, writer, *others, codec_of(path, writer, compression))
