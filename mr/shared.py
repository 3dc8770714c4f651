"""What functions in tasks share: side files, broadcast values, and resources that a worker builds once.

Each is a small handle that travels with the function. Content, not place, is what fingerprints see of it: a handle's
class says so in `__fingerprint__`. Copies lie in MR_HOME/side, named by their content; `mr prune` may remove them.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import cloudpickle
from blake3 import blake3
from msgspec import Struct

from mr.errors import InputError, InputNotFound, PlanError
from mr.fingerprint import Unfingerprintable, digest
from mr.options import SHARED_KEPT
from mr.pieces import OpenedPiece
from mr.scratch import attempt_tag
from mr.storage import list_files
from mr.task_context import Context, running
from mr.tasks import PieceRef

T = TypeVar("T")
COPY_BLOCK_BYTES = 1 << 22

_built: OrderedDict[str, Any] = OrderedDict()
"""What this process has built, by identity: the least recently used goes first."""


def _once(key: str, build: Callable[[], T]) -> T:
    if key not in _built:
        with running(Context()):  # whichever task is first: what is built must not hang on it, nor count for it
            _built[key] = build()
        while len(_built) > SHARED_KEPT:
            _built.popitem(last=False)
    _built.move_to_end(key)
    made: T = _built[key]
    return made


# --- side files ------------------------------------------------------------------------------------------------------


class SideFile(str):
    """The local path of a copy of a side file; `digest` is the BLAKE3 of its content."""

    digest: str

    def __reduce__(self) -> tuple[object, ...]:
        return _side_file, (str(self), self.digest)

    def __fingerprint__(self) -> tuple[object, ...]:
        return "side file", self.digest


def _side_file(path: str, digest: str) -> SideFile:
    if not os.path.exists(path):
        raise InputError(f"{path}: the copy of a side file is gone; submit the job again")
    made = SideFile(path)
    made.digest = digest
    return made


def side_file(path: str | os.PathLike[str]) -> str:
    """A local path with the content that the file at `path` has now, for functions in tasks to open.

    `path`: local, dfs:// or any fsspec URL. The file is copied, so that all tasks read the same; its content is part of
    the fingerprints of the functions that use it. Raises InputNotFound, InputError; PlanError if it is not one file.

    >>> import mr, tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "stop.txt").write_text("the")
    ...     stop = mr.side_file(folder + "/stop.txt")
    >>> mr.from_items(["the", "mill"]).filter(lambda word: word != open(stop).read()).take_all()
    ['mill']
    """
    files = list_files(os.fspath(path))
    if not files:
        raise InputNotFound(f"{os.fspath(path)}: no such file")
    if len(files) > 1:
        raise PlanError(f"side_file({os.fspath(path)!r}): {len(files)} files match; a side file is one")
    file = files[0]
    chunks = tuple((id, length) for id, length, _ in file.chunks)
    piece = OpenedPiece(PieceRef(file.path, 0, file.size, None, None, file.store, chunks))
    kept, content = _kept(piece.blocks(COPY_BLOCK_BYTES), os.path.basename(file.path.rstrip("/")))
    return _side_file(str(kept), content)


def _kept(blocks: Iterable[Any], name: str) -> tuple[Path, str]:
    """The blocks as a file in MR_HOME/side, and the BLAKE3 of its content, by which it is called."""
    from mr.session import current  # workers load this module, too; they have no session

    folder, temporary = current().home / "side", current().home / "tmp"
    for made in (folder, temporary):
        made.mkdir(parents=True, exist_ok=True)
    hasher = blake3()
    tag = attempt_tag("0.0#0")  # as that of an attempt, so that the file is swept if this process dies
    handle, temp = tempfile.mkstemp(prefix=f"side.{tag}-", dir=temporary)
    try:
        with open(handle, "wb") as file:
            for block in blocks:
                hasher.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        content = str(hasher.hexdigest())
        kept = folder / f"{content[:32]}-{name}"
        os.replace(temp, kept)
    except BaseException:
        with suppress(OSError):
            os.unlink(temp)
        raise
    return kept, content


# --- values ----------------------------------------------------------------------------------------------------------


class Broadcast(Struct, Generic[T], frozen=True):
    """The handle of a broadcast value, which lies pickled at `path`."""

    path: str
    identity: str

    @property
    def value(self) -> T:
        """The value, read once by each worker. Do not change it: other tasks see the same object.

        >>> broadcast({"a": 1}).value["a"]
        1
        """
        return _once(self.identity, self._load)

    def _load(self) -> T:
        try:
            with open(self.path, "rb") as file:
                loaded: T = pickle.load(file)
        except FileNotFoundError:
            raise InputError(f"{self.path}: a broadcast value is gone; submit the job again") from None
        return loaded

    def __fingerprint__(self) -> tuple[object, ...]:
        return "broadcast", self.identity


def broadcast(value: T) -> Broadcast[T]:
    """A handle of a value for functions in tasks: `.value` there. It is pickled now, and read once by each worker.

    For large values: what a function merely closes over is sent with every stage. The value's content is part of the
    fingerprints of the functions that use it. Raises PlanError for what cannot be pickled.

    >>> import mr
    >>> names = mr.broadcast({1: "one", 2: "two"})
    >>> mr.from_items([2, 1]).map(lambda n: names.value[n]).take_all()
    ['two', 'one']
    """
    try:
        data = cloudpickle.dumps(value)
    except Exception as error:  # whatever the user's objects raise when they are pickled
        raise PlanError(f"broadcast(): a value of type {type(value).__name__} cannot be pickled: {error}") from None
    kept, content = _kept([data], "broadcast")
    try:
        return Broadcast(str(kept), digest(value))
    except Unfingerprintable:
        return Broadcast(str(kept), content)


class Resource(Generic[T]):
    """The handle of a resource: call it for the object."""

    def __init__(self, build: Callable[[], T], key: str) -> None:
        self._build = build
        self._key = key

    def __call__(self) -> T:
        """The object, built by this process when it is first asked for.

        >>> resource(list)()
        []
        """
        return _once(self._key, self._build)

    def __reduce__(self) -> tuple[object, ...]:
        key = self._key
        with suppress(Unfingerprintable):
            key = digest(self._build)  # in another program or job, the same code builds the same
        return Resource, (self._build, key)

    def __fingerprint__(self) -> tuple[object, ...]:
        return "resource", self._build


def resource(build: Callable[[], T]) -> Resource[T]:
    """A handle of something expensive and read-only, such as a model: `build()` runs once in each worker that asks.

    Call the handle inside a function for the object. `build` is part of the fingerprint as any function is; a file that
    it opens is best given by `side_file`. Raises PlanError if `build` is no function.

    >>> import mr, re
    >>> pattern = mr.resource(lambda: re.compile("mill"))
    >>> mr.from_items(["a mill", "a race"]).filter(lambda text: pattern().search(text)).take_all()
    ['a mill']
    """
    if not callable(build):
        raise PlanError(f"resource(): {build!r} is not a function; broadcast() shares a value")
    return Resource(build, os.urandom(16).hex())
