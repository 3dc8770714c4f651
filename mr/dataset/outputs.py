"""The options that all writers share, checked: what can be refused before anything runs is refused here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, get_args

from mr.dataset.arguments import column_names
from mr.errors import PlanError
from mr.formats.base import Layout, Writer
from mr.formats.compression import EXTENSIONS, Codec
from mr.formats.hive import file_schema
from mr.kernels.hive import check_partition_by
from mr.options import PART_BYTES_MAX
from mr.parameters import parse_bytes
from mr.plan import Mode, Node, Write


def write_node(
    node: Node,
    path: Any,
    writer: Writer,
    mode: Mode | None,
    partition_by: str | Sequence[str],
    target_file_size: str | int | None,
    codec: Codec | None = None,
) -> Write:
    """The output that a `write_` method declares. Raises PlanError for options that cannot be."""
    if mode not in (None, "error", "overwrite", "append"):
        raise PlanError(f'mode={mode!r}: use "error", "overwrite" or "append"')
    if not isinstance(path, (str, os.PathLike)):
        raise PlanError(f"a path is a str, not {path!r}")
    if not os.fspath(path):
        raise PlanError("the path of an output is empty")
    by = tuple(column_names(partition_by))
    if len(set(by)) < len(by):
        raise PlanError(f"partition_by names a column twice: {', '.join(by)}")
    size = PART_BYTES_MAX if target_file_size is None else parse_bytes(target_file_size)
    if size <= 0:
        raise PlanError(f"target_file_size={target_file_size!r}: it is a number of bytes above 0, as 128MB")
    made = Write(node.shape, node, os.fspath(path), writer, mode, Layout(by, size, codec))
    if made.one_file:
        if by or target_file_size is not None:
            option = "partition_by" if by else "target_file_size"
            cure = f"{option} makes several; name a folder, without {made.extension}"
            raise PlanError(f"{made.path}: a path that ends in {made.extension} is one file, and {cure}")
        made = Write(node.shape, node, made.path, writer, mode, Layout(codec=codec))
    known = None if node.shape is None else node.shape.schema()
    if known is not None:
        check_partition_by(known, by)
        writer.check(file_schema(known, by))
    return made


def one_of(option: str, value: Any, choices: Any) -> None:
    """Raise PlanError unless `value` is one of a Literal type."""
    names = get_args(choices)
    if value not in names:
        raise PlanError(f"{option}={value!r}: use {', '.join(map(repr, names))}")


def codec_of(path: Any, writer: Writer, compression: str | None) -> Codec | None:
    """The compression of a text output: what its name ends in, else `compression`. Raises PlanError if they differ."""
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
    endings = (writer.extension, *writer.also)
    told = {codec: name.endswith(tuple(e + ending for e in endings)) for codec, ending in EXTENSIONS.items()}
    named = next((codec for codec, ends in told.items() if ends), None)
    if compression is None:
        return named
    one_of("compression", compression, Codec)
    wanted: Codec = "gzip" if compression == "gzip" else "zstd"
    if any(told.values()) and not told[wanted]:
        ending = writer.extension + EXTENSIONS[wanted]
        raise PlanError(f"{name}: a file with compression={compression!r} is named {ending}, so that readers know")
    return wanted
