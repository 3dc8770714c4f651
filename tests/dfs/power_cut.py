"""Power cuts, in a program of its own: `power_cut.py FOLDER FIRST LAST OPTIONS` prints a line of JSON for each seed.

What is written goes through a disk that forgets: `FaultDisk` for chunk files, logs and checkpoints, and a VFS below
`cksumvfs` for the databases. A child works on a store until the power goes at some operation: then all that was not
synced is kept, lost or torn by the dice, and the child is gone. The parent opens what is left, reads everything, and
then deletes the database and rebuilds it: every acknowledged transaction must be there, both times.

A program of its own, because SQLite's default VFS must be ours before `cksumvfs` is loaded on top of it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import one_thread  # noqa: F401 - before dfs

SECTOR = 512
CUT = 7  # exit code of the child whose power went

# -- a disk and a VFS that forget -------------------------------------------------------------------------------------


@dataclass
class Content:
    """One file of SQLite: its bytes at the last sync, and what was done since: (offset, bytes), or a new size."""

    handle: int
    durable: bytes
    pending: list[tuple[int, bytes] | int] = field(default_factory=list)

    def now(self) -> bytes:
        return os.pread(self.handle, os.fstat(self.handle).st_size, 0)

    def cut(self, dice: random.Random) -> None:
        """Each unsynced operation is kept, lost, or torn at a sector; later ones may be there without earlier ones."""
        data = bytearray(self.durable)
        lost, torn = dice.choice(((0.0, 0.0), (1.0, 0.0), (0.4, 0.5)))
        for change in self.pending:
            if dice.random() < lost:
                continue
            offset, written = (change, b"") if isinstance(change, int) else change
            if isinstance(change, int):
                del data[change:]
            elif dice.random() < torn:
                written = written[: dice.randrange(len(written) // SECTOR + 1) * SECTOR]
            data.extend(bytes(max(0, offset - len(data))))
            data[offset : offset + len(written)] = written
        os.ftruncate(self.handle, 0)
        os.pwrite(self.handle, data, 0)


def cutting_disk(limbo: Path, seed: int, cut_at: int, forgets: frozenset[str]) -> Any:
    """A FaultDisk that ends the process when the power goes; `forgets`: kinds of sync that do nothing."""
    from dfs.testing.fault_disk import FaultDisk

    class CuttingDisk(FaultDisk):
        def __init__(self) -> None:
            super().__init__(limbo)
            self.databases: dict[int, Content] = {}
            self.kinds: dict[int, str] = {}

        def step(self, operation: Any) -> None:
            self.operations += 1
            if self.operations == cut_at:
                self.end()

        def end(self) -> None:
            """The power goes."""
            dice = random.Random(seed)
            for content in self.databases.values():
                content.cut(dice)
            self.power_cut(seed)
            os._exit(CUT)

        def _opened(self, path: Any, file: Any, change: Any, durable: Any) -> Any:
            self.kinds[os.fstat(file.fileno()).st_ino] = kind_of(str(path))
            return super()._opened(path, file, change, durable)

        def synced(self, inode: int) -> None:
            if self.kinds[inode] not in forgets:
                super().synced(inode)

        def sync_folder(self, path: Any) -> None:
            if f"{kind_of(str(path) + '/')} folder" not in forgets:
                super().sync_folder(path)

    return CuttingDisk()


def kind_of(path: str) -> str:
    """What is synced: chunk, log, checkpoint or other."""
    if "/oplog/" in path:
        return "log"
    if ".ckpt" in path or "/checkpoints/" in path:
        return "checkpoint"
    return "chunk" if "/tmp/" in path or "/chunks/" in path else "other"


class ForgetfulVFS(apsw.VFS):
    """The default VFS: what SQLite writes is in the file at once, and counts as durable from xSync on."""

    disk: Any = None
    forgets: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__("forgetful", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return ForgetfulFile(name, flags)


class ForgetfulFile(apsw.VFSFile):
    """One file of SQLite."""

    def __init__(self, name: Any, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._content: Content | None = None
        if path and ForgetfulVFS.disk is not None and "checkpoint.new" not in path:
            handle = os.open(path, os.O_RDWR)
            known = ForgetfulVFS.disk.databases
            self._content = known.setdefault(os.fstat(handle).st_ino, Content(handle, b""))
            if self._content.handle == handle:
                self._content.durable = self._content.now()
        name = os.path.basename(path or "")
        self._kind = f"{name.partition('.')[0].partition('-')[0]} {'wal' if name.endswith('-wal') else 'database'}"

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._content is not None:
            ForgetfulVFS.disk.step("write")
            self._content.pending.append((offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        if self._content is not None:
            ForgetfulVFS.disk.step("truncate")
            self._content.pending.append(newsize)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        if self._content is not None:
            ForgetfulVFS.disk.step("sync")
            if self._kind not in ForgetfulVFS.forgets and ForgetfulVFS.disk.sync:
                self._content.durable, self._content.pending = self._content.now(), []


def exclusive(db: apsw.Connection) -> None:
    """A VFS in Python has no shared memory: a WAL without it needs a database for itself."""
    if ForgetfulVFS.disk is not None:
        db.pragma("locking_mode", "exclusive")


# -- what is done -----------------------------------------------------------------------------------------------------

Files = dict[str, bytes]


@dataclass(frozen=True)
class Step:
    """Put these files (a folder's as one), or remove this path, or write a checkpoint; `after`: all files then."""

    kind: str
    path: str
    files: Files
    after: Files


def planned(seed: int, count: int = 12) -> list[Step]:
    """What a seed does, and what must be there afterwards."""
    dice, now = random.Random(seed), {}
    steps = []
    for number in range(count):
        kind = dice.choice(
            ("small", "small", "large", "overwrite", "folder", "folder", "remove", "checkpoint", "checkpoint")
        )
        path, files = f"{kind}-{number}", {}
        if kind in ("overwrite", "remove"):
            path = dice.choice(sorted(now)) if now else "first"
            kind = kind if now else "small"
        if kind == "folder":
            sizes = [dice.randrange(3_000) for _ in range(4)] + [dice.choice((0, 150_000))]
            files = {f"{path}/{name}": dice.randbytes(size) for name, size in enumerate(sizes)}
        elif kind not in ("remove", "checkpoint"):
            files = {path: dice.randbytes(dice.randrange(2_000) if kind == "small" else 200_000)}
        now = {name: data for name, data in now.items() if kind != "remove" or name != path} | files
        steps.append(Step(kind, path, files, now))
    return steps


def do(store: Any, step: Step, request: str) -> None:
    """One step."""
    import dfs
    from dfs import checkpoint

    if step.kind == "checkpoint":
        checkpoint.write(store)
        return
    made = dict(zip(step.files, store.write_files(step.files.items()), strict=True))
    changes: list[Any]
    if step.kind == "remove":
        changes = [dfs.Remove(step.path)]
    elif step.kind == "folder":
        changes = [dfs.PutFolder(step.path, {os.path.basename(name): made[name] for name in made})]
    else:
        changes = [dfs.PutFile(step.path, made[step.path])]
    store.publish(changes, request_id=request)


def work(root: Path, limbo: Path, seed: int, options: Any, acknowledge: Callable[[], None]) -> None:
    """The child: ends by a power cut, in the middle or when all is done."""
    import dfs
    import dfs.oplog
    import dfs.store
    import dfs.stores.node
    from dfs.database import Database

    forgets = frozenset(options.get("forgets", ()))
    disk = cutting_disk(limbo, seed, random.Random(seed).randrange(1, options["operations"]), forgets)
    ForgetfulVFS.disk, ForgetfulVFS.forgets = disk, forgets

    def make_disk(sync: bool = True) -> Any:
        disk.sync = sync
        return disk

    connect = Database.connect

    def connect_alone(self: Any) -> Any:
        self.disconnect()
        return connect(self)

    dfs.oplog.OPLOG_SEGMENT_BYTES_MAX = 1_000  # so that checkpoints have segments to drop
    pages = random.Random(seed).choice((8, 1_000))  # so that cuts come into SQLite's checkpoints, and between them
    dfs.database.WAL_PAGES = dfs.stores.node.SMALL_CHECKPOINT_PAGES = pages
    dfs.store.Disk = make_disk  # type: ignore[attr-defined, misc, assignment]
    Database.connect = connect_alone  # type: ignore[method-assign]
    store = dfs.open_store(root)
    for number, step in enumerate(planned(seed)):
        do(store, step, f"{seed}-{number}")
        acknowledge()
    disk.end()


# -- what must be there -----------------------------------------------------------------------------------------------


def verify(root: Path, allowed: Sequence[Files]) -> list[str]:
    """What is wrong with a store that must hold one of these; it is opened, then rebuilt from its nodes and opened."""
    import dfs
    from dfs.rebuild import rebuild

    faults: list[str] = []
    for doing in ("open", "rebuild"):
        try:
            if doing == "rebuild":
                for name in ("store.db", "store.db-wal", "store.db-shm"):
                    (root / name).unlink(missing_ok=True)
                rebuild(root)
            with dfs.open_store(root) as store:
                held = {info.path: store.open(info.path).read() for info in store.find("")}
                faults += [f"{doing}: {fault}" for fault in store.check_namespace()]
        except dfs.DfsError as error:
            faults.append(f"{doing}: {type(error).__name__}: {error}")
            continue
        if held not in allowed:
            names = [sorted(files.keys() ^ held.keys()) for files in allowed]
            faults.append(f"{doing}: {sorted(held)} are not what was acknowledged; the difference is {names}")
    return faults


def run(folder: Path, template: Path, seed: int, options: Any) -> dict[str, Any]:
    """One seed."""
    root, limbo = folder / f"s{seed}", folder / f"limbo{seed}"
    shutil.copytree(template, root)
    limbo.mkdir()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(root, limbo, seed, options, lambda: os.write(writing, b".") and None)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    os.close(writing)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(reading, "rb") as pipe:
        acknowledged = len(pipe.read())
    if code != CUT:
        return {"seed": seed, "acknowledged": acknowledged, "faults": [f"the run ended with {code}"]}
    states: list[Files] = [{}, *(step.after for step in planned(seed))]
    faults = verify(root, states[acknowledged : acknowledged + 2])
    shutil.rmtree(root)
    shutil.rmtree(limbo)
    return {"seed": seed, "acknowledged": acknowledged, "faults": faults}


def main(folder: Path, seeds: Iterable[int], options: Any) -> None:
    """Run all seeds, one line each."""
    ForgetfulVFS.vfs = ForgetfulVFS()  # type: ignore[attr-defined]  # it ends with its last reference
    apsw.connection_hooks.append(exclusive)
    import dfs

    template = folder / "template"
    nodes = [template / name for name in ("n1", "n2", "n3")]
    durability = options.get("durability", "fsync")
    dfs.init_store(template, nodes=nodes, replicas=2, chunk_bytes_avg=1 << 17, durability=durability).close()
    for seed in seeds:
        print(json.dumps(run(folder, template, seed, options)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), range(int(sys.argv[2]), int(sys.argv[3])), json.loads(sys.argv[4]))
