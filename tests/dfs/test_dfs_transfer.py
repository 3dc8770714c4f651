"""put and get, cat, head and tail: what they read, what they write, and what they must never touch."""

from __future__ import annotations

import errno
import functools
import lzma
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import dfs
import dfs.download
import dfs.excerpts
import dfs.known_files
import dfs.upload
from dfs.cli import cli
from dfs.decompress import open_decompressed
from dfs.errors import BadInput, ChunkLost, NotFound
from dfs.filesystem import DfsFileSystem
from dfs.gc import collect
from dfs.ids import ChunkId
from dfs.known_files import KnownFiles, Stamp
from dfs.render import Output
from dfs.testing import damage_local
from dfs.upload import PutOptions, put_all

NOISE = random.Random(3).randbytes(200_000)
TEXT = b"".join(b"line %d of %d\n" % (i, i * 7919 % 10007) for i in range(20_000))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dfs.Store]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DFS_STORE", str(tmp_path / "s"))
    with dfs.init_store(tmp_path / "s", chunk_bytes_avg=16_384) as made:
        yield made


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """To `put`, all files are ten seconds old."""
    old = functools.partial(KnownFiles, clock_ns=lambda: time.time_ns() + 10**10)
    monkeypatch.setattr(dfs.upload, "KnownFiles", old)


def put(store: dfs.Store, *paths: str, **options: Any) -> None:
    put_all(store, paths[:-1], paths[-1], Output(False, -1), PutOptions(**options))


def run(*args: str, code: int = 0, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(cli, args, input=stdin, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def read(store: dfs.Store, path: str) -> bytes:
    with store.open(path) as file:
        return file.read()


@pytest.fixture
def sources_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The local files that `put` opened."""
    opened: list[str] = []
    real = dfs.upload._unchanging

    def spy(path: str, *rest: Any) -> Any:
        opened.append(path)
        return real(path, *rest)

    monkeypatch.setattr(dfs.upload, "_unchanging", spy)
    return opened


# --- put: sources that move, and those that are none -----------------------------------------------------------------


@pytest.mark.parametrize("how", ["append", "truncate", "rewrite"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    store: dfs.Store, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    Path("growing").write_bytes(NOISE)
    os.utime("growing", ns=(1, 1))
    real = dfs.upload._Source.read

    def meddle(self: Any, size: int = -1) -> bytes:
        block = real(self, size)
        if how == "append":
            with open("growing", "ab") as file:
                file.write(b"more")
        elif how == "truncate":
            os.truncate("growing", 1000)
        else:
            Path("growing").write_bytes(NOISE[::-1])
        return block

    monkeypatch.setattr(dfs.upload._Source, "read", meddle)
    with pytest.raises(BadInput, match="growing changed while it was read"):
        put(store, "growing", "x")
    assert not store.exists("x")


def test_what_is_no_file_is_refused_by_name(store: dfs.Store) -> None:
    os.makedirs("d/e")
    os.mkfifo("d/e/pipe")
    with pytest.raises(BadInput, match="d/e/pipe is not a regular file"):
        put(store, "d", "d")
    os.unlink("d/e/pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("d/sock")
        with pytest.raises(BadInput, match="d/sock is not a regular file"):
            put(store, "d", "d")
    os.unlink("d/sock")
    os.symlink("loop", "d/loop")
    with pytest.raises(BadInput, match="d/loop cannot be read"):
        put(store, "d", "d")
    os.unlink("d/loop")
    os.symlink("nowhere", "d/dangling")
    with pytest.raises(BadInput, match="d/dangling cannot be read"):
        put(store, "d", "d")
    with pytest.raises(NotFound, match="d/dangling"):
        put(store, "d/dangling", "d")
    assert store.txn() == 0


def test_a_link_to_a_file_is_read_through(store: dfs.Store) -> None:
    os.mkdir("d")
    Path("real").write_bytes(b"real")
    os.symlink("../real", "d/link")
    put(store, "d", "d")
    assert read(store, "d/link") == b"real"


def test_a_tree_deeper_than_the_interpreters_stack(store: dfs.Store) -> None:
    os.mkdir("deep")
    here = os.open("deep", os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    put(store, "deep", "deep")
    assert [info.path for info in store.find("deep")] == ["deep/" + "d/" * 1100 + "f"]
    subprocess.run(["rm", "-r", "deep"], check=True)


# --- put: what is known is not read ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("later")
def test_unchanged_files_are_not_read_again(store: dfs.Store, sources_read: list[str]) -> None:
    os.makedirs("d/e")
    for name, data in (("d/a", NOISE), ("d/e/b", TEXT), ("d/empty", b"")):
        Path(name).write_bytes(data)
    put(store, "d", "one")
    assert sorted(sources_read) == ["d/a", "d/e/b", "d/empty"]
    sources_read.clear()
    put(store, "d", "two")
    assert sources_read == []
    assert [read(store, f"two/{name}") for name in ("a", "e/b", "empty")] == [NOISE, TEXT, b""]
    assert store.stat("two/e/b").records == 20_000
    put(store, "d", "three", rehash=True)
    assert len(sources_read) == 3


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("change", ["content", "same size and times", "replaced", "mode"])
def test_changed_files_are_read_again(store: dfs.Store, sources_read: list[str], change: str) -> None:
    Path("a").write_bytes(TEXT)
    put(store, "a", "x")
    stamp = os.stat("a")
    data, options = TEXT[::-1], {}
    if change == "content":
        data = TEXT + b"more"
        Path("a").write_bytes(data)
    elif change == "same size and times":
        Path("a").write_bytes(data)
        os.utime("a", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    elif change == "replaced":
        Path("b").write_bytes(data)
        os.utime("b", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        os.replace("b", "a")
    else:
        data, options = TEXT, {"records": "none"}
    put(store, "a", "x", **options)
    assert sources_read == ["a", "a"]
    assert read(store, "x") == data


def test_a_file_that_was_just_written_is_not_trusted(store: dfs.Store, sources_read: list[str]) -> None:
    """It could be written again within one tick of the clock, with the same size and times."""
    Path("a").write_bytes(TEXT)
    put(store, "a", "x")
    put(store, "a", "x")
    assert sources_read == ["a", "a"]


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("how", ["flip", "delete"])
def test_what_is_known_is_verified_and_healed(store: dfs.Store, sources_read: list[str], how: Any) -> None:  # F14, F15
    Path("a").write_bytes(NOISE)
    put(store, "a", "x")
    ref = store.chunks("x")[1]
    damage_local(store.path / "node-1", ref.id, how)
    with pytest.raises(ChunkLost):
        read(store, "x")
    put(store, "a", "x")
    assert sources_read == ["a", "a"]
    assert read(store, "x") == NOISE
    put(store, "a", "x")
    assert sources_read == ["a", "a"]


@pytest.mark.usefixtures("later")
def test_a_damaged_memory_of_files_is_ignored(store: dfs.Store, sources_read: list[str]) -> None:
    Path("a").write_bytes(TEXT)
    put(store, "a", "x")
    (part,) = (store.path / "known-files").iterdir()
    whole = part.read_bytes()
    for damaged in (whole[:-1], whole.replace(b"lines", b"linet"), b"", b"millrace-known-files 9 x\n{}", NOISE):
        part.write_bytes(damaged)
        put(store, "a", "x")
    assert len(sources_read) == 6
    put(store, "a", "x")
    assert len(sources_read) == 6
    assert not [name for name in os.listdir(store.path / "known-files") if name.startswith(".")]


def test_known_files_keep_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dfs.known_files, "KNOWN_FILES_MAX", 3)
    manifest = dfs.changes.build_manifest([(ChunkId.of(b"x"), 1, 1, False)], "lines", 1)
    stamp = Stamp(1, 2, 3, 4, 5, "auto")
    names = [f"/d/{name}" for name in ("a", "b", "c", "d", "\udcff")]
    known = KnownFiles(tmp_path / "k", lambda: 10**10)
    for name in names:
        known.add(name, stamp, manifest)
    known.add("/d/b", stamp, manifest)
    known.save()
    found = KnownFiles(tmp_path / "k")
    assert [name for name in names if found.get(name, stamp)] == ["/d/b", "/d/d", "/d/\udcff"]
    again = found.get("/d/b", stamp)
    assert again is not None
    assert (again.content_id, again.chunks, again.new_chunks) == (manifest.content_id, manifest.chunks, 0)
    for other in (Stamp(9, 2, 3, 4, 5, "auto"), Stamp(1, 2, 3, 4, 5, "none"), Stamp(1, 2, 3, 4, 6, "auto")):
        assert found.get("/d/b", other) is None


def test_known_files_that_cannot_be_saved_are_no_failure(tmp_path: Path) -> None:
    (tmp_path / "k").write_bytes(b"a file")
    known = KnownFiles(tmp_path / "k", lambda: 10**10)
    known.add("/a", Stamp(1, 2, 3, 4, 5, "auto"), dfs.changes.build_manifest([], "lines", 0))
    known.save()


def test_a_put_of_the_same_makes_no_new_version(store: dfs.Store) -> None:
    os.mkdir("d")
    Path("d/a").write_bytes(TEXT)
    Path("d/b").write_bytes(NOISE)
    put(store, "d", "d")
    before = store.txn()
    put(store, "d", "/")
    assert store.txn() == before
    Path("d/b").write_bytes(b"new")
    put(store, "d", "/")
    assert (store.stat("d/a").version, store.stat("d/b").version) == (1, 2)
    assert read(store, "d/b") == b"new"


def test_copies_as_the_place_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [tmp_path / f"n{i}" for i in range(3)]
    monkeypatch.chdir(tmp_path)
    Path("a").write_bytes(NOISE)

    def copies(store: dfs.Store, path: str) -> set[int]:
        return {len(store.nodes_of(ref.id)) for ref in store.chunks(path)}

    with dfs.init_store(tmp_path / "s", nodes=nodes, replicas=1, chunk_bytes_avg=16_384) as store:
        put(store, "a", "one")
        assert copies(store, "one") == {1}
        put(store, "a", "three/a", replicas=3)
        assert (copies(store, "three/a"), store.replicas_of("three/a")) == ({3}, 3)
        store.publish([dfs.MakeDir("two"), dfs.SetReplicas("two", 2)], request_id="2")
        Path("a").write_bytes(TEXT)
        put(store, "a", "two/b/c")
        assert copies(store, "two/b/c") == {2}


# --- get: what lies in the target ------------------------------------------------------------------------------------


@pytest.fixture
def tree(store: dfs.Store) -> dict[str, bytes]:
    """A tree in the store, and what is in it."""
    files = {"t/a": NOISE, "t/d/b": TEXT, "t/d/e/c": b"c", "t/empty": b""}
    manifests = {path: store.write_file(data) for path, data in files.items()}
    changes: list[dfs.Change] = [dfs.PutFile(path, manifest) for path, manifest in manifests.items()]
    store.publish([*changes, dfs.MakeDir("t/nothing")], request_id="tree")
    return files


def local(top: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(top).rglob("*") if path.is_file()}


def test_get_makes_the_same_tree(store: dfs.Store, tree: dict[str, bytes]) -> None:
    run("get", "t", "t")
    assert local("t") == tree
    assert Path("t/nothing").is_dir()
    os.mkdir("into")
    run("get", "t", "t/a", "into")
    assert local("into/t") == {f"into/{path}": data for path, data in tree.items()}
    assert Path("into/a").read_bytes() == NOISE
    run("get", "/", "all/below")
    assert local("all/below/t") == {f"all/below/{path}": data for path, data in tree.items()}
    run("get", "t/d/b", "renamed")
    assert Path("renamed").read_bytes() == TEXT
    run("get", "t/a", "missing/folder/a", code=0)
    assert Path("missing/folder/a").read_bytes() == NOISE
    run("get", "t/a", "other/", code=2)


@pytest.mark.parametrize("link", ["t/d", "t/d/e", "t/d/b", "t/a"])
def test_links_in_the_target_are_not_followed(store: dfs.Store, tree: dict[str, bytes], link: str) -> None:  # F54
    os.makedirs("outside/e")
    Path("outside/file").write_bytes(b"precious")
    os.makedirs(os.path.dirname(link), exist_ok=True)
    is_folder = link in ("t/d", "t/d/e")
    os.symlink(os.path.abspath("outside" if is_folder else "outside/file"), link)
    result = run("get", "t", ".", code=3 if is_folder else 0)
    assert local("outside") == {"outside/file": b"precious"}
    assert os.listdir("outside/e") == []
    if is_folder:
        assert f"{link} is a link" in result.stderr
        assert os.path.islink(link)
        assert Path("t/a").read_bytes() == NOISE, "the others are copied"
    else:
        assert not os.path.islink(link), "the link itself is replaced"
        assert local("t") == tree


def test_the_target_itself_may_be_a_link(store: dfs.Store, tree: dict[str, bytes]) -> None:
    os.mkdir("real")
    os.symlink("real", "link")
    run("get", "t", "link")
    assert local("real/t") == {f"real/{path}": data for path, data in tree.items()}


def test_a_folder_in_the_place_of_a_file_and_the_reverse(store: dfs.Store, tree: dict[str, bytes]) -> None:
    os.makedirs("t/a/inside")
    Path("t/d").write_bytes(b"a file")
    result = run("get", "t", ".", code=3)
    assert "t/a is a folder" in result.stderr
    assert "t/d is a link or a file" in result.stderr
    assert local("t") == {"t/d": b"a file", "t/empty": b""}
    assert all(line.startswith("dfs: ") for line in result.stderr.splitlines())


def test_get_replaces_files_unless_told_not_to(store: dfs.Store, tree: dict[str, bytes]) -> None:
    run("get", "t", ".")
    Path("t/a").write_bytes(b"mine")
    assert "t/a exists" in run("get", "-n", "t/a", "t/a", code=1).stderr
    assert Path("t/a").read_bytes() == b"mine"
    run("get", "t", ".")
    assert local("t") == tree
    run("get", "-n", "-f", "t", ".", code=2)


@pytest.mark.parametrize("twins", [("t/File", "t/fILE"), ("t/X/a", "t/x/b")])
def test_names_that_the_disk_takes_for_one(
    store: dfs.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twins: tuple[str, str]
) -> None:
    """On a disk that does not tell cases apart, the second of two files is an error, not a loss of the first."""
    store.publish([dfs.PutFile(path, store.write_file(path.encode())) for path in twins], request_id="1")

    def folding(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if options:
                args = tuple(arg.lower() if isinstance(arg, str) else arg for arg in args)
            return real(*args, **options)

        return call

    for name in ("open", "stat", "mkdir", "rename"):
        monkeypatch.setattr(dfs.download.os, name, folding(getattr(os, name)))
    result = run("get", "t", "out", code=3)
    assert "the same name" in result.stderr
    monkeypatch.undo()
    assert list(local(str(tmp_path / "out")).values()) == [sorted(twins)[0].encode()]


def test_a_full_disk_is_one_line_and_leaves_nothing(
    store: dfs.Store, tree: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Counter[str]()

    def full(*_: object) -> int:
        written["calls"] += 1
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dfs.download.os, "pwrite", full)
    result = run("get", "t", "out", code=1)
    assert len(result.stderr.splitlines()) == 1
    assert "No space left on device" in result.stderr
    assert not any(local("out").values())
    assert not [name for name in os.listdir("out") if name.endswith(".part")]


@pytest.mark.parametrize("lost", ["t/a", "t/d/e/c"])
def test_a_lost_chunk_costs_one_file(store: dfs.Store, tree: dict[str, bytes], lost: str) -> None:
    damage_local(store.path / "node-1", store.chunks(lost)[0].id, "delete")
    result = run("get", "t", "out", code=3)
    assert f"dfs://{lost}" in result.stderr
    assert local("out") == {path.replace("t/", "out/", 1): data for path, data in tree.items() if path != lost}
    run("get", lost, "alone", code=12)
    assert not Path("alone").exists()


def test_an_interrupt_leaves_no_half_file(
    store: dfs.Store, tree: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(dfs.Store, "read_chunk", interrupted)
    result = run("get", "t", "out", code=130)
    assert result.stderr == "dfs: interrupted\n"
    assert local("out") == {}


# --- cat, head, tail -------------------------------------------------------------------------------------------------


@pytest.fixture
def chunks_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The chunks that were read."""
    found: list[str] = []
    real = dfs.replication.ReplicatedChunks.get

    def spy(self: Any, chunk_id: ChunkId, path: str | None = None) -> bytes:
        found.append(chunk_id)
        return real(self, chunk_id, path)

    monkeypatch.setattr(dfs.replication.ReplicatedChunks, "get", spy)
    return found


TEXTS = {
    "lines": TEXT,
    "no end": TEXT + b"last without an end",
    "empty": b"",
    "one": b"\n",
    "blank lines": b"\n\n\na\n\n",
    "one long": b"x" * 100_000,
    "long lines": b"\n".join(bytes([65 + i]) * 40_000 for i in range(9)),
}


@pytest.mark.parametrize("name", TEXTS)
def test_head_and_tail_agree_with_lists(store: dfs.Store, name: str) -> None:
    data = TEXTS[name]
    store.publish([dfs.PutFile("x", store.write_file(data, records="none"))], request_id="1")
    lines = [line + b"\n" for line in data.split(b"\n")]
    lines = [*lines[:-1], lines[-1][:-1]] if lines[-1] != b"\n" else lines[:-1]
    for count in (0, 1, 2, 3, 10, 20_001):
        out = BytesIO()
        dfs.excerpts.write_first(store, "x", 1, out, count, None)
        assert out.getvalue() == b"".join(lines[:count])
        out = BytesIO()
        dfs.excerpts.write_last(store, "x", 1, out, count, None)
        assert out.getvalue() == b"".join(lines[len(lines) - min(count, len(lines)) :])
    for size in (0, 1, 70_000, 10**9):
        out = BytesIO()
        dfs.excerpts.write_first(store, "x", 1, out, 10, size)
        assert out.getvalue() == data[:size]
        out = BytesIO()
        dfs.excerpts.write_last(store, "x", 1, out, 10, size)
        assert out.getvalue() == data[max(len(data) - size, 0) :]


def test_head_and_tail_read_only_what_they_show(store: dfs.Store, chunks_read: list[str]) -> None:  # F45
    data = b"\n" + b"x" * 2_000_000 + b"\nend\n"
    store.publish([dfs.PutFile("x", store.write_file(data, records="none"))], request_id="1")
    chunks = [ref.id for ref in store.chunks("x")]
    assert len(chunks) > 20
    assert run("head", "-n", "1", "x").stdout_bytes == b"\n"
    assert run("head", "-c", "100", "x").stdout_bytes == b"\n" + b"x" * 99
    assert set(chunks_read) == {chunks[0]}
    chunks_read.clear()
    assert run("tail", "-n", "1", "x").stdout_bytes == b"end\n"
    assert run("tail", "-c", "3", "x").stdout_bytes == b"nd\n"
    assert set(chunks_read) == {chunks[-1]}


# --- compressed input ------------------------------------------------------------------------------------------------


def test_xz_with_padding_between_streams() -> None:
    data = lzma.compress(TEXT[:1000]) + bytes(8) + lzma.compress(b"") + lzma.compress(TEXT[1000:]) + bytes(4)
    assert open_decompressed(BytesIO(data), "a.xz", len(data)).read() == TEXT
    for broken in (data[:500], data[:-2] + b"x", data + b"junk"):
        with pytest.raises(BadInput, match=r"a\.xz cannot be decompressed"):
            open_decompressed(BytesIO(broken), "a.xz", len(data)).read()


def test_xz_that_needs_too_much_memory_is_refused(store: dfs.Store, monkeypatch: pytest.MonkeyPatch) -> None:  # F55
    monkeypatch.setattr("dfs.decompress.XZ_MEMORY_BYTES_MAX", 1 << 20)
    Path("a.xz").write_bytes(lzma.compress(TEXT, preset=6))
    error = run("put", "--decompress", "a.xz", "x", code=1).stderr
    assert "a.xz" in error
    assert "emory" in error


# --- the real command ------------------------------------------------------------------------------------------------

COMMAND = [sys.executable, "-c", "from dfs.cli import main; main()"]


def test_output_that_nobody_takes(store: dfs.Store) -> None:
    store.publish([dfs.PutFile("x", store.write_file(NOISE * 20))], request_id="1")
    with subprocess.Popen([*COMMAND, "cat", "x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert (process.wait(), process.stderr.read()) == (0, b""), "a closed pipe is quiet"
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, "cat", "x"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"dfs: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_put_makes_as_many_copies_as_the_folders_below_ask_for(tmp_path: Path) -> None:
    nodes = [tmp_path / f"n{i}" for i in range(3)]
    (tmp_path / "t" / "sub").mkdir(parents=True)
    (tmp_path / "t" / "sub" / "f").write_bytes(b"precious")
    with dfs.init_store(tmp_path / "of-one", nodes=nodes, replicas=1) as store:
        store.publish([dfs.MakeDir("t/sub"), dfs.SetReplicas("t/sub", 2)], request_id="1")
        put_all(store, [str(tmp_path / "t")], "/", Output(False, -1), PutOptions())
        assert len(store.nodes_of(store.chunks("t/sub/f")[0].id)) == 2
        system = DfsFileSystem(str(store.path))
        with system.open("t/sub/g", "wb") as file:
            file.write(b"precious too")
        assert len(store.nodes_of(store.chunks("t/sub/g")[0].id)) == 2


def test_what_is_being_got_is_not_collected(store: dfs.Store) -> None:  # F38
    store.publish([dfs.PutFile("f", store.write_file(b"x" * 100_000)), dfs.SetRetention(0)], request_id="1")
    with dfs.open_store(store.path) as reader:
        moment = reader.hold(None)
        store.publish([dfs.Remove("f")], request_id="2")
        store.pins.close()
        assert collect(store, force=True).chunks == 0
        assert reader.open("f", moment).read() == b"x" * 100_000
    assert collect(store, force=True).chunks == 1
