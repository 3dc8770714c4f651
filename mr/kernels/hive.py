"""Folders of a partitioned output: `day=2026-01-01/host=a`, one `name=value` a column, as Hive names them.

Values are escaped as in Hive's FileUtils.escapePathName: control characters and `"#%'*/:=?\\{[]^` become %XX. Null is
`__HIVE_DEFAULT_PARTITION__`; a text of just these letters has its first one escaped, so that it comes back as text.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Final
from urllib.parse import unquote

import numpy as np
import polars as pl
import pyarrow as pa

from mr.errors import PlanError, RecordError
from mr.kernels.frames import to_polars
from mr.kernels.types import display

NULL_FOLDER: Final = "__HIVE_DEFAULT_PARTITION__"
NAME_BYTES_MAX: Final = 255  # of a name in the usual file systems and in the store

_ESCAPED = re.compile(r"[\x00-\x1f\"#%'*/:=?\\\x7f{\[\]^]")
_INT = re.compile(r"0|-?[1-9][0-9]{0,17}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def check_partition_by(schema: pa.Schema, by: Sequence[str]) -> None:
    """Raise PlanError, naming a cure, for columns whose values cannot name folders."""
    for name in by:
        if name not in schema.names:
            raise PlanError(f"partition_by: there is no column {name!r}; there are {', '.join(schema.names)}")
        type_ = schema.field(name).type
        exact = pa.types.is_timestamp(type_) and type_.unit != "ns"
        texts = (pa.types.is_large_string(type_), pa.types.is_integer(type_), pa.types.is_boolean(type_))
        if not (
            any(texts) or exact or pa.types.is_date32(type_) or pa.types.is_decimal(type_) or pa.types.is_null(type_)
        ):
            cure = "use a column of str, int, bool, date, datetime or Decimal"
            raise PlanError(
                f"partition_by={name!r}: the column is {display(type_)}, which does not name folders; {cure}"
            )
    if len(by) == len(schema):
        raise PlanError(f"partition_by names all columns ({', '.join(by)}); one must be left for the files")


def split_by_folder(data: pa.RecordBatch, by: Sequence[str]) -> list[tuple[str, pa.RecordBatch]]:
    """The rows of each folder, in the order that they have in `data`; folders in the order of their names.

    Raises RecordError for a value that is too long for a folder's name.

    >>> [(f, b.num_rows) for f, b in split_by_folder(pa.record_batch({"d": ["b", "a", "b"], "n": [1, 2, 3]}), ["d"])]
    [('d=a', 1), ('d=b', 2)]
    """
    keys = to_polars(data.select(list(by)))
    keys.columns = list(map(str, range(len(by))))  # a join takes some names for patterns
    distinct = keys.unique(maintain_order=True)
    folders = [folder_of(by, values) for values in distinct.iter_rows()]
    ranks = np.empty(len(folders), np.int64)
    ranks[sorted(range(len(folders)), key=folders.__getitem__)] = np.arange(len(folders))
    ranked = distinct.with_columns(pl.Series("", ranks))  # no column of a dataset has an empty name
    found = keys.join(ranked, on=keys.columns, how="left", nulls_equal=True, maintain_order="left")[""].to_numpy()
    rows = np.argsort(found, kind="stable")
    ends = np.cumsum(np.bincount(found, minlength=len(folders)))
    sorted_data = data.take(pa.array(rows))
    starts = [0, *ends.tolist()]
    return [
        (folder, sorted_data.slice(starts[i], starts[i + 1] - starts[i])) for i, folder in enumerate(sorted(folders))
    ]


def folder_of(names: Sequence[str], values: Iterable[Any]) -> str:
    """The folder of rows that have `values` in the columns `names`.

    >>> folder_of(["day", "host"], [dt.date(2026, 1, 1), "a/b"]), folder_of(["day"], [None])
    ('day=2026-01-01/host=a%2Fb', 'day=__HIVE_DEFAULT_PARTITION__')
    """
    parts = [f"{_escape(name)}={_text(value)}" for name, value in zip(names, values, strict=True)]
    for part in parts:
        if len(part.encode()) > NAME_BYTES_MAX:
            cure = f"the folder's name has more than {NAME_BYTES_MAX} bytes; partition by a shorter column"
            raise RecordError(f"partition_by: {part[:60]}...: {cure}", None)
    return "/".join(parts)


def _text(value: Any) -> str:
    if value is None:
        return NULL_FOLDER
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dt.datetime):
        moment = value if value.tzinfo is None else value.astimezone(dt.UTC)
        return _escape(moment.isoformat(" "))
    if isinstance(value, Decimal):
        return f"{value:f}"
    text = _escape(str(value))
    return f"%{ord(text[0]):02X}{text[1:]}" if text == NULL_FOLDER else text


def _escape(text: str) -> str:
    return _ESCAPED.sub(lambda match: f"%{ord(match[0]):02X}", text)


def values_of(path: str) -> dict[str, str | None]:
    """The columns that the folders of a path name, outermost first, with their values as text.

    >>> values_of("out/day=2026-01-01/host=a%2Fb/part-00000.parquet")
    {'day': '2026-01-01', 'host': 'a/b'}
    """
    folders = [folder.partition("=") for folder in path.split("/")[:-1]]
    return {unquote(n): None if text == NULL_FOLDER else unquote(text) for n, equals, text in folders if equals and n}


def infer_type(texts: Iterable[str | None]) -> pa.DataType:
    """The type of a column known by its folders only: int or date if all its values are spelled so, else str.

    >>> infer_type(["1", "20", None]), infer_type(["2026-01-01"]), infer_type(["01"])
    (DataType(int64), DataType(date32[day]), DataType(large_string))
    """
    known = [text for text in texts if text is not None]
    if known and all(map(_INT.fullmatch, known)):
        return pa.int64()
    return pa.date32() if known and all(map(_is_date, known)) else pa.large_string()


def _is_date(text: str) -> bool:
    try:
        return _DATE.fullmatch(text) is not None and dt.date.fromisoformat(text) is not None
    except ValueError:
        return False


def value_of(text: str | None, type_: pa.DataType) -> pa.Scalar:
    """The value of a folder as a scalar of `type_`. Raises ValueError where it does not fit.

    >>> value_of("2026-01-01", pa.date32()).as_py(), value_of(None, pa.int64()).as_py()
    (datetime.date(2026, 1, 1), None)
    """
    if text is None:
        return pa.scalar(None, type_)
    if pa.types.is_boolean(type_):
        return pa.scalar({"true": True, "false": False}[text], type_)
    if pa.types.is_integer(type_):
        return pa.scalar(int(text), type_)
    if pa.types.is_floating(type_):
        return pa.scalar(float(text), type_)
    if pa.types.is_date(type_):
        return pa.scalar(dt.date.fromisoformat(text), type_)
    if pa.types.is_timestamp(type_):
        return pa.scalar(dt.datetime.fromisoformat(text), type_)
    if pa.types.is_decimal(type_):
        return pa.scalar(Decimal(text), type_)
    return pa.scalar(text, type_)
