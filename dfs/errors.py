"""The store's errors: one small tree, split by who can recover. Each class carries the exit code of the `dfs` command.

DfsError                       1
  UsageProblem                 2   the caller's argument: fix the call
    InvalidPath                2
    InvalidChunkId             2
    ReadOnly                   2   also a PermissionError
  NotFound                     4   also a FileNotFoundError
  AlreadyExists                1   also a FileExistsError
  WrongKind                    1   a folder where a file is needed, or the reverse
    IsAFolder                  1   also an IsADirectoryError
    NotAFolder                 1   also a NotADirectoryError
    FolderNotEmpty             1   also an OSError
  Conflict                     1   somebody else changed it first: look again and retry
    MembersChanged             1   nodes came or went meanwhile: take them up and retry
  OutcomeUnknown               1   decided but not finished: ask again with the same request id
  BadInput                     1   the bytes to be stored cannot be read (a broken gzip, a decompression bomb)
  NoStore                     10   there is no store there, or it is not ours
  StoreLocked                 11   another writer holds it: retry later
  NodeFailed                   1   a node cannot be read or written now; not corruption
  NotEnoughNodes               1
  CareRefused                  1   a collection, or a removal of a node, that may lose data: look, then force it
  Unsupported                  1   written by a newer release
  StoreDamaged                12   the namespace itself
  ChunkMissing                12   one node does not hold it
  ChunkDamaged                12   one node holds something else under its id
  ChunkLost                   12   no node has a good copy
"""

from __future__ import annotations


class DfsError(Exception):
    """Base of all errors of the store; `str(error)` is one line that says what happened, to what, and what to do."""

    exit_code = 1

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else type(self).__name__


class UsageProblem(DfsError, ValueError):
    """An argument cannot be used."""

    exit_code = 2


class InvalidPath(UsageProblem):
    """A path that the store refuses before any I/O."""


class InvalidChunkId(UsageProblem):
    """Not 64 lower-case hex digits."""


class ReadOnly(UsageProblem, PermissionError):
    """A change through something that was opened at a past state."""


class NotFound(DfsError, FileNotFoundError):
    """No file or folder has this path at this transaction."""

    exit_code = 4


class AlreadyExists(DfsError, FileExistsError):
    """The path is taken."""


class WrongKind(DfsError):
    """A folder where a file is needed, or a file where a folder is needed."""


class IsAFolder(WrongKind, IsADirectoryError):
    """A folder where a file is needed."""


class NotAFolder(WrongKind, NotADirectoryError):
    """A file where a folder is needed."""


class FolderNotEmpty(WrongKind, OSError):
    """A folder that must be empty to be removed."""


class Conflict(DfsError):
    """The destination no longer has the expected version, or a request id was used for other changes."""


class MembersChanged(Conflict):
    """Nodes were added or removed while something was committed; nothing has changed."""


class OutcomeUnknown(DfsError):
    """A transaction is in the log but could not be committed: it will be done. The same request id tells when."""


class BadInput(DfsError):
    """The bytes to be stored cannot be read or decoded."""


class NoStore(DfsError):
    """No store is at the path, or what is there is not a store of ours."""

    exit_code = 10


class StoreLocked(DfsError):
    """Another process held the store's write lock for longer than the time limit."""

    exit_code = 11


class NodeFailed(DfsError):
    """A node cannot be used now (disk full, no permission, too many open files, a failed fsync). Not corruption."""


class NotEnoughNodes(DfsError):
    """Fewer nodes can be written to than replicas are asked for."""


class CareRefused(DfsError):
    """Garbage collection, or the removal of a node, is not safe now; nothing has changed."""


class Unsupported(DfsError):
    """A format of a newer release; it is refused, never repaired."""


class StoreDamaged(DfsError):
    """The namespace is damaged, or is not the newest one that its nodes have seen."""

    exit_code = 12


class ChunkMissing(DfsError):
    """One node does not hold the chunk."""

    exit_code = 12


class ChunkDamaged(DfsError):
    """What one node holds under the id is not the chunk."""

    exit_code = 12


class ChunkLost(DfsError):
    """No node has a good copy of the chunk; names file (when known), chunk, and every node with its reason."""

    exit_code = 12
