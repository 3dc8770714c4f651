"""`dfs put get cat head tail`: bytes into the store and out of it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

import click

from dfs.cli_command import Context, Tally, at_option, command, complain, dry_run_option
from dfs.errors import UsageProblem

_tree_option = click.option(
    "--recursive", "-r", "-R", is_flag=True, help="Taken for granted: folders go with their trees."
)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def _keep_freed_memory() -> None:
    """The C library would return each chunk's memory to the system, and pay for every page of the next one anew: that
    is a tenth of the time of put and get. Other libraries do not know the call, and nothing happens."""
    import ctypes

    with suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


@command()
@click.argument("sources", nargs=-1, required=True)
@click.argument("destination")
@click.option(
    "--records",
    type=click.Choice(["auto", "lines", "none"]),
    default="auto",
    show_default=True,
    help="Cut chunks at line ends and count lines; auto: unless the file is binary.",
)
@click.option("--decompress", is_flag=True, help="Store the content of .gz, .bz2, .xz and .zst files.")
@click.option("--no-clobber", "-n", is_flag=True, help="Fail if a file exists, instead of making a new version of it.")
@click.option("--force", "-f", is_flag=True, help="Taken for granted: a file that exists gets a new version.")
@click.option("--replicas", type=click.IntRange(1), help="Copies of each chunk, from now on too (as `dfs setrep`).")
@click.option("--rehash", is_flag=True, help="Read every file, also those that look unchanged since they were put.")
@_tree_option
@dry_run_option
def put(
    context: Context, sources: tuple[str, ...], destination: str, force: bool, recursive: bool, **options: Any
) -> None:
    """Store files, folders or - (standard input). All appear at once, or none.

    Files that look unchanged since they were put are not read again; what is stored of them is checked.
    """
    from dfs.upload import PutOptions, put_all

    if force and options["no_clobber"]:
        raise UsageProblem("--force and --no-clobber exclude each other")
    _keep_freed_memory()
    put_all(context.open(), sources, destination, context.out, PutOptions(**options))


@command()
@click.argument("sources", nargs=-1, required=True)
@click.argument("destination")
@click.option("--no-clobber", "-n", is_flag=True, help="Keep local files that exist, and say so.")
@click.option("--force", "-f", is_flag=True, help="Taken for granted: local files that exist are replaced.")
@at_option
@_tree_option
@dry_run_option
def get(
    context: Context,
    sources: tuple[str, ...],
    destination: str,
    no_clobber: bool,
    force: bool,
    at: str | None,
    recursive: bool,
    dry_run: bool,
) -> int:
    """Copy files or folders out. DESTINATION - is standard output."""
    from dfs.download import GetOptions, get_tree
    from dfs.excerpts import write_file

    if force and no_clobber:
        raise UsageProblem("--force and --no-clobber exclude each other")
    _keep_freed_memory()
    store = context.open()
    moment = store.hold(at)
    if destination == "-":
        return context.each(store, sources, moment, lambda path: write_file(store, path, moment, sys.stdout.buffer))
    paths = context.paths(store, sources, moment)
    if len(paths) > 1 and not os.path.isdir(destination):
        raise UsageProblem(f"{destination} is not a folder; several sources need one")
    options = GetOptions(moment, no_clobber, dry_run)
    tally, files, size = Tally(), 0, 0
    for path in paths:
        with tally.part():
            done = get_tree(store, path, destination, context.out, options)
            files, size = files + done.files, size + done.bytes
            if done.files or not done.errors:
                tally.note(0)
            for error in done.errors:
                complain(error)
                tally.note(error.exit_code)
    if context.out.as_json:
        context.out.line("", "result", files=files, bytes=size, to=destination)
    return tally.code


@command()
@click.argument("paths", nargs=-1, required=True)
@at_option
def cat(context: Context, paths: tuple[str, ...], at: str | None) -> int:
    """Write files to standard output."""
    from dfs.excerpts import write_file

    store = context.open()
    moment = store.hold(at)
    return context.each(store, paths, moment, lambda path: write_file(store, path, moment, sys.stdout.buffer))


_lines_option = click.option(
    "--lines", "-n", type=click.IntRange(0), default=10, show_default=True, help="How many lines."
)
_bytes_option = click.option("--bytes", "-c", "size", type=click.IntRange(0), help="How many bytes, instead of lines.")


@command()
@click.argument("paths", nargs=-1, required=True)
@_lines_option
@_bytes_option
@at_option
def head(context: Context, paths: tuple[str, ...], lines: int, size: int | None, at: str | None) -> int:
    """Write the beginning of files to standard output."""
    from dfs.excerpts import write_first

    store = context.open()
    moment = store.hold(at)
    out = sys.stdout.buffer
    return context.each(store, paths, moment, lambda path: write_first(store, path, moment, out, lines, size))


@command()
@click.argument("paths", nargs=-1, required=True)
@_lines_option
@_bytes_option
@at_option
def tail(context: Context, paths: tuple[str, ...], lines: int, size: int | None, at: str | None) -> int:
    """Write the end of files to standard output. Only their last chunks are read."""
    from dfs.excerpts import write_last

    store = context.open()
    moment = store.hold(at)
    out = sys.stdout.buffer
    return context.each(store, paths, moment, lambda path: write_last(store, path, moment, out, lines, size))
