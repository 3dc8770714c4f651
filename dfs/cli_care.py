"""`dfs init fsck scrub repair gc checkpoint rebuild doctor`: making a store, and keeping it well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click
from msgspec.structs import asdict

from dfs.cli_command import Context, command, dry_run_option, size_bytes, yes_option
from dfs.errors import NodeFailed, UsageProblem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dfs.render import Output
    from dfs.store import Store

DAMAGED = 12

_rate_option = click.option("--rate", type=size_bytes, metavar="BYTES", help="At most so many bytes a second, as 50M.")


@command()
@click.argument("path", required=False)
@click.option("--node", "nodes", multiple=True, metavar="DIR", help="A folder for chunks; repeat it.")
@click.option("--replicas", type=click.IntRange(1), help="Copies of each chunk. Default: 3, or as many as nodes.")
@click.option("--chunk-size", type=size_bytes, metavar="AVG", help="Average chunk size. Default: 16 MiB.")
@click.option(
    "--durability",
    type=click.Choice(["fsync", "none"]),
    default="fsync",
    show_default=True,
    help="none: nothing is forced to the disk; a power cut may destroy the store.",
)
@click.option("--retention", metavar="DAYS|forever", help="How long history is kept. Default: 7 days.")
def init(
    context: Context,
    path: str | None,
    nodes: tuple[str, ...],
    replicas: int | None,
    chunk_size: int | None,
    durability: Literal["fsync", "none"],
    retention: str | None,
) -> None:
    """Make a store at PATH. Default: --store, $DFS_STORE, or the one under your data folder."""
    from dfs.creation import init_store
    from dfs.store import default_path

    where = path or context.store or default_path()
    with init_store(
        where,
        nodes=nodes,
        replicas=replicas,
        chunk_bytes_avg=chunk_size,
        durability=durability,
        retention_days=None if retention is None else retention_days(retention),
    ) as store:
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
            durability=durability,
        )


def retention_days(text: str) -> int:
    """Days of history, -1 for ever. Raises UsageProblem."""
    if text == "forever":
        return -1
    if not (text.isascii() and text.isdigit()):
        raise UsageProblem(f"{text!r} is no number of days, and not forever")
    return int(text)


@command()
@click.option("--read-data", is_flag=True, help="Read and verify every copy, instead of only looking for it.")
@click.option("--heal", is_flag=True, help="Write missing and damaged copies anew from good ones.")
def fsck(context: Context, read_data: bool, heal: bool) -> int:
    """Check namespace, logs and chunks. Exits 12 on damage.

    Chunks may be missing, waiting for an absent node, corrupt, under-replicated (which is damage), over-replicated,
    misplaced, or orphaned.
    """
    from dfs.checks import check

    return check(context.open(), context.out, read_data, heal)


@command()
@_rate_option
@click.option("--restart", is_flag=True, help="Begin a new pass, instead of going on with the last one.")
@click.option("--budget", type=size_bytes, metavar="BYTES", help="Stop after about so many bytes; go on next time.")
def scrub(context: Context, rate: int | None, restart: bool, budget: int | None) -> int:
    """Read every copy of every chunk and heal the bad ones. Goes on where it was interrupted. Exits 12 when something
    is lost."""
    from dfs.checks import waits_for
    from dfs.render import counted, human_bytes, visible
    from dfs.scrub import scrub as run

    store = context.open()
    with context.out.progress("scrub", _stored_bytes(store), noun="copies") as progress:
        done = run(store, rate=rate, restart=restart, budget=budget, progress=progress.reach)
    kinds = {"lost": done.lost, "waiting": done.waiting, "damaged": done.damaged, "lacking": done.lacking}
    for kind, findings in kinds.items():
        for finding in findings:
            files = store.namespace.files_of(finding.chunk, store.txn())
            context.out.line(
                f"{kind:<9}{finding.chunk}  {', '.join(map(visible, files)) or '(no file)'}",
                kind,
                chunk=finding.chunk,
                files=files,
                good=list(finding.copies.good),
                bad=[{"node": node, "reason": why} for node, why in finding.copies.bad],
            )
    _failures(context.out, done.failures)
    context.out.line(
        f"{'pass complete' if done.done else 'not at the end yet'}: {counted(done.copies, 'copy', 'copies')}, "
        f"{human_bytes(done.bytes)} read; {len(done.damaged):,} chunks damaged, {len(done.lacking):,} lacking copies, "
        f"{len(done.lost):,} lost, {done.healed:,} copies healed"
        + (f"; {counted(len(done.waiting), 'chunk')} on no node that is there" if done.waiting else ""),
        "result",
        copies=done.copies,
        bytes=done.bytes,
        damaged=len(done.damaged),
        lacking=len(done.lacking),
        lost=len(done.lost),
        waiting=len(done.waiting),
        healed=done.healed,
        spoilt=done.spoilt,
        failures=len(done.failures),
        done=done.done,
    )
    if done.waiting:
        context.out.hint(waits_for(store.absent))
    return DAMAGED if done.lost or done.failures else 0


def _stored_bytes(store: Store) -> int | None:
    """None when a node cannot tell: the scrub will find out why."""
    try:
        return sum(node.usage().stored_bytes for node in store.replicated.nodes.values())
    except NodeFailed:
        return None


def _failures(out: Output, failures: Iterable[str]) -> None:
    for failure in failures:
        out.line(f"failed: {failure}", "failure", reason=failure)


@command()
@click.option("--now", is_flag=True, help="Also replace the copies of nodes that are absent: they will not come back.")
@_rate_option
@dry_run_option
def repair(context: Context, now: bool, rate: int | None, dry_run: bool) -> int:
    """Make the copies that are lacking. Those in most danger first; then copies in the wrong places are moved."""
    from dfs.checks import waits_for
    from dfs.render import counted, human_bytes
    from dfs.repair import repair as run

    store = context.open()
    with context.out.progress("repair", noun="copies") as progress:
        done = run(store, dry_run=dry_run, now=now, rate=rate, progress=progress.count)
    _failures(context.out, done.failures)
    would = "would have " if dry_run else ""
    context.out.line(
        f"{would}written {counted(done.copies, 'copy', 'copies')} ({human_bytes(done.copied_bytes)}), "
        f"removed {done.drops:,} ({human_bytes(done.dropped_bytes)}); {done.missing:,} chunks have no good copy, "
        f"{done.waiting:,} wait for an absent node"
        + (f"; {counted(done.unplaced, 'chunk')} lack nodes for all the copies asked for" if done.unplaced else ""),
        "result",
        **{**asdict(done), "failures": len(done.failures)},
    )
    if done.waiting:
        context.out.hint(waits_for(store.absent))
    if done.unplaced:
        context.out.hint("add a node with: dfs nodes add, or ask for fewer copies with: dfs setrep")
    return 0 if done.complete else DAMAGED


@command()
@click.option("--force", is_flag=True, help="Also if it deletes more than a tenth of what is stored.")
@click.option("--quarantine", is_flag=True, help="Also what was put aside as damaged, of chunks that are whole again.")
@yes_option
@dry_run_option
def gc(context: Context, force: bool, quarantine: bool, yes: bool, dry_run: bool) -> int:
    """Forget history older than the retention. Chunks that nothing needs any more are deleted."""
    from dfs.gc import collect
    from dfs.render import counted, human_bytes

    store = context.open()
    if force and not dry_run:
        plan = collect(store, dry_run=True)
        context.confirm(f"{human_bytes(plan.bytes)} ({plan.share:.0%} of all) would be deleted", yes)
    with context.out.progress("gc", noun="copies") as progress:
        done = collect(store, dry_run=dry_run, force=force, quarantine=quarantine, progress=progress.count)
    _failures(context.out, done.failures)
    verb = "would delete" if dry_run else "deleted"
    context.out.line(
        f"{verb} {counted(done.chunks, 'chunk')} in {counted(done.copies, 'copy', 'copies')}, "
        f"{human_bytes(done.bytes)} ({done.share:.1%}); history begins at transaction {done.expired_before}"
        + ("; more than a tenth: --force is needed" if dry_run and done.braked else ""),
        "result",
        **{**asdict(done), "failures": len(done.failures)},
    )
    return 1 if done.failures else 0


@command()
def checkpoint(context: Context) -> None:
    """Copy the namespace to the nodes now. It happens by itself from time to time; `dfs rebuild` begins with one."""
    from dfs.checkpoint import write
    from dfs.render import human_bytes

    made = write(context.open())
    context.out.line(
        f"checkpoint of transaction {made.txn}: {human_bytes(made.length)}",
        "checkpoint",
        txn=made.txn,
        bytes=made.length,
    )


@command()
@click.option("--node", "nodes", multiple=True, metavar="DIR", help="A node's folder, if the store cannot tell.")
@click.option("--force", is_flag=True, help="Go on although nodes are missing: what only they know is lost.")
@yes_option
def rebuild(context: Context, nodes: tuple[str, ...], force: bool, yes: bool) -> None:
    """Restore a lost or damaged namespace from the nodes. The damaged one is kept beside it."""
    from dfs.rebuild import rebuild as run
    from dfs.store import default_path

    if force:
        context.confirm("what only missing nodes know would be given up", yes)
    with context.out.progress("rebuild") as progress:
        progress.add(name="reading the nodes")
        done = run(context.store or default_path(), nodes, force)
    for text in done.told:
        context.out.hint(text)
    context.out.line(
        f"rebuilt transaction {done.txn}: checkpoint {done.from_checkpoint} and {done.replayed:,} records of the log, "
        f"from {len(done.nodes_read)} nodes, {len(done.nodes_missing)} missing; run `dfs fsck` next",
        "result",
        **asdict(done),
    )


@command()
def doctor(context: Context) -> int:
    """Show versions, settings, nodes and their free space. Exits 1 when a node cannot be used."""
    from dfs.checks import diagnose

    return diagnose(context.open(), context.out)
