"""What a node can bear witness to, should the namespace be lost: its newest checkpoint, and its log from there on."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dfs.checkpoint_file import listed, read_header, restore
from dfs.disk import Disk
from dfs.errors import DfsError, NodeFailed
from dfs.oplog import OpLog

if TYPE_CHECKING:
    from dfs.store import Store


def log_faults(store: Store, node: Path, read_data: bool = False) -> Iterator[str]:
    """What a rebuild from this node alone would stumble over: the newest checkpoint (`read_data`: all of it), and the
    log from there to the newest transaction."""
    last, chain = store.namespace.last()
    base = -1
    for number, file in listed(node):
        try:
            if read_header(file).txn == number:
                if read_data:
                    _read_checkpoint(file, node)
                base = number
                break
        except FileNotFoundError:  # a newer one has just taken its place
            continue
        except (DfsError, OSError) as error:
            yield str(error)
    if base < 0:
        yield "it has no checkpoint; `dfs checkpoint` writes one"
    before = None
    try:
        for record in OpLog(node, store.disk).records(base):
            if before is not None and not record.follows(before):
                yield f"its log does not go on after transaction {before.txn}; `dfs checkpoint` makes up for it"
                return
            if before is None and record.txn > base + 1:
                yield f"its log begins with transaction {record.txn}, after checkpoint {base}; run `dfs checkpoint`"
                return
            before = record
    except NodeFailed as error:
        yield str(error)
        return
    reached = base if before is None else max(base, before.txn)
    if reached < last:
        yield f"its log ends with transaction {reached}, the store's with {last}; open the store again to copy the rest"
    elif before is not None and before.txn == last and before.chain != chain:
        yield f"its log has another transaction {last} than the store"


def _read_checkpoint(file: Path, node: Path) -> None:
    draft = node / "tmp" / f"fsck.{secrets.token_hex(4)}"
    try:
        restore(file, draft, Disk(sync=False))
    finally:
        draft.unlink(missing_ok=True)
