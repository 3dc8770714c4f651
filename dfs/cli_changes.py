"""`dfs cp mv rm mkdir setrep`: changes of the namespace. Each call is one transaction: all of it, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dfs.cli_command import Context, at_option, command, dry_run_option, recursive_option
from dfs.errors import AlreadyExists, NotFound, UsageProblem, WrongKind

if TYPE_CHECKING:
    from dfs.changes import Copy
    from dfs.store import Store

_force_option = click.option("--force", "-f", is_flag=True, help="Replace files that exist (their versions are kept).")


@command()
@click.argument("sources", nargs=-1, required=True)
@click.argument("destination")
@recursive_option
@_force_option
@at_option
@dry_run_option
def cp(
    context: Context,
    sources: tuple[str, ...],
    destination: str,
    recursive: bool,
    force: bool,
    at: str | None,
    dry_run: bool,
) -> None:
    """Copy files, with -r folders, within the store. Into DESTINATION if it is a folder; no byte is copied."""
    store = context.open()
    moment = store.at(at)
    changes: list[Copy] = []
    for source, target in _pairs(context, store, sources, destination, moment):
        if store.stat(source, moment).kind == "dir" and not recursive:
            raise WrongKind(f"dfs://{source} is a folder; -r copies it with all that is in it")
        changes += _copies(store, source, target, None if at is None else moment, force)
    if dry_run:
        for change in changes:
            context.planned("copy", change.src, to=change.dst)
    else:
        context.publish(store, changes, "copied")


def _copies(store: Store, source: str, target: str, at: int | None, force: bool) -> list[Copy]:
    """One change; for a folder onto a folder with `force`, one for each file, so that what else is there stays."""
    from dfs.changes import Copy
    from dfs.paths import join

    if target == source or target.startswith(f"{source}/"):
        raise UsageProblem(f"dfs://{source} cannot be copied to dfs://{target}, which is the same or in it")
    if not store.exists(target):
        return [Copy(source, target, at)]
    kinds = store.stat(source, at).kind, store.stat(target).kind
    if not force:
        raise AlreadyExists(f"dfs://{target} exists; -f replaces it")
    if kinds[0] != kinds[1]:
        raise WrongKind(f"dfs://{target} is a {_KINDS[kinds[1]]}, dfs://{source} is a {_KINDS[kinds[0]]}")
    if kinds[0] == "file":
        return [Copy(source, target, at, replace=True)]
    found = [(info.path, join(target, info.path[len(source) + 1 :])) for info in store.find(source, at)]
    return [Copy(path, to, at, replace=True) for path, to in found]


_KINDS = {"file": "file", "dir": "folder"}


@command()
@click.argument("sources", nargs=-1, required=True)
@click.argument("destination")
@_force_option
@dry_run_option
def mv(context: Context, sources: tuple[str, ...], destination: str, force: bool, dry_run: bool) -> None:
    """Move or rename files and folders. Into DESTINATION if it is a folder; no byte is copied."""
    from dfs.changes import Move

    store = context.open()
    pairs = _pairs(context, store, sources, destination, store.txn())
    if dry_run:
        for source, target in pairs:
            context.planned("move", source, to=target)
    else:
        context.publish(store, [Move(source, target, force) for source, target in pairs], "moved")


def _pairs(
    context: Context, store: Store, sources: tuple[str, ...], destination: str, at: int
) -> list[tuple[str, str]]:
    """(source, target) of each path that the sources name. Raises NotFound, WrongKind."""
    from dfs.paths import join, normalise

    target = normalise(destination)
    into = store.exists(target) and store.stat(target).kind == "dir"
    paths = context.paths(store, sources, at)
    for path in paths:
        store.stat(path, at)
    if not into and (len(paths) > 1 or destination.endswith("/")):
        raise WrongKind(f"dfs://{target} is not a folder" + ("; several sources need one" if len(paths) > 1 else ""))
    return [(path, join(target, path.rpartition("/")[2]) if into else target) for path in paths]


@command()
@click.argument("paths", nargs=-1, required=True)
@recursive_option
@click.option("--force", "-f", is_flag=True, help="No error for what is not there.")
@dry_run_option
def rm(context: Context, paths: tuple[str, ...], recursive: bool, force: bool, dry_run: bool) -> None:
    """Remove files or empty folders, with -r whole folders. All at once, or none; `dfs restore` brings them back."""
    from dfs.changes import Remove
    from dfs.paths import parents

    store = context.open()
    found: list[str] = []
    for pattern in paths:
        try:
            found += [path for path in context.paths(store, [pattern], store.txn()) if store.stat(path)]
        except NotFound:
            if not force:
                raise
    names = list(dict.fromkeys(found))
    if recursive:  # what is in a folder that goes too goes with it
        tops = set(names)
        names = [name for name in names if tops.isdisjoint(parents(name))]
    if dry_run:
        for name in names:
            if store.stat(name).kind == "dir" and not recursive and store.ls(name):
                raise WrongKind(f"dfs://{name} is a folder that is not empty; -r removes it with all that is in it")
            context.planned("remove", name)
    elif names:
        context.undo(names, context.publish(store, [Remove(name, recursive) for name in names], "removed"))


@command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--parents", "-p", is_flag=True, help="No error if it exists. (Parents are made anyway.)")
def mkdir(context: Context, paths: tuple[str, ...], parents: bool) -> None:
    """Make folders."""
    from dfs.changes import MakeDir
    from dfs.paths import normalise

    store = context.open()
    for path in map(normalise, paths):
        if not parents and store.exists(path):
            raise AlreadyExists(f"dfs://{path} exists")
    context.publish(store, [MakeDir(path) for path in paths], "made")


@command()
@click.argument("replicas", metavar="NUMBER|default")
@click.argument("paths", nargs=-1, required=True)
@click.option("--recursive", "-r", "-R", is_flag=True, help="Taken for granted: it counts for all below.")
def setrep(context: Context, replicas: str, paths: tuple[str, ...], recursive: bool) -> None:
    """Set the number of copies of files or folders. It counts for all below a folder; `dfs repair` makes them."""
    from dfs.changes import SetReplicas

    if replicas != "default" and not (replicas.isascii() and replicas.isdigit() and int(replicas) > 0):
        raise UsageProblem(f"{replicas!r} is no number of copies: 1 or more, or default")
    store = context.open()
    number = None if replicas == "default" else int(replicas)
    names = context.paths(store, paths, store.txn())
    context.publish(store, [SetReplicas(name, number) for name in names], "set")
    context.out.hint("copies are made and removed by: dfs repair")
