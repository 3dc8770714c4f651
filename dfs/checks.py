"""`dfs fsck` and `dfs doctor`: look at a store and say what is wrong with it."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from importlib import metadata as distributions

from dfs.disk import suspect_reason
from dfs.health import Finding, Health, examine
from dfs.members import node_report
from dfs.options import RETENTION_DAYS
from dfs.render import Output, human_bytes, visible
from dfs.repair import repair
from dfs.store import Store
from dfs.witness import log_faults

DAMAGED = 12  # exit code


def check(store: Store, out: Output, read_data: bool, heal: bool) -> int:
    """Report the health of namespace, nodes, logs and chunks; returns the exit code: 12 when damage is left, else 0.

    Ends safe mode when every node could be read. Raises NodeFailed when a node cannot say what it holds.
    """
    faults = list(_faults(store, out, read_data))
    with out.progress("fsck", noun="copies") as progress:
        health = examine(store, read_data=read_data, progress=lambda copies: progress.count(copies))
    _show(store, out, health)
    _end_safe_mode(store, out, faults)
    if not (heal and health.to_repair):
        return DAMAGED if health.damaged or faults else 0
    with out.progress("repair", noun="copies") as progress:
        done = repair(store, now=True, health=health, progress=progress.count)
    for failure in done.failures:
        out.line(f"not healed       {failure}", "not_healed", reason=failure)
    out.line(
        f"healed: {done.copies:,} copies written, {done.drops:,} removed",
        "healed",
        copies=done.copies,
        drops=done.drops,
    )
    return 0 if done.complete and not faults else DAMAGED


def _faults(store: Store, out: Output, read_data: bool) -> Iterator[str]:
    """What is wrong with the namespace and the logs, shown as it is found. Nodes that are away or suspect are shown; by
    themselves they are no damage."""
    for fault in store.check_namespace():
        out.line(f"namespace        {fault}", "namespace", fault=fault)
        yield fault
    for node, folder in sorted(store.node_paths().items()):
        if node in store.absent:
            why = store.absent[node]
            out.line(f"absent           node {node}: {why}", "absent", node=node, reason=why)
            continue
        if suspected := suspect_reason(folder):
            out.line(f"suspect          {suspected}", "suspect", node=node, reason=suspected)
        for fault in log_faults(store, folder, read_data):
            out.line(f"log              node {node}: {fault}", "log", node=node, fault=fault)
            yield fault


def _end_safe_mode(store: Store, out: Output, faults: list[str]) -> None:
    reason = store.safe_mode
    if reason is None:
        return
    if store.absent or faults:
        out.line(f"safe mode goes on: {reason}", "safe_mode", ended=False, reason=reason)
        return
    store.namespace.set_local("safe_mode", None)
    out.line(f"safe mode is over: every node was read ({reason})", "safe_mode", ended=True, reason=reason)


def _show(store: Store, out: Output, health: Health) -> None:
    """Each kind apart, with the files concerned, then the sum."""
    kinds = {
        "missing": health.missing,
        "waiting": health.waiting,
        "corrupt": health.corrupt,
        "under-replicated": health.under_replicated,
        "over-replicated": health.over_replicated,
        "misplaced": health.misplaced,
        "orphaned": health.orphaned,
    }
    named = [finding.chunk for kind, found in kinds.items() if kind != "orphaned" for finding in found]
    files = store.namespace.files_of_many(named, store.txn()) if named else {}
    for kind, found in kinds.items():
        for finding in found:
            _show_one(out, kind, finding, files.get(finding.chunk, []))
    if health.waiting:
        out.hint(waits_for(store.absent))
    counts = {kind.replace("-", "_"): len(found) for kind, found in kinds.items()}
    told = ", ".join(f"{len(found):,} {kind}" for kind, found in kinds.items() if found or kind != "waiting")
    state = "damaged" if health.damaged else "healthy"
    out.line(f"{state}: {health.chunks:,} chunks, {told}", "result", state=state, chunks=health.chunks, **counts)


def waits_for(absent: Iterable[str]) -> str:
    """What to do about chunks whose copies may be on nodes that are absent."""
    names = ", ".join(sorted(absent))
    each = "; ".join(f"`dfs nodes remove --lost {name}`" for name in sorted(absent))
    return f"what waits, waits for absent node {names}: bring it back, or {each}"


def _show_one(out: Output, kind: str, finding: Finding, files: list[str]) -> None:
    good, bad = finding.copies.good, finding.copies.bad
    where = f"good on {len(good)} nodes" + "".join(f"; bad on {node}: {why}" for node, why in bad)
    out.line(
        f"{kind:<17}{finding.chunk}  {', '.join(map(visible, files)) or '(no file)'}  ({where})",
        kind,
        chunk=finding.chunk,
        files=files,
        replicas=finding.replicas,
        good=list(good),
        bad=[{"node": node, "reason": why} for node, why in bad],
    )


def diagnose(store: Store, out: Output) -> int:
    """Versions, settings and nodes; returns 1 when a node cannot be used."""
    versions = {name: distributions.version(name) for name in ("millrace", "apsw", "blake3", "pyfastcdc", "pyarrow")}
    told = " ".join(f"{name} {version}" for name, version in versions.items())
    python = platform.python_version()
    out.line(f"versions: Python {python}, {told}", "versions", python=python, **versions)
    sizes = {"min": store.sizes.min, "avg": store.sizes.avg, "max": store.sizes.max}
    days = store.namespace.settings().get("retention_days", RETENTION_DAYS)
    out.line(
        f"store:    {store.path} {store.uuid}, transaction {store.txn()}, {store.replicas} replicas, chunks {sizes}, "
        f"durability {store.durability}, history {'for ever' if days < 0 else f'of {days} days'}",
        "store",
        path=str(store.path),
        uuid=store.uuid,
        txn=store.txn(),
        replicas=store.replicas,
        chunk_bytes=sizes,
        durability=store.durability,
        retention_days=days,
        safe_mode=store.safe_mode,
    )
    if store.safe_mode is not None:
        out.line(f"safe mode: {store.safe_mode}; `dfs fsck` ends it", "safe_mode", reason=store.safe_mode)
    bad = 0
    for node in node_report(store):
        bad += node.fault is not None
        free = node.free_bytes or 0
        state = node.fault or f"{'ok' if node.state == 'active' else node.state}, {human_bytes(free)} free"
        out.line(
            f"node:     {node.id} {node.path}: {state}",
            "node",
            node=node.id,
            **{name: value for name, value in node.values().items() if name != "id"},
        )
    return 1 if bad else 0
