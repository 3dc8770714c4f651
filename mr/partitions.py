"""Which columns the folders of an input tell, as `day=2026-01-01`, and of which types they are."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence

import pyarrow as pa

from mr.batch import with_kind
from mr.formats.base import Reader
from mr.formats.hive import PartitionedReader
from mr.kernels.hive import infer_type, values_of
from mr.storage import list_files


def told_by_folders(paths: Sequence[str], first: str) -> list[str]:
    """The columns that the folders of the file `first` name, below what the user named; outermost first.

    >>> told_by_folders(["out"], "out/day=1/host=a/part-00000.csv"), told_by_folders(["out/day=1"], "out/day=1/x.csv")
    (['day', 'host'], [])
    """
    given = {name for path in paths for name in values_of(_fixed(path))}
    return [name for name in values_of(first) if name not in given]


def _fixed(path: str) -> str:
    """The folders of a path that no glob chooses."""
    return re.split(r"[*?\[]", path, maxsplit=1)[0] if glob.has_magic(path) else path.rstrip("/") + "/"


def partitioned(
    reader: Reader,
    paths: Sequence[str],
    told: Sequence[str],
    declared: Mapping[str, pa.DataType],
    rows: pa.Schema | None = None,
) -> Reader:
    """`reader`, with the columns `told` by folders; those that are in the files, too, are read from there.

    Their types: `declared`, else those of `rows` (what a file of ours says that whole rows are), else inferred from the
    folders of all files: int or date where all are spelled so, else str. Raises InputNotFound.
    """
    inside = reader.schema()
    assert inside is not None
    names = [name for name in told if name not in inside.names]
    if not names:
        return reader
    types = {field.name: field.type for field in rows or ()} | dict(declared)
    unknown = [name for name in names if name not in types]
    if unknown:
        folders = [values_of(file.path) for path in paths for file in list_files(path)]
        types |= {name: infer_type(found[name] for found in folders if name in found) for name in unknown}
    types |= {field.name: field.type for field in inside}
    order = [*inside.names, *names]
    if rows is not None and set(rows.names) == set(order):
        order = rows.names
    return PartitionedReader(reader, with_kind(pa.schema([(name, types[name]) for name in order]), "rows"))
