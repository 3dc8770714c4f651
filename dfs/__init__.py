"""The store of Millrace: content-addressed, replicated files. Names are loaded when they are first used.

Rooms, from the bottom: `ids`, `paths`, `chunking`, `codec`, `placement`, `changes` are pure; `chunk_store` is the
contract of a node, `stores` its implementations; `metadata` and `transactions` are the namespace, `oplog` its truth;
`replication` and `repair` keep copies; `store` composes them; `filesystem` is `dfs://` for fsspec, `interop` the
doors to pyarrow and Polars.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfs.changes import (
        ANY,
        Change,
        ChunkRef,
        Copy,
        DropNode,
        DropSnapshot,
        Expire,
        FileManifest,
        MakeDir,
        Move,
        PutFile,
        PutFolder,
        Remove,
        SetNode,
        SetReplicas,
        SetRetention,
        TakeSnapshot,
    )
    from dfs.creation import init_store
    from dfs.errors import DfsError
    from dfs.ids import ChunkId
    from dfs.interop import arrow_filesystem, scan_parquet
    from dfs.metadata import FileInfo
    from dfs.store import Store, open_store

_HOMES = {
    "dfs.changes": "ANY Change ChunkRef Copy DropNode DropSnapshot Expire FileManifest MakeDir Move PutFile PutFolder "
    "Remove SetNode SetReplicas SetRetention TakeSnapshot",
    "dfs.errors": "DfsError",
    "dfs.ids": "ChunkId",
    "dfs.interop": "arrow_filesystem scan_parquet",
    "dfs.metadata": "FileInfo",
    "dfs.creation": "init_store",
    "dfs.store": "Store open_store",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "ANY",
    "Change",
    "ChunkId",
    "ChunkRef",
    "Copy",
    "DfsError",
    "DropNode",
    "DropSnapshot",
    "Expire",
    "FileInfo",
    "FileManifest",
    "MakeDir",
    "Move",
    "PutFile",
    "PutFolder",
    "Remove",
    "SetNode",
    "SetReplicas",
    "SetRetention",
    "Store",
    "TakeSnapshot",
    "arrow_filesystem",
    "init_store",
    "open_store",
    "scan_parquet",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'dfs' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
