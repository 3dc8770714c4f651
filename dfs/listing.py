"""Everything below a folder, by one query however many folders there are."""

from __future__ import annotations

from dfs.metadata import FileInfo, Namespace

_DEEPEST = 4096  # a path has at most so many bytes
# The folders on the way to an entry, each with the newest `from_txn` down to it; a folder's version also follows what
# changed in it (docs/formats/namespace.md, "Version of a path").
_BELOW = """
WITH RECURSIVE tree(path, since, node, depth) AS (
  SELECT ?1, ?2, ?3, 0
  UNION ALL
  SELECT iif(tree.path = '', d.name, tree.path || '/' || d.name), max(tree.since, d.from_txn), d.node, tree.depth + 1
  FROM tree JOIN dentry d ON d.parent = tree.node
  WHERE d.from_txn <= ?4 AND d.to_txn > ?4 AND tree.depth < ?5
)
SELECT tree.path, 'file', f.size, f.records, f.chunk_count, lower(hex(f.content_id)), tree.since, f.records_mode
FROM tree JOIN file f ON f.node = tree.node
"""
_FOLDERS = """
UNION ALL
SELECT tree.path, 'dir', 0, NULL, 0, '',
  max(tree.since, coalesce((SELECT max(c.txn) FROM changed c WHERE c.node = tree.node AND c.txn <= ?4), 0)), ''
FROM tree JOIN node n ON n.id = tree.node AND n.kind = 'dir'
"""


def list_below(
    namespace: Namespace, path: str, at: int, *, depth_max: int | None = None, folders: bool = False
) -> list[FileInfo]:
    """What is at or below a normalised path after transaction `at`, in bytewise order: files, with `folders` those too.

    `depth_max` 1 stops at the entries of the folder. Raises NotFound.
    """
    top = namespace.need(path, at)
    depth = _DEEPEST if depth_max is None else depth_max
    rows = namespace.rows(_BELOW + (_FOLDERS if folders else ""), path, top.since, top.node, at, depth)
    return sorted((FileInfo(*row) for row in rows), key=lambda info: info.path)
