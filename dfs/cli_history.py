"""`dfs versions snapshot diff restore retention`: what was there before, and how to get it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dfs.cli_care import retention_days
from dfs.cli_command import Context, at_option, command, dry_run_option, yes_option
from dfs.errors import NotFound, UsageProblem

if TYPE_CHECKING:
    from dfs.changes import Change
    from dfs.store import Store


@command(human=True)
@click.argument("paths", nargs=-1, required=True)
def versions(context: Context, paths: tuple[str, ...], human: bool) -> int:
    """List what paths held before, newest first. Columns: transaction, time, size, until which transaction, path."""
    from dfs.render import moment, shown_bytes, visible

    store = context.open()

    def show(path: str) -> None:
        for found in store.versions(path):
            size = "folder" if found.kind == "dir" else shown_bytes(found.size or 0, human)
            until = "now" if found.ended is None else str(found.ended)
            context.out.line(
                f"{found.txn:>8} {moment(found.time_ms)} {size:>14}  until {until:<8} {visible(path)}",
                "version",
                path=path,
                txn=found.txn,
                ended=found.ended,
                time_ms=found.time_ms,
                of=found.kind,
                size=found.size,
                content_id=found.content_id,
            )

    return context.each(store, paths, store.txn(), show)


snapshot = click.Group("snapshot", help="Name states of the store, to keep them.")


@command()
@click.argument("name")
@at_option
def create(context: Context, name: str, at: str | None) -> None:
    """Keep the state as it is now (or was at --at) under NAME."""
    from dfs.changes import TakeSnapshot

    store = context.open()
    context.publish(store, [TakeSnapshot(name, None if at is None else store.at(at))], "created")


@command()
def list_(context: Context) -> None:
    """List snapshots: transaction, time, name."""
    from dfs.render import moment, visible

    for found in context.open().snapshots():
        context.out.line(
            f"{found.txn:>8} {moment(found.time_ms)}  {visible(found.name)}",
            "snapshot",
            name=found.name,
            txn=found.txn,
            time_ms=found.time_ms,
        )


@command()
@click.argument("names", nargs=-1, required=True)
@yes_option
def delete(context: Context, names: tuple[str, ...], yes: bool) -> None:
    """Forget snapshots. What only they keep is deleted by the next `dfs gc`."""
    from dfs.changes import DropSnapshot

    store = context.open()
    lacking = set(names) - {found.name for found in store.snapshots()}
    if lacking:
        raise NotFound(f"no such snapshot: {min(lacking)}")
    context.confirm(f"{len(names)} snapshot{'s' if len(names) > 1 else ''} would be forgotten", yes)
    context.publish(store, [DropSnapshot(name) for name in names], "deleted")


for _verb in (create, list_, delete):
    snapshot.add_command(_verb)
del create, list_, delete, _verb


@command(human=True)
@click.argument("before", metavar="A")
@click.argument("after", metavar="B", required=False)
@click.argument("path", default="")
def diff(context: Context, before: str, after: str | None, path: str, human: bool) -> None:
    """Show what differs between two moments, at or below PATH.

    A and B are transactions, snapshots, times, or now (which B is by default). + is added, - removed, * modified, >
    moved.
    """
    from dfs.render import shown_bytes, visible

    signs = {"added": "+", "removed": "-", "modified": "*", "moved": ">"}
    a, b = (None if text == "now" else text for text in (before, after))
    for found in context.open().diff(a, b, path):
        name = visible(found.path) + ("/" if found.is_folder else "")
        old = f"{visible(found.old_path)} -> " if found.old_path not in (None, found.path) else ""
        sizes = " -> ".join(
            shown_bytes(size, human) for size in (found.size_before, found.size_after) if size is not None
        )
        context.out.line(
            f"{signs[found.kind]} {old}{name}" + (f"  ({sizes})" if sizes and not found.is_folder else ""),
            "difference",
            how=found.kind,
            path=found.path,
            old_path=found.old_path,
            size_before=found.size_before,
            size_after=found.size_after,
            folder=found.is_folder,
        )


@command()
@click.argument("paths", nargs=-1, required=True)
@at_option
@click.option("--to", metavar="PATH", help="Put it there, and leave what is at PATH as it is (one path only).")
@dry_run_option
def restore(context: Context, paths: tuple[str, ...], at: str | None, to: str | None, dry_run: bool) -> None:
    """Bring files or folders back as they were. They take the place of what is there now; / is the whole tree."""
    from dfs.paths import normalise

    if at is None:
        raise UsageProblem("--at says which state to bring back; `dfs versions PATH` lists them")
    if to is not None and len(paths) > 1:
        raise UsageProblem("--to takes one path")
    store = context.open()
    moment = store.at(at)
    names = context.paths(store, paths, moment)
    targets = names if to is None else [normalise(to)]
    changes = [
        change
        for name, target in zip(names, targets, strict=True)
        for change in _restored(store, name, target, moment, replace=to is None)
    ]
    if dry_run:
        for name, target in zip(names, targets, strict=True):
            context.planned("restore", name, to=target, txn=moment)
    elif changes:
        txn = context.publish(store, changes, "restored")
        if to is None:
            context.undo(targets, txn)


def _restored(store: Store, name: str, target: str, at: int, replace: bool) -> list[Change]:
    """The changes that bind `target` to what `name` held; none when nothing differs. The root cannot be bound: its
    entries are, one by one."""
    from dfs.changes import Copy, Remove

    store.stat(name, at)
    if name != target:
        return [Copy(name, target, at, replace)]
    if next(store.diff(at, None, name), None) is None:
        return []
    if name:
        return [Copy(name, name, at, replace=True)]
    now = {info.path for info in store.ls("")}
    then = [info.path for info in store.ls("", at)]
    changes: list[Change] = [Remove(path, recursive=True) for path in sorted(now - set(then))]
    return changes + [change for path in then for change in _restored(store, path, path, at, replace)]


@command()
@click.argument("days", metavar="[DAYS|forever]", required=False)
@yes_option
def retention(context: Context, days: str | None, yes: bool) -> None:
    """Show or set how long what was replaced or removed is kept. 0: not at all."""
    from dfs.changes import SetRetention
    from dfs.options import RETENTION_DAYS

    store = context.open()
    now = store.namespace.settings().get("retention_days", RETENTION_DAYS)
    if days is None:
        shown = "forever" if now < 0 else f"{now} days"
        context.out.line(shown, "retention", days=None if now < 0 else now)
        return
    wanted = retention_days(days)
    if 0 <= wanted < now or now < 0 <= wanted:
        context.confirm(f"the next `dfs gc` would delete history older than {wanted} days", yes)
    context.publish(store, [SetRetention(wanted)], "set")
