"""`dfs fsck` and `dfs doctor`: look at a store and say what is wrong with it."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from importlib import metadata as distributions

from dfs.render import Output, human_bytes
from dfs.repair import plan_heal, plan_health, run_heal, survey
from dfs.store import Store


def check(store: Store, out: Output, read_data: bool, heal: bool) -> int:
    """Report the health of namespace and chunks; returns the exit code: 12 when damage is left, else 0."""
    faults = store.check_namespace()
    for fault in faults:
        out.line(f"namespace        {fault}", "namespace", fault=fault)
    for node, why in store.absent.items():
        out.line(f"absent           node {node}: {why}", "absent", node=node, reason=why)
    needed = frozenset(store.referenced())
    chunks = store.replicated
    health = plan_health(needed, survey(chunks, needed, read_data, _shown(out)), store.replicas)
    findings = [*health.missing, *health.corrupt, *health.under_replicated]
    out.health(health, {finding.chunk: store.files_of(finding.chunk) for finding in findings})
    if not (heal and health.damaged):
        return 12 if health.damaged or faults else 0
    heals = plan_heal(health, lambda chunk: [node.node_id for node in chunks.order(chunk)], store.replicas)
    written, failures = run_heal(chunks, heals)
    for failure in failures:
        out.line(f"not healed       {failure}", "not_healed", reason=failure)
    out.line(f"healed: {written:,} copies written", "healed", copies=written)
    return 12 if failures or faults or health.missing else 0


def _shown(out: Output) -> Callable[[int], None]:
    return lambda done: out.progress(f"{done:,} copies looked at")


def diagnose(store: Store, out: Output) -> int:
    """Versions, settings and nodes; returns 1 when a node cannot be used."""
    versions = {name: distributions.version(name) for name in ("millrace", "apsw", "blake3", "pyfastcdc", "pyarrow")}
    told = " ".join(f"{name} {version}" for name, version in versions.items())
    python = platform.python_version()
    out.line(f"versions: Python {python}, {told}", "versions", python=python, **versions)
    sizes = {"min": store.sizes.min, "avg": store.sizes.avg, "max": store.sizes.max}
    out.line(
        f"store:    {store.path} {store.uuid}, transaction {store.txn()}, {store.replicas} replicas, chunks {sizes}",
        "store",
        path=str(store.path),
        uuid=store.uuid,
        txn=store.txn(),
        replicas=store.replicas,
        chunk_bytes=sizes,
    )
    bad = 0
    for node, folder in sorted(store.node_paths().items()):
        fault = store.absent.get(node) or ("suspect after a failed fsync" if (folder / "suspect").exists() else None)
        free = shutil.disk_usage(folder).free if fault is None else 0
        bad += fault is not None
        state = fault or f"ok, {human_bytes(free)} free"
        out.line(
            f"node:     {node} {folder}: {state}", "node", node=node, path=str(folder), fault=fault, free_bytes=free
        )
    return 1 if bad else 0
