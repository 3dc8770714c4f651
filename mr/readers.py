"""Where datasets come from: files of every format, and records that the program holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO, TypeVar

import polars as pl
import pyarrow as pa

from mr.batch import kind_of, with_kind
from mr.dataset import Dataset
from mr.errors import CorruptInput, PlanError
from mr.formats.access_log import AccessLogReader
from mr.formats.arrow import ArrowReader, infer_arrow
from mr.formats.base import Reader
from mr.formats.binary import BinaryFileReader
from mr.formats.blocks import whole_lines
from mr.formats.csv import INFER_BYTES, CsvReader, infer_csv
from mr.formats.hive import recorded_schema
from mr.formats.jsonl import JsonReader, infer_json
from mr.formats.parquet import ParquetReader, infer_parquet
from mr.formats.text import TextFileReader, TextReader
from mr.formats.warc import WarcReader
from mr.inputs import whole_files
from mr.kernels.declared import arrow_type
from mr.kernels.frames import plain
from mr.kernels.rows import Shape, from_python, shape_of
from mr.operators.base import ErrorPolicy, OnError
from mr.operators.columns import named
from mr.partitions import partitioned, told_by_folders
from mr.pieces import OpenedPiece
from mr.plan import Items, Read

T = TypeVar("T")
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def _paths(paths: Paths, call: str) -> tuple[str, ...]:
    items = list(paths) if isinstance(paths, Iterable) and not isinstance(paths, (str, os.PathLike)) else [paths]
    if not items:
        raise PlanError(f"{call}: no path is given")
    if wrong := [path for path in items if not isinstance(path, (str, os.PathLike))]:
        raise PlanError(f"{call}: a path is a str, not {wrong[0]!r}")
    return tuple(os.fspath(path) for path in items)


def _read(paths: tuple[str, ...], reader: Reader, on_error: OnError, max_bad: int | float | None) -> Dataset:
    schema = reader.schema()
    shape = None if schema is None else Shape(kind_of(schema), tuple(schema.names), tuple(schema.types))
    return Dataset(Read(shape, paths, reader, ErrorPolicy(on_error, max_bad)))


def read_text(
    paths: Paths,
    *,
    include_path: bool = False,
    include_offset: bool = False,
    encoding: str = "utf-8",
    encoding_errors: str = "replace",
    delimiter: str = "\n",
    record_start: str | None = None,
    on_error: OnError = "fail",
    max_bad_records: int | float | None = None,
) -> Dataset:
    """Lines of text files as str values; rows (text, path, offset) where `include_path` or `include_offset` ask.

    `paths`: files, folders or globs; local, dfs:// or any fsspec URL; .gz, .bz2, .xz and .zst are decompressed.
    Lines end at LF or CRLF, or at `delimiter`. `record_start`: a regular expression; a record is a line that it matches
    with all lines up to the next match, as a log entry with its stack trace (then a file is one split).
    `encoding_errors`: "replace", "ignore" or "strict"; the counter "undecodable records" says how many lines it met.
    `offset` is in bytes. `on_error`, `max_bad_records`: as in `Dataset.map`, for lines that are not `encoding` under
    "strict" or over 64 MiB, and for damaged files (bad compression): what is behind the damage is left out.

    Raises PlanError for an unknown encoding; InputNotFound when run, if nothing is there.

    >>> import mr, tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "a.txt").write_text("one\\ntwo\\n")
    ...     mr.read_text(folder).take_all()
    ['one', 'two']
    """
    reader = TextReader(encoding, encoding_errors, delimiter, include_path, include_offset, record_start)
    return _read(_paths(paths, "read_text()"), reader, on_error, max_bad_records)


def read_text_files(
    paths: Paths,
    *,
    encoding: str = "utf-8",
    encoding_errors: str = "replace",
    on_error: OnError = "fail",
    max_bad_records: int | float | None = None,
) -> Dataset:
    """Whole text files as rows (path, text). Parameters as in `read_text`; a file of more than 512 MiB is damage.

    >>> import mr, tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "a.txt").write_text("one")
    ...     mr.read_text_files(folder).first().text
    'one'
    """
    reader = TextFileReader(encoding, encoding_errors)
    return _read(_paths(paths, "read_text_files()"), reader, on_error, max_bad_records)


def read_binary_files(paths: Paths) -> Dataset:
    """Whole files as rows (path, bytes), as they are stored.

    >>> import mr, tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "a.bin").write_bytes(b"12")
    ...     mr.read_binary_files(folder).first().bytes
    b'12'
    """
    return _read(_paths(paths, "read_binary_files()"), BinaryFileReader(), "fail", None)


def read_parquet(
    paths: Paths,
    *,
    schema: Mapping[str, Any] | None = None,
    on_error: OnError = "fail",
    max_bad_records: int | float | None = None,
) -> Dataset:
    """Rows of Parquet files, in splits of row groups; only needed columns are read.

    `on_error`: what becomes of a damaged file, or of what is behind the damage in it; it counts as one record.

    Folders below `paths` that are named like `day=2026-01-01` give a column to the rows in them; null is
    `__HIVE_DEFAULT_PARTITION__`. Its type: that in `schema`, else that which `write_parquet(partition_by=)` recorded in
    the files, else int or date where all folders are spelled so, else str.

    Raises InputNotFound, InputError for a file that is no Parquet. The first file that is read gives the schema.

    >>> import mr, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = mr.from_items([("a", 1)]).write_parquet(folder + "/x.parquet")
    ...     mr.read_parquet(folder + "/x.parquet").take_all()
    [Row(key='a', value=1)]
    """
    policy = ErrorPolicy(on_error, max_bad_records)
    return _read_columns(paths, "read_parquet()", schema, ParquetReader, infer_parquet, policy)


def read_arrow(
    paths: Paths,
    *,
    schema: Mapping[str, Any] | None = None,
    on_error: OnError = "fail",
    max_bad_records: int | float | None = None,
) -> Dataset:
    """Rows of Arrow IPC files or streams, in splits of record batches. Otherwise as `read_parquet`.

    >>> import mr, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = mr.from_items([("a", 1)]).write_arrow(folder + "/x.arrow")
    ...     mr.read_arrow(folder + "/x.arrow").take_all()
    [Row(key='a', value=1)]
    """
    policy = ErrorPolicy(on_error, max_bad_records)
    return _read_columns(paths, "read_arrow()", schema, ArrowReader, infer_arrow, policy)


def _read_columns(
    paths: Paths,
    call: str,
    schema: Mapping[str, Any] | None,
    reader: Callable[[pa.Schema], Reader],
    infer: Callable[[BinaryIO, str], pa.Schema],
    policy: ErrorPolicy,
) -> Dataset:
    """A dataset of files that say their columns themselves."""
    found = _paths(paths, call)

    def inferred(piece: OpenedPiece) -> tuple[str, pa.Schema, Reader, bool]:
        with piece.file() as file:
            inside = infer(file, piece.path)
            made = reader(with_kind(inside, kind_of(inside)))
            return piece.path, inside, made, not made.group_bytes(file, piece.path)

    path, inside, inner, empty = _first_sound(found, False, policy, inferred)
    told, rows = told_by_folders(found, path), recorded_schema(inside)
    if empty and rows is not None:  # such a file lies in no folder
        told = [name for name in rows.names if name not in inside.names]
    declared = _declared(schema or {}, call)
    if unknown := [name for name in declared if name not in told]:
        raise PlanError(f"{call}: schema= is for columns that folders name; {unknown[0]!r} is none of {told}")
    return _read(found, partitioned(inner, found, told, declared, rows), policy.on_error, policy.max_bad)


def _first_sound(paths: tuple[str, ...], decompress: bool, policy: ErrorPolicy, infer: Callable[[OpenedPiece], T]) -> T:
    """What `infer` makes of the first file; unless the policy is to fail, of the first that is not damaged.

    Raises InputNotFound, InputError: of the first file, if all are damaged.
    """
    first: CorruptInput | None = None
    for piece in whole_files(paths, decompress):
        try:
            return infer(piece)
        except CorruptInput as damage:
            first = first or damage
            if policy.on_error == "fail":
                break
    assert first is not None
    raise first


def _told_by_lines(
    paths: tuple[str, ...],
    declared: Mapping[str, pa.DataType],
    policy: ErrorPolicy,
    infer: Callable[..., pa.Schema],
    *rules: object,
) -> tuple[pa.Schema, list[str]]:
    """The schema of files of lines, and the columns that their folders tell. Raises as `_first_sound`."""

    def schema_of(piece: OpenedPiece, damaged: bool) -> tuple[pa.Schema, list[str]]:
        told = told_by_folders(paths, piece.path)
        inside = {name: type for name, type in declared.items() if name not in told}
        head = _lines_of(piece) if damaged else piece.head(INFER_BYTES)
        return infer(head, piece.path, *rules, declared=inside), told

    try:
        return _first_sound(paths, True, policy, lambda piece: schema_of(piece, damaged=False))
    except CorruptInput:
        if policy.on_error == "fail":
            raise
    return _first_sound(paths, True, policy, lambda piece: schema_of(piece, damaged=True))


def _lines_of(piece: OpenedPiece) -> bytes:
    """What lies before the damage of a file. Raises CorruptInput where that is no whole line."""
    try:
        return piece.head(INFER_BYTES)
    except CorruptInput as damage:
        before = piece.head(damage.offset) if damage.offset else b""
        if whole := whole_lines(before):
            return before[:whole]
        raise


def read_csv(
    paths: Paths,
    *,
    schema: Mapping[str, Any] | None = None,
    header: bool = True,
    delimiter: str = ",",
    null_values: Sequence[str] = ("",),
    quoted_newlines: bool = False,
    on_error: OnError = "fail",
    max_bad_records: int | float | None = None,
) -> Dataset:
    """Rows of CSV files; types are inferred once, from the first 1 MiB in path order, but for those in `schema`.

    `schema` maps names to types; without a header it names all columns. `null_values` are read as null.
    `quoted_newlines=True`: fields may hold line ends (then a file is one split). A line that does not fit is an error
    naming file, line, column and the `schema=` entry to add, or as `on_error` says: then damaged files are left out,
    too, from where the damage is, and the first one without any gives the schema. Another header is always an error.

    >>> import mr, tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "a.csv").write_text("host,n\\na,1\\n")
    ...     mr.read_csv(folder).take_all()
    [Row(host='a', n=1)]
    """
    found = _paths(paths, "read_csv()")
    nulls = (null_values,) if isinstance(null_values, str) else tuple(null_values)
    rules = (header, delimiter, nulls, quoted_newlines)
    declared = _declared(schema or {}, "read_csv()")
    pinned, told = _told_by_lines(found, declared, ErrorPolicy(on_error, max_bad_records), infer_csv, *rules)
    return _read(found, partitioned(CsvReader(pinned, *rules), found, told, declared), on_error, max_bad_records)


def read_json(
    paths: Paths,
    *,
    schema: Mapping[str, Any] | None = None,
    on_error: OnError = "fail",
    max_bad_records: int | float | None = None,
) -> Dataset:
    """Rows of files with one JSON object a line. Parameters as in `read_csv`.

    >>> import mr, tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "a.json").write_text('{"host": "a", "n": 1}\\n')
    ...     mr.read_json(folder).take_all()
    [Row(host='a', n=1)]
    """
    found = _paths(paths, "read_json()")
    declared = _declared(schema or {}, "read_json()")
    pinned, told = _told_by_lines(found, declared, ErrorPolicy(on_error, max_bad_records), infer_json)
    return _read(found, partitioned(JsonReader(pinned), found, told, declared), on_error, max_bad_records)


def read_access_log(
    paths: Paths,
    *,
    format: str = "combined",
    on_error: OnError = "fail",
    max_bad_records: int | float | None = None,
) -> Dataset:
    """Rows of web server logs: `format` is "combined", "common" or a pattern.

    Columns host, identity, user, time (UTC, microseconds), method, url, protocol, status, bytes, and for "combined"
    referrer and agent. A line that does not parse is an error, or as `on_error` says.

    >>> import mr, tempfile, pathlib
    >>> line = '1.2.3.4 - - [10/Oct/2025:13:55:36 +0000] "GET /a HTTP/1.1" 200 12 "-" "curl"\\n'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "log").write_text(line)
    ...     mr.read_access_log(folder).first().status
    200
    """
    return _read(_paths(paths, "read_access_log()"), AccessLogReader(format), on_error, max_bad_records)


def read_warc(paths: Paths, *, on_error: OnError = "fail", max_bad_records: int | float | None = None) -> Dataset:
    """Rows of the records of WARC files (.warc or .warc.gz).

    >>> import mr
    >>> mr.read_warc("crawl.warc.gz").rejected()
    Traceback (most recent call last):
    ...
    mr.errors.PlanError: rejected(): call it on the dataset of a reader or operator with on_error="quarantine"
    """
    return _read(_paths(paths, "read_warc()"), WarcReader(), on_error, max_bad_records)


def from_items(items: Iterable[Any], *, names: str | Sequence[str] | Mapping[str, Any] | None = None) -> Dataset:
    """Records that the program holds: values, or rows for tuples, dicts and named tuples. `names` as in `map`.

    Raises TypeConflict naming column and both types where records differ.

    >>> import mr
    >>> mr.from_items([("a", 1), ("b", 2)]).take_all()
    [Row(key='a', value=1), Row(key='b', value=2)]
    """
    records = list(items)
    shape = shape_of(names, records.__iter__, True) if names is not None else None
    data, made = from_python(records, shape)
    if made is None:
        data, made = named([pa.nulls(0)], ["value"], "values"), Shape("values", ("value",), (pa.null(),))
    return Dataset(Items(Shape(made.kind, made.names, tuple(data.schema.types)), data))


def from_arrow(data: pa.Table | pa.RecordBatch) -> Dataset:
    """The rows of an Arrow table, in types that records have: dictionaries decoded, views and small offsets widened.

    Raises PlanError for a column name that repeats.

    >>> import mr, pyarrow as pa
    >>> mr.from_arrow(pa.table({"n": [1, 2]})).take_all()
    [Row(n=1), Row(n=2)]
    """
    names = data.schema.names
    if len(set(names)) < len(names) or not all(names):
        raise PlanError(f"from_arrow(): every column needs a name of its own; there are {', '.join(map(repr, names))}")
    columns = [plain(column) for column in data.columns]
    held = named(columns, list(names), "rows")
    return Dataset(Items(Shape("rows", tuple(names), tuple(held.schema.types)), held))


def from_polars(data: pl.DataFrame) -> Dataset:
    """The rows of a Polars frame, as `from_arrow` would take them.

    >>> import mr, polars as pl
    >>> mr.from_polars(pl.DataFrame({"n": [1, 2]})).take_all()
    [Row(n=1), Row(n=2)]
    """
    return from_arrow(data.to_arrow(compat_level=pl.CompatLevel.oldest()))


def from_pandas(data: Any) -> Dataset:
    """The rows of a pandas frame without its index; NaN and NaT are null, as pandas means them.

    Raises PlanError for a column of mixed types.

    >>> import mr, pandas
    >>> mr.from_pandas(pandas.DataFrame({"n": [1, 2]})).take_all()
    [Row(n=1), Row(n=2)]
    """
    try:
        return from_arrow(pa.Table.from_pandas(data, preserve_index=False))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise PlanError(f"from_pandas(): {error}; make the column one type, or use from_items()") from None


def _declared(schema: Mapping[str, Any], call: str) -> dict[str, pa.DataType]:
    types: dict[str, pa.DataType] = {}
    for name, declared in schema.items():
        try:
            type = arrow_type(declared)
        except PlanError as error:
            raise PlanError(f"{call}: schema entry {name!r}: {error}") from None
        if type is None:
            raise PlanError(f"{call}: schema entry {name!r}: {declared!r} is not a column type")
        types[name] = type
    return types
