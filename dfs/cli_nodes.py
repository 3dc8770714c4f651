"""`dfs df` and `dfs nodes list|add|drain|remove`: the folders that hold the chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dfs.cli_command import Context, command, size_bytes, yes_option

if TYPE_CHECKING:
    from dfs.members import NodeReport

DAMAGED = 12

nodes = click.Group(
    "nodes", help="Manage the folders that hold the chunks. A node is named by its path, its id, or 4 digits of it."
)


def _show(context: Context, report: NodeReport, human: bool) -> None:
    from dfs.render import shown_bytes, visible

    sizes = "".join(
        f" {'-' if size is None else shown_bytes(size, human):>15}"
        for size in (report.capacity_bytes, report.used_bytes, report.free_bytes)
    )
    state = "absent" if report.absent else "removable" if report.removable else report.state
    fault = f"  ({report.fault})" if report.fault else ""
    context.out.line(f"{report.id[:8]} {state:<9}{sizes}  {visible(report.path)}{fault}", "node", **report.values())


@command(human=True)
def df(context: Context, human: bool) -> None:
    """Show the space of nodes. Columns: id, state, capacity (- for the whole disk), used and free bytes, path."""
    from dfs.members import node_report

    for report in node_report(context.open()):
        _show(context, report, human)


@command(human=True)
def list_(context: Context, human: bool) -> None:
    """List nodes. Columns: id, state, capacity (- for the whole disk), used and free bytes, path."""
    from dfs.members import node_report

    for report in node_report(context.open()):
        _show(context, report, human)


@command()
@click.argument("path")
@click.option("--weight", type=float, help="Its share beside the others'. Default: 1.")
@click.option("--capacity", type=size_bytes, metavar="BYTES", help="Use no more than this. Default: the disk.")
def add(context: Context, path: str, weight: float | None, capacity: int | None) -> None:
    """Take the folder PATH as a node; or take one up again that was moved or drained."""
    from dfs.members import add_node

    _show(context, add_node(context.open(), path, weight=weight, capacity=capacity), human=True)
    context.out.hint("move chunks to it with: dfs repair")


@command()
@click.argument("node")
@click.option("--rate", type=size_bytes, metavar="BYTES", help="At most so many bytes a second, as 50M.")
def drain(context: Context, node: str, rate: int | None) -> int:
    """Move everything off a node, so that it can be removed."""
    from dfs.members import drain_node

    store = context.open()
    with context.out.progress("drain", noun="copies") as progress:
        done = drain_node(store, node, rate=rate, progress=progress.count)
    for failure in done.repaired.failures:
        context.out.line(f"failed: {failure}", "failure", reason=failure)
    _show(context, done.node, human=True)
    if done.node.removable:
        context.out.hint(f"it is empty of what is needed: dfs nodes remove {done.node.id[:8]}")
    return 0 if done.node.removable else DAMAGED if done.repaired.missing else 1


@command()
@click.argument("node")
@click.option("--lost", is_flag=True, help="It is gone for good, without having been drained.")
@click.option("--force", is_flag=True, help="With --lost: also if chunks are lost with it.")
@yes_option
def remove(context: Context, node: str, lost: bool, force: bool, yes: bool) -> None:
    """Forget a node that was drained. Its folder is not touched."""
    from dfs.members import find_node, remove_node
    from dfs.render import visible

    store = context.open()
    if lost:
        found = find_node(store, node)
        context.confirm(f"node {found.id[:8]} {visible(found.path)} would be given up with what it holds", yes)
    done = remove_node(store, node, lost=lost, force=force)
    lost_too = f"; {done.lost_chunks} chunks are lost with it" if done.lost_chunks else ""
    context.out.line(
        f"removed {done.id[:8]} {visible(done.path)}{lost_too}",
        "removed",
        id=done.id,
        path=done.path,
        lost_chunks=done.lost_chunks,
    )


for _verb in (list_, add, drain, remove):
    nodes.add_command(_verb)
del list_, add, drain, remove, _verb
