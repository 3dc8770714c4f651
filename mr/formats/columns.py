"""The columns of a file that has a schema of its own: in what types they travel, and which files are refused."""

from __future__ import annotations

import pyarrow as pa

from mr.errors import InputError
from mr.kernels.types import homeless, plain


def travelling(schema: pa.Schema, path: str) -> pa.Schema:
    """The schema in which the rows of the file `path` travel, with the metadata that it has.

    Raises `InputError` for columns without a name of their own, and for types that no operator takes.

    >>> travelling(pa.schema([("a", pa.string())]), "x.parquet").types
    [DataType(large_string)]
    """
    names = schema.names
    if len(set(names)) < len(names) or not all(names):
        raise InputError(f"{path}: every column needs a name of its own; there are {', '.join(map(repr, names))}")
    for field in schema:
        lost = homeless(field.type)
        if lost is not None:
            cure = "write it as text or a number, or write the file without it"
            raise InputError(f"{path}: column {field.name!r} is of type {lost}, which is not supported; {cure}")
    return pa.schema([(field.name, plain(field.type)) for field in schema], schema.metadata)
