"""`dfs ls tree find stat du checksum where`: what is in the store."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

import click

from dfs.cli_command import Context, at_option, command

if TYPE_CHECKING:
    from dfs.metadata import FileInfo


@command(human=True)
@click.argument("paths", nargs=-1)
@click.option("--recursive", "-r", "-R", is_flag=True, help="All files below.")
@click.option("--directory", "-d", is_flag=True, help="Folders themselves, not what is in them.")
@at_option
def ls(context: Context, paths: tuple[str, ...], recursive: bool, directory: bool, at: str | None, human: bool) -> int:
    """List folders. Columns: time of change, size in bytes, records, version (transaction), path."""
    store = context.open()
    moment = store.at(at)
    times: dict[int, int] = {}

    def show(path: str) -> None:
        if directory:
            found = [store.stat(path, moment)]
        else:
            found = store.find(path, moment) if recursive else store.ls(path, moment)
        for info in found:
            if info.version not in times:
                times[info.version] = store.time_ms(info.version)
            context.out.entry(info, times[info.version], human)

    return context.each(store, paths or ("",), moment, show)


@command(human=True)
@click.argument("paths", nargs=-1)
@click.option("--depth", "-L", type=click.IntRange(1), metavar="N", help="No deeper than N folders.")
@at_option
def tree(context: Context, paths: tuple[str, ...], depth: int | None, at: str | None, human: bool) -> int:
    """Show folders as trees."""
    from dfs.render import shown_bytes, visible

    store = context.open()
    moment = store.at(at)

    def show(path: str) -> None:
        top = store.stat(path, moment)
        waiting: list[tuple[FileInfo, str, str]] = [(top, "", "")]
        while waiting:
            info, lead, below = waiting.pop()
            name = visible(info.path.rpartition("/")[2] if lead else info.path or "/")
            size = f"  [{shown_bytes(info.size, human)}]" if info.kind == "file" else ""
            level = info.path.count("/") - top.path.count("/") if top.path else len(info.path.split("/"))
            level = 0 if info.path == top.path else level
            context.out.line(
                f"{lead}{name}{'/' if info.kind == 'dir' and info.path else ''}{size}",
                info.kind,
                path=info.path,
                depth=level,
                size=info.size,
            )
            if info.kind == "dir" and (depth is None or level < depth):
                entries = store.ls(info.path, moment)
                for entry in reversed(entries):
                    last = entry is entries[-1]
                    waiting.append((entry, below + ("└── " if last else "├── "), below + ("    " if last else "│   ")))

    return context.each(store, paths or ("",), moment, show)


@command()
@click.argument("paths", nargs=-1, required=True)
@at_option
def stat(context: Context, paths: tuple[str, ...], at: str | None) -> int:
    """Show what is known of a path."""
    from dfs.render import entry_values, moment

    store = context.open()
    number = store.at(at)

    def show(path: str) -> None:
        info = store.stat(path, number)
        values = {**entry_values(info), "time_ms": store.time_ms(info.version)}
        values["replicas"] = store.replicas_of(path, number)
        told = {"kind": info.kind, **values, "changed": moment(values["time_ms"])}
        text = "\n".join(f"{name + ':':<14}{value}" for name, value in told.items() if value not in (None, ""))
        context.out.line(text, info.kind, **values)

    return context.each(store, paths, number, show)


@command()
@click.argument("paths", nargs=-1)
@click.option("--name", metavar="GLOB", help="Only files whose name matches.")
@click.option("--print0", "-0", is_flag=True, help="End each path with NUL, unchanged: for `xargs -0`.")
@at_option
def find(context: Context, paths: tuple[str, ...], name: str | None, print0: bool, at: str | None) -> int:
    """List every file below PATHS, one path a line."""
    from dfs.render import entry_values, visible

    store = context.open()
    moment = store.at(at)

    def show(path: str) -> None:
        for info in store.find(path, moment):
            if name is not None and not fnmatch.fnmatchcase(info.path.rpartition("/")[2], name):
                continue
            if print0:
                click.echo(f"{info.path}\0".encode(), nl=False)
            else:
                context.out.line(visible(info.path), "file", **entry_values(info))

    return context.each(store, paths or ("",), moment, show)


@command(human=True)
@click.argument("paths", nargs=-1)
@click.option("--summary", "-s", is_flag=True, help="Only the total of each path.")
@at_option
def du(context: Context, paths: tuple[str, ...], summary: bool, at: str | None, human: bool) -> int:
    """Show how much is in folders. Columns: logical bytes, unique bytes (equal chunks once), path.

    The total of each path has what the nodes store for it, over all copies, and two ratios: logical to unique bytes
    (deduplication), and unique bytes to those stored of one copy (compression).
    """
    from dfs.render import counted, shown_bytes, visible
    from dfs.usage import measure

    store = context.open()
    moment = store.at(at)

    def show(path: str) -> None:
        entries = [] if summary or store.stat(path, moment).kind == "file" else store.ls(path, moment)
        for entry in entries:
            part = store.namespace.totals(entry.path, moment)
            sizes = f"{shown_bytes(part.logical_bytes, human):>14} {shown_bytes(part.unique_bytes, human):>14}"
            name = visible(entry.path) + ("/" if entry.kind == "dir" else "")
            context.out.line(
                f"{sizes}  {name}",
                entry.kind,
                path=entry.path,
                files=part.files,
                logical_bytes=part.logical_bytes,
                unique_bytes=part.unique_bytes,
            )
        used = measure(store, path, moment)
        shown = {name: shown_bytes(getattr(used, f"{name}_bytes"), human) for name in ("logical", "unique", "stored")}
        told = [counted(used.files, "file"), *(f"{size} {name}" for name, size in shown.items())]
        told += [f"deduplication {used.deduplication or 1:.2f}", f"compression {used.compression or 1:.2f}"]
        context.out.line(f"{visible(path) or '/'}: {', '.join(told)}", "total", path=path, **used.values())

    return context.each(store, paths or ("",), moment, show)


@command()
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "--algorithm",
    "-a",
    type=click.Choice(["content", "blake3", "sha256", "md5"]),
    default="content",
    show_default=True,
    help="content: the store's own, which reads nothing; the others read the file, as b3sum, sha256sum, md5sum do.",
)
@click.option("--recursive", "-r", "-R", is_flag=True, help="All files below folders.")
@at_option
def checksum(context: Context, paths: tuple[str, ...], algorithm: str, recursive: bool, at: str | None) -> int:
    """Show a checksum of each file's content. Equal contents have equal ones, whatever their paths."""
    from dfs.excerpts import digest
    from dfs.render import visible

    store = context.open()
    moment = store.at(at)

    def show(path: str) -> None:
        store.namespace.need(path, moment, None if recursive else "file")
        for info in store.find(path, moment):
            value = info.content_id if algorithm == "content" else digest(store, info.path, moment, algorithm)
            context.out.line(
                f"{value}  {visible(info.path)}", "checksum", path=info.path, algorithm=algorithm, checksum=value
            )

    return context.each(store, paths, moment, show)


@command()
@click.argument("paths", nargs=-1, required=True)
@at_option
def where(context: Context, paths: tuple[str, ...], at: str | None) -> int:
    """Show the chunks of files and their nodes. Columns: offset, length, id, nodes in the order they are read."""
    store = context.open()
    moment = store.at(at)
    folders = store.node_paths()

    def show(path: str) -> None:
        for ref in store.chunks(path, moment):
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

    return context.each(store, paths, moment, show)
