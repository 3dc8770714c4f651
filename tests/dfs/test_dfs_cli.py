"""The `dfs` command: what it prints, and its exit codes."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import dfs
from dfs.cli import cli
from dfs.testing import damage_local

Run = Callable[..., Result]
LOG = b"".join(b"%d line of a log %d\n" % (i, i * 7919 % 10007) for i in range(12_000))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `dfs ...` on a store with three nodes, two replicas; asserts the exit code and a one-line error."""
    monkeypatch.setenv("DFS_STORE", str(tmp_path / "s"))
    monkeypatch.chdir(tmp_path)

    def call(*args: object, code: int = 0, stdin: bytes | None = None) -> Result:
        result = CliRunner().invoke(cli, [str(arg) for arg in args], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        if code and code not in (2, 12):
            assert result.stderr.startswith("dfs: ")
            assert len(result.stderr.splitlines()) == 1
        return result

    call(
        "init",
        "--node",
        tmp_path / "n0",
        "--node",
        tmp_path / "n1",
        "--node",
        tmp_path / "n2",
        "--replicas",
        2,
        "--chunk-size",
        "32K",
    )
    return call


def lines(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_put_and_get_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(LOG)
    assert "12,000 records" in run("put", "a.log", "logs/a.log").stdout
    assert run("cat", "logs/a.log").stdout_bytes == LOG
    assert run("cat", "dfs://logs/a.log").stdout_bytes == LOG
    assert run("get", "/logs/a.log", "-").stdout_bytes == LOG
    run("get", "logs/a.log", "copy.log")
    assert (tmp_path / "copy.log").read_bytes() == LOG
    run("get", "logs/a.log", tmp_path)
    assert (tmp_path / "a.log").read_bytes() == LOG
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_put_says_how_many_chunks_are_new(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(LOG)
    first = lines(run("--json", "put", "a.log", "a.log"))[-1]
    assert (first["type"], first["deduplicated_chunks"], first["records"]) == ("result", 0, 12_000)
    assert first["new_chunks"] == first["chunks"]
    (tmp_path / "a.log").write_bytes(LOG + b"one more day\n")
    second = lines(run("put", "--json", "a.log", "a.log"))
    assert second[0]["type"] == "file"
    assert second[-1]["new_chunks"] == 1
    assert second[-1]["deduplicated_chunks"] == first["chunks"] - 1  # type: ignore[operator]
    assert "1 new" not in run("put", "a.log", "b.log").stdout


def test_a_folder_keeps_its_tree(run: Run, tmp_path: Path) -> None:
    for name in ("d/a.txt", "d/e/b.txt", "d/e/f/c.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() * 100)
    (tmp_path / "d/empty").mkdir()
    run("put", "d", "tree")
    assert run("find", "tree").stdout.split() == ["tree/a.txt", "tree/e/b.txt", "tree/e/f/c.bin"]
    assert run("find", "tree", "--name", "*.txt").stdout.split() == ["tree/a.txt", "tree/e/b.txt"]
    run("put", "d", "tree")
    assert "tree/d/e/b.txt" in run("find").stdout, "an existing folder is put into, as cp does"
    run("get", "tree/d", "out")
    assert subprocess.run(["diff", "-r", "d", "out"], check=False).returncode == 0
    assert lines(run("stat", "tree", "--json"))[0]["version"] == 2


def test_standard_input(run: Run) -> None:
    run("put", "-", "in.txt", stdin=b"one\ntwo\nthree\n")
    assert run("head", "-n", 2, "in.txt").stdout == "one\ntwo\n"
    assert run("head", "-c", 5, "in.txt").stdout == "one\nt"
    run("put", "-", "folder/", code=2, stdin=b"x")


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst"])
def test_compressed_text_is_stored_decompressed(run: Run, tmp_path: Path, ending: str) -> None:
    import pyarrow as pa

    def zstd(data: bytes) -> bytes:
        return bytes(pa.Codec("zstd").compress(data, asbytes=True))

    compressors: dict[str, Callable[[bytes], bytes]]
    compressors = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}
    compress = compressors[ending]
    file = tmp_path / f"a.log{ending}"
    file.write_bytes(compress(LOG[:50_000]) + compress(LOG[50_000:]))
    run("put", "--decompress", file, "logs/")
    assert run("cat", "logs/a.log").stdout_bytes == LOG
    assert lines(run("--json", "stat", "logs/a.log"))[0]["records"] == 12_000
    run("put", file, "as-it-is")
    assert run("cat", "as-it-is").stdout_bytes == file.read_bytes()
    assert lines(run("--json", "stat", "as-it-is"))[0]["records"] is None
    file.write_bytes(file.read_bytes()[:-30])  # F44
    assert str(file) in run("put", "--decompress", file, "broken", code=1).stderr
    run("stat", "broken", code=4)


def test_a_decompression_bomb_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # F55
    monkeypatch.setattr("dfs.decompress.DECOMPRESSED_FREE_BYTES", 1 << 16)
    (tmp_path / "bomb.bz2").write_bytes(bz2.compress(bytes(20_000_000)))
    assert "bomb" in run("put", "--decompress", "bomb.bz2", "bomb", code=1).stderr
    run("stat", "bomb", code=4)


def test_listing(run: Run) -> None:
    run("put", "-", "d/a", stdin=b"x\n")
    run("put", "-", "d/e/b", stdin=b"y\n")
    assert run("ls", "d").stdout == run("-ls", "d").stdout
    assert [line.split()[-1] for line in run("-ls", "d").stdout.splitlines()] == ["d/a", "d/e/"]
    assert [line["path"] for line in lines(run("--json", "ls", "-R", "/"))] == ["d/a", "d/e/b"]
    assert run("ls", "--at", 1, "-r").stdout.split()[-1] == "d/a"
    result = run("ls", "d/a", "nope", code=3)
    assert "d/a" in result.stdout
    run("ls", "nope", code=4)


def test_a_link_to_a_folder_is_never_left_out_silently(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tree" / "real").mkdir(parents=True)
    (tmp_path / "tree" / "link").symlink_to("real")
    assert "link to a folder" in run("put", str(tmp_path / "tree"), "t", code=1).stderr
    run("ls", "t", code=4)


def test_names_with_control_characters_stay_on_one_line(run: Run) -> None:
    run("put", "-", "a\nb", stdin=b"x")
    assert run("find").stdout == "a\\nb\n"
    assert lines(run("find", "--json"))[0]["path"] == "a\nb"


def test_moving_and_removing(run: Run) -> None:
    run("mkdir", "d/e")
    run("mkdir", "d", code=1)
    run("mkdir", "-p", "d")
    run("put", "-", "a", stdin=b"x\n")
    run("put", "-", "b", stdin=b"y\n")
    run("mv", "a", "b", "d/e")
    assert run("find").stdout.split() == ["d/e/a", "d/e/b"]
    run("mv", "d/e", "f")
    run("mv", "f/a", "f/b", "nowhere", code=1)
    run("rm", "f", code=1)
    run("rm", "f/a", "nope", code=4)
    assert run("find").stdout.split() == ["f/a", "f/b"], "all or nothing"
    run("rm", "-r", "f")
    assert run("find").stdout == ""


def test_no_clobber(run: Run) -> None:
    run("put", "-", "a", stdin=b"1")
    run("put", "-n", "-", "a", stdin=b"2", code=1)
    assert run("cat", "a").stdout == "1"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["put", "missing.txt", "a"], 4),
        (["put", "/dev/null", "a"], 1),
        (["cat", "a/../b"], 2),
        (["get", "missing", "x"], 4),
        (["where", "missing"], 4),
        (["frobnicate"], 2),
        (["init"], 1),
        (["init", "other", "--replicas", "3"], 2),
        (["init", "other", "--chunk-size", "huge"], 2),
        (["--store", "nowhere", "ls"], 10),
        (["ls", "--store", "nowhere"], 10),
        (["ls", "--at", "99"], 2),
    ],
)
def test_bad_input_gets_one_line_and_its_exit_code(run: Run, args: list[str], code: int) -> None:
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == code
    assert "Traceback" not in result.output
    assert len(result.stderr.splitlines()) == 1
    assert not Path("x").exists()


def test_where_shows_the_nodes(run: Run, tmp_path: Path) -> None:
    run("put", "-", "a", stdin=LOG)
    chunks = lines(run("--json", "where", "a"))
    assert sum(chunk["length"] for chunk in chunks) == len(LOG)  # type: ignore[misc]
    assert all(len(set(chunk["folders"])) == 2 for chunk in chunks)  # type: ignore[call-overload]
    assert all(str(tmp_path) in line for line in run("where", "a").stdout.splitlines())


def test_fsck_tells_the_kinds_of_damage_apart(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(LOG)
    run("put", "a.log", "d/a.log")
    assert run("fsck", "--read-data").stdout.startswith("healthy")
    with dfs.open_store() as store:
        refs, folders = store.chunks("d/a.log"), store.node_paths()
        second = {ref.id: folders[store.nodes_of(ref.id)[1]] for ref in refs}
        first = {ref.id: folders[store.nodes_of(ref.id)[0]] for ref in refs}
        store.write_file(b"never published")
    assert len(refs) > 4
    for ref in refs[1:]:
        damage_local(second[ref.id], ref.id, "flip")
    damage_local(second[refs[0].id], refs[0].id, "delete")
    shallow = lines(run("fsck", "--json", code=12))[-1]
    assert (shallow["corrupt"], shallow["under_replicated"], shallow["orphaned"]) == (0, 1, 1)
    found = lines(run("fsck", "--read-data", "--json", code=12))
    assert {line["chunk"] for line in found if line["type"] == "corrupt"} == {ref.id for ref in refs[1:]}
    assert all(line["files"] == ["d/a.log"] for line in found if line["type"] in ("corrupt", "under-replicated"))
    assert found[-1]["corrupt"] == len(refs) - 1
    assert run("cat", "d/a.log").stdout_bytes == LOG, "the reader is not affected"
    run("fsck", "--read-data", "--heal")
    healed = lines(run("fsck", "--read-data", "--json"))
    assert (healed[-1]["state"], healed[-1]["orphaned"]) == ("healthy", 1)
    damage_local(first[refs[1].id], refs[1].id, "zero")
    damage_local(second[refs[1].id], refs[1].id, "delete")
    last = lines(run("fsck", "--read-data", "--heal", "--json", code=12))
    assert [line["chunk"] for line in last if line["type"] == "missing"] == [refs[1].id]
    error = run("cat", "d/a.log", code=12).stderr
    assert "d/a.log" in error
    assert refs[1].id in error


def test_fsck_and_doctor_see_an_absent_node(run: Run, tmp_path: Path) -> None:
    run("put", "-", "a", stdin=LOG)
    assert run("doctor").stdout.count("ok, ") == 3
    shutil.move(tmp_path / "n1", tmp_path / "away")
    assert any(line["type"] == "absent" for line in lines(run("fsck", "--json", code=12)))
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 1
    assert result.stdout.count("ok, ") == 2


def test_the_real_command_starts_fast_and_writes_no_progress_to_pipes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(LOG)
    command = [sys.executable, "-c", "from dfs.cli import main; main()"]
    done = subprocess.run([*command, "put", "a.log", "a.log"], capture_output=True, check=True)
    assert done.stderr == b""
    slow = ["polars", "pyarrow", "numpy", "rich", "fsspec"]
    probe = f"import sys, dfs.cli; print([m for m in {slow!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, check=True).stdout == b"[]\n"


def test_noise_is_stored_and_read_back(run: Run, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(300_000)
    (tmp_path / "noise").write_bytes(data)
    run("put", "noise", "noise")
    assert run("cat", "noise").stdout_bytes == data
