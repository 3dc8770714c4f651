"""The `dfs` command: thin over `dfs.store`. Exit codes are those of `dfs.errors`; 3 when only some of several paths
could be done."""

from __future__ import annotations

import fnmatch
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dfs.errors import DfsError, UsageProblem, WrongKind

if TYPE_CHECKING:
    from dfs.render import Output
    from dfs.store import Store


class DfsGroup(click.Group):
    """Turns the store's errors into one line and an exit code, and takes `dfs -ls` for `dfs ls`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for index, arg in enumerate(args):
            if arg.startswith("-") and arg[1:] in self.commands:
                args = [*args[:index], arg[1:], *args[index + 1 :]]
                break
            if arg in self.commands:
                break
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            code = super().invoke(ctx)
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else "dfs"
            click.echo(f"{where}: {error.format_message()} (see {where} --help)", err=True)
            ctx.exit(2)
        except DfsError as error:
            _complain(error)
            ctx.exit(error.exit_code)
        except BrokenPipeError:  # `dfs cat x | head`: not our failure
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except OSError as error:
            _complain(error)
            ctx.exit(1)
        except KeyboardInterrupt:
            ctx.exit(130)
        if isinstance(code, int) and code:
            ctx.exit(code)
        return None


def _complain(error: Exception) -> None:
    click.echo(f"dfs: {' '.join(str(error).split())}", err=True)


class Context:
    """What the options above the command say."""

    def __init__(self, store: str | None, as_json: bool) -> None:
        from dfs.render import Output

        self.store = store
        self.out: Output = Output(as_json)

    def open(self) -> Store:
        """The store; closed when the command ends."""
        from dfs.store import open_store

        return click.get_current_context().with_resource(open_store(self.store))

    def each(self, paths: Sequence[str], do: Callable[[str], None]) -> int:
        """Do it for every path; the exit code: 0, the error's when none went well, else 3."""
        codes = []
        for path in paths:
            try:
                do(path)
            except DfsError as error:
                _complain(error)
                codes.append(error.exit_code)
        if not codes:
            return 0
        return codes[0] if len(codes) == len(paths) else 3


@click.group(cls=DfsGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--store", metavar="PATH", help="The store; else $DFS_STORE, else the one under your data folder.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines instead of text.")
@click.pass_context
def cli(ctx: click.Context, store: str | None, as_json: bool) -> None:
    """Content-addressed, replicated file store. Paths may be written as dfs://PATH or PATH; `dfs -ls` works too."""
    ctx.obj = {"store": store, "as_json": as_json}


def command(function: Callable[..., int | None]) -> click.Command:
    """A command that takes --store and --json too, and a Context as its first argument."""

    @click.pass_context
    def run(ctx: click.Context, /, store: str | None, as_json: bool, **options: Any) -> int | None:
        return function(Context(store or ctx.obj["store"], as_json or ctx.obj["as_json"]), **options)

    run.__doc__ = function.__doc__
    run.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    run = click.option("--json", "as_json", is_flag=True, help="JSON lines instead of text.")(run)
    run = click.option("--store", metavar="PATH", help="The store to use.")(run)
    return cli.command(function.__name__.rstrip("_"))(run)


def size_bytes(text: str) -> int:
    """A number of bytes, with K, M or G (of 1024) or without.

    >>> size_bytes("1M"), size_bytes("64KiB"), size_bytes("4096")
    (1048576, 65536, 4096)
    """
    plain = text.upper().removesuffix("B").removesuffix("I")
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(plain[-1:], 1)
    try:
        return int(float(plain.rstrip("KMG")) * factor)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a size such as 1048576, 1M or 16MiB") from None


@command
@click.argument("path", required=False)
@click.option("--node", "nodes", multiple=True, metavar="DIR", help="A folder for chunks; repeat it.")
@click.option("--replicas", type=click.IntRange(1), help="Copies of each chunk. Default: 3, or as many as nodes.")
@click.option("--chunk-size", type=size_bytes, metavar="AVG", help="Average chunk size. Default: 16 MiB.")
def init(
    context: Context, path: str | None, nodes: tuple[str, ...], replicas: int | None, chunk_size: int | None
) -> None:
    """Make a store at PATH (default: --store, $DFS_STORE, or the one under your data folder)."""
    from dfs.store import default_path, init_store

    where = path or context.store or default_path()
    with init_store(where, nodes=nodes, replicas=replicas, chunk_bytes_avg=chunk_size) as store:
        count = len(store.node_paths())
        context.out.line(
            f"made store {store.path}: {count} node{'s' if count > 1 else ''}, {store.replicas} replicas, "
            f"chunks of about {store.sizes.avg >> 10} KiB",
            "store",
            path=str(store.path),
            uuid=store.uuid,
            nodes={node: str(folder) for node, folder in store.node_paths().items()},
            replicas=store.replicas,
            chunk_bytes_avg=store.sizes.avg,
        )


@command
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
def put(context: Context, sources: tuple[str, ...], destination: str, **options: Any) -> None:
    """Store files, folders (with their trees) or - (standard input); all appear at once, or none."""
    from dfs.transfer import put_all

    put_all(context.open(), sources, destination, context.out, **options)


@command
@click.argument("sources", nargs=-1, required=True)
@click.argument("destination")
def get(context: Context, sources: tuple[str, ...], destination: str) -> int:
    """Copy files or folders out; DESTINATION - is standard output."""
    from dfs.transfer import get_one

    store = context.open()
    if len(sources) > 1 and destination != "-" and not Path(destination).is_dir():
        raise UsageProblem(f"{destination} is not a folder; several sources need one")
    return context.each(sources, lambda path: get_one(store, path, destination, context.out))


@command
@click.argument("paths", nargs=-1)
@click.option("--recursive", "-r", "-R", is_flag=True, help="All files below.")
@click.option("--at", type=int, metavar="TXN", help="As it was after this transaction.")
def ls(context: Context, paths: tuple[str, ...], recursive: bool, at: int | None) -> int:
    """List folders: size, records, version, path."""
    store = context.open()

    def show(path: str) -> None:
        for info in store.find(path, at) if recursive else store.ls(path, at):
            context.out.entry(info)

    return context.each(paths or ("",), show)


@command
@click.argument("paths", nargs=-1, required=True)
@click.option("--at", type=int, metavar="TXN", help="As it was after this transaction.")
def cat(context: Context, paths: tuple[str, ...], at: int | None) -> int:
    """Write files to standard output."""
    from dfs.transfer import copy

    store = context.open()
    out = sys.stdout.buffer

    def show(path: str) -> None:
        with store.open(path, at) as file:
            copy(file, out)
        out.flush()

    return context.each(paths, show)


@command
@click.argument("paths", nargs=-1, required=True)
@click.option("--lines", "-n", type=click.IntRange(0), default=10, show_default=True, help="How many lines.")
@click.option("--bytes", "-c", "size", type=click.IntRange(0), help="How many bytes, instead of lines.")
def head(context: Context, paths: tuple[str, ...], lines: int, size: int | None) -> int:
    """Write the beginning of files to standard output."""
    store = context.open()
    out = sys.stdout.buffer

    def show(path: str) -> None:
        with store.open(path) as file:
            if size is not None:
                out.write(file.read(size))
            else:
                out.writelines(line for _, line in zip(range(lines), file, strict=False))
        out.flush()

    return context.each(paths, show)


@command
@click.argument("paths", nargs=-1, required=True)
@click.option("--recursive", "-r", "-R", is_flag=True, help="Folders with all that is in them.")
def rm(context: Context, paths: tuple[str, ...], recursive: bool) -> None:
    """Remove files or empty folders; with -r, whole folders. All at once, or none."""
    from dfs.changes import Remove

    _publish(context, [Remove(path, recursive) for path in paths], "removed")


@command
@click.argument("paths", nargs=-1, required=True)
@click.option("--parents", "-p", is_flag=True, help="No error if it exists. (Parents are made anyway.)")
def mkdir(context: Context, paths: tuple[str, ...], parents: bool) -> None:
    """Make folders."""
    from dfs.changes import MakeDir
    from dfs.errors import AlreadyExists

    store = context.open()
    for path in paths:
        if not parents and store.exists(path):
            raise AlreadyExists(f"dfs://{path} exists")
    _publish(context, [MakeDir(path) for path in paths], "made")


@command
@click.argument("sources", nargs=-1, required=True)
@click.argument("destination")
def mv(context: Context, sources: tuple[str, ...], destination: str) -> None:
    """Move or rename files and folders; into DESTINATION if it is a folder. No byte is copied."""
    from dfs.changes import Move
    from dfs.paths import join, normalise

    store = context.open()
    into = store.exists(destination) and store.stat(destination).kind == "dir"
    if len(sources) > 1 and not into:
        raise WrongKind(f"dfs://{normalise(destination)} is not a folder; several sources need one")
    target = normalise(destination)
    names = [normalise(source) for source in sources]
    moves = [Move(name, join(target, name.rpartition("/")[2]) if into else target) for name in names]
    _publish(context, moves, "moved")


def _publish(context: Context, changes: Sequence[Any], done: str) -> None:
    import uuid

    txn = context.open().publish(changes, request_id=uuid.uuid4().hex)
    if context.out.as_json:
        context.out.line("", "result", done=done, count=len(changes), txn=txn)


@command
@click.argument("paths", nargs=-1, required=True)
@click.option("--at", type=int, metavar="TXN", help="As it was after this transaction.")
def stat(context: Context, paths: tuple[str, ...], at: int | None) -> int:
    """Show what is known of a path."""
    from dfs.render import entry_values

    store = context.open()

    def show(path: str) -> None:
        info = store.stat(path, at)
        values = entry_values(info)
        text = "\n".join(f"{name + ':':<14}{value}" for name, value in values.items() if value not in (None, ""))
        context.out.line(f"{'kind:':<14}{info.kind}\n{text}", info.kind, **values)

    return context.each(paths, show)


@command
@click.argument("path", default="")
@click.option("--name", metavar="GLOB", help="Only files whose name matches.")
def find(context: Context, path: str, name: str | None) -> None:
    """List every file below PATH, one path a line."""
    from dfs.render import entry_values, visible

    for info in context.open().find(path):
        if name is None or fnmatch.fnmatchcase(info.path.rpartition("/")[2], name):
            context.out.line(visible(info.path), "file", **entry_values(info))


@command
@click.argument("paths", nargs=-1, required=True)
def where(context: Context, paths: tuple[str, ...]) -> int:
    """Show each chunk of files and the nodes that hold it, the first to be read first."""
    store = context.open()
    folders = store.node_paths()

    def show(path: str) -> None:
        for ref in store.chunks(path):
            nodes = store.nodes_of(ref.id)
            held = [folders[node] for node in nodes]
            context.out.line(
                f"{ref.offset:>14} {ref.length:>11} {ref.id}  {' '.join(map(str, held)) or 'MISSING'}",
                "chunk",
                path=path,
                chunk=ref.id,
                offset=ref.offset,
                length=ref.length,
                records=ref.records,
                continues=ref.continues,
                nodes=list(nodes),
                folders=[str(folder) for folder in held],
            )

    return context.each(paths, show)


@command
@click.option("--read-data", is_flag=True, help="Read and verify every copy, instead of only looking for it.")
@click.option("--heal", is_flag=True, help="Write missing and damaged copies anew from good ones.")
def fsck(context: Context, read_data: bool, heal: bool) -> int:
    """Check the store: namespace, missing, corrupt, under-replicated and orphaned chunks. Exits 12 on damage."""
    from dfs.checks import check

    return check(context.open(), context.out, read_data, heal)


@command
def doctor(context: Context) -> int:
    """Show versions, settings, nodes and their free space. Exits 1 when a node cannot be used."""
    from dfs.checks import diagnose

    return diagnose(context.open(), context.out)


def main() -> None:
    """Entry point of `dfs`."""
    cli(prog_name="dfs")
