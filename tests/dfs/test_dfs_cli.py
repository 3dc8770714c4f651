"""The `dfs` command: what it prints, and its exit codes."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import logging
import lzma
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import dfs
from dfs.cli import cli
from dfs.errors import StoreLocked
from dfs.render import progress_text
from dfs.testing import damage_local

Run = Callable[..., Result]
LOG = b"".join(b"%d line of a log %d\n" % (i, i * 7919 % 10007) for i in range(12_000))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `dfs ...` on a store with three nodes, two replicas; asserts the exit code, and that errors are lines of
    their own."""
    monkeypatch.setenv("DFS_STORE", str(tmp_path / "s"))
    monkeypatch.chdir(tmp_path)

    def call(*args: object, code: int = 0, stdin: bytes | None = None) -> Result:
        result = CliRunner().invoke(cli, [str(arg) for arg in args], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        if code not in (0, 12):
            assert result.stderr, "an error says what is wrong"
        if code:
            assert all(line.startswith("dfs") for line in result.stderr.splitlines())
            errors = [line for line in result.stderr.splitlines() if not line.startswith("dfs: WARNING: ")]
            assert code == 3 or len(errors) <= 1
        assert "Traceback" not in result.output
        return result

    nodes = [argument for i in range(3) for argument in ("--node", tmp_path / f"n{i}")]
    call("init", *nodes, "--replicas", 2, "--chunk-size", "32K", "--durability", "none")
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


# --- every verb: what it prints --------------------------------------------------------------------------------------


@pytest.fixture
def files(run: Run, tmp_path: Path) -> dict[str, bytes]:
    """A few files in the store, put by one transaction."""
    made = {"logs/a.gz": b"a" * 5000, "logs/b.gz": b"b" * 70_000, "logs/c.txt": LOG, "logs/old/d.gz": b"a" * 5000}
    for path, data in made.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    run("put", "-q", "logs", "logs")
    shutil.rmtree(tmp_path / "logs")
    return made


def paths(result: Result) -> list[object]:
    return [line["path"] for line in lines(result)]


def txn() -> int:
    with dfs.open_store() as store:
        return store.txn()


def test_patterns_stand_for_paths(run: Run, files: dict[str, bytes]) -> None:
    assert paths(run("ls", "--json", "logs/*.gz")) == ["logs/a.gz", "logs/b.gz"]
    assert paths(run("ls", "--json", "dfs://logs/[bc].*")) == ["logs/b.gz", "logs/c.txt"]
    assert paths(run("ls", "--json", "*/*/?.gz")) == ["logs/old/d.gz"]
    assert run("cat", "logs/[ab].gz").stdout_bytes == files["logs/a.gz"] + files["logs/b.gz"]
    run("ls", "logs/*.zip", code=4)
    run("ls", "logs/*.gz", "nope*", code=3)
    run("put", "-", "logs/*.gz", stdin=b"a star")
    assert paths(run("ls", "--json", "logs/*.gz")) == ["logs/*.gz"], "a path that exists stands for itself"
    run("rm", "logs/[*].gz")
    assert paths(run("ls", "--json", "logs/*.gz")) == ["logs/a.gz", "logs/b.gz"]
    assert paths(run("find", "logs/*", "--at", 1, "--json")) == sorted(files)
    run("rm", "logs/*.gz")
    assert paths(run("find", "--json")) == ["logs/c.txt", "logs/old/d.gz"]


def test_sizes_are_bytes_unless_asked_otherwise(run: Run, files: dict[str, bytes]) -> None:
    assert "70000" in run("ls", "logs/b.gz").stdout
    assert "70.0 kB" in run("ls", "-h", "logs/b.gz").stdout
    assert "70.0 kB" in run("-ls", "-h", "logs/b.gz").stdout
    for verb in ("ls", "tree", "du", "versions"):
        assert "70.0 kB" in run(verb, "--human", "logs/b.gz").stdout
        assert "70000" in run(verb, "logs/b.gz").stdout
        assert "kB" not in run(verb, "-h", "--json", "logs/b.gz").stdout
    assert lines(run("ls", "-h", "--json", "logs/b.gz"))[0]["size"] == 70_000
    assert run("put", "-h").stdout == run("put", "--help").stdout


def test_ls(run: Run, files: dict[str, bytes]) -> None:
    (line,) = lines(run("ls", "--json", "logs/c.txt"))
    assert line["type"] == "file"
    assert (line["path"], line["size"], line["records"], line["version"]) == ("logs/c.txt", len(LOG), 12_000, 1)
    assert isinstance(line["time_ms"], int)
    assert [(line["type"], line["path"]) for line in lines(run("ls", "--json"))] == [("dir", "logs")]
    assert paths(run("ls", "-R", "--json")) == sorted(files)
    assert paths(run("ls", "-d", "--json", "logs")) == ["logs"]
    assert [line.split()[-1] for line in run("ls", "logs").stdout.splitlines()][-1] == "logs/old/"


def test_tree(run: Run, files: dict[str, bytes]) -> None:
    run("mkdir", "empty")
    assert run("tree").stdout.splitlines() == [
        "/",
        "├── empty/",
        "└── logs/",
        "    ├── a.gz  [5000]",
        "    ├── b.gz  [70000]",
        f"    ├── c.txt  [{len(LOG)}]",
        "    └── old/",
        "        └── d.gz  [5000]",
    ]
    assert run("tree", "-L", 1, "logs").stdout.splitlines()[-1] == "└── old/"
    assert [(line["path"], line["depth"]) for line in lines(run("tree", "--json", "logs/old"))] == [
        ("logs/old", 0),
        ("logs/old/d.gz", 1),
    ]
    run("tree", "nope", code=4)


def test_stat_and_checksum(run: Run, files: dict[str, bytes], tmp_path: Path) -> None:
    (line,) = lines(run("stat", "--json", "logs/c.txt"))
    assert (line["type"], line["size"], line["records"], line["replicas"]) == ("file", len(LOG), 12_000, 2)
    assert "records:      12000" in run("stat", "logs/c.txt").stdout
    assert "kind:         dir" in run("stat", "logs").stdout
    first, second = (lines(run("checksum", "--json", path))[0] for path in ("logs/a.gz", "logs/old/d.gz"))
    assert first["checksum"] == second["checksum"] == lines(run("stat", "--json", "logs/a.gz"))[0]["content_id"]
    for name in ("sha256", "md5"):
        (tmp_path / "c").write_bytes(LOG)
        ours = run("checksum", "-a", name, "logs/c.txt").stdout.split()[0]
        assert ours == subprocess.run([f"{name}sum", "c"], capture_output=True, check=True).stdout.split()[0].decode()
    assert len(lines(run("checksum", "-r", "-a", "blake3", "--json", "logs"))) == 4
    run("checksum", "logs", code=1)
    run("checksum", "nope", code=4)


def test_du_counts_equal_chunks_once(run: Run, files: dict[str, bytes]) -> None:
    total = lines(run("du", "--json", "-s"))[0]
    logical = sum(map(len, files.values()))
    assert (total["type"], total["files"], total["logical_bytes"]) == ("total", 4, logical)
    assert total["unique_bytes"] == logical - 5000 - sum(_again(b"b" * 70_000))
    with dfs.open_store() as store:
        stored = sum(node.usage().stored_bytes for node in store.replicated.nodes.values())
    assert total["stored_bytes"] == stored
    assert total["held_bytes"] == 2 * total["unique_bytes"]  # type: ignore[operator]
    assert total["deduplication"] == round(logical / total["unique_bytes"], 2)  # type: ignore[operator]
    listed = lines(run("du", "--json", "logs"))
    assert [line["path"] for line in listed] == ["logs/a.gz", "logs/b.gz", "logs/c.txt", "logs/old", "logs"]
    assert listed[3]["logical_bytes"] == 5000
    assert "deduplication" in run("du").stdout
    run("du", "nope", code=4)


def _again(data: bytes) -> list[int]:
    """Lengths of the chunks of a file that it holds already."""
    with dfs.open_store() as store:
        refs = store.write_file(data, name_hint="b.gz").chunks
    seen: set[str] = set()
    return [ref.length for ref in refs if ref.id in seen or seen.add(ref.id)]  # type: ignore[func-returns-value]


def test_df_and_nodes(run: Run, files: dict[str, bytes], tmp_path: Path) -> None:
    assert [line["type"] for line in lines(run("df", "--json"))] == ["node"] * 3
    assert all(line["used_bytes"] for line in lines(run("nodes", "list", "--json")))
    assert str(tmp_path / "n1") in run("df", "-h").stdout
    run("nodes", "add", tmp_path / "n3", "--weight", 2, "--capacity", "10M")
    run("nodes", "add", tmp_path / "n3", code=1)
    run("nodes", "add", tmp_path / "n4", "--weight", 0, code=2)
    new = next(line for line in lines(run("nodes", "list", "--json")) if line["path"] == str(tmp_path / "n3"))
    assert (new["weight"], new["capacity_bytes"], new["state"]) == (2.0, 10 << 20, "active")
    run("repair")
    gone = tmp_path / "n0"
    run("nodes", "remove", gone, code=1)
    assert lines(run("nodes", "drain", gone, "--json"))[-1]["removable"]
    assert lines(run("nodes", "remove", gone, "--json"))[-1]["type"] == "removed"
    assert len(lines(run("nodes", "list", "--json"))) == 3
    assert run("cat", "logs/c.txt").stdout_bytes == LOG
    assert run("fsck").stdout.startswith("healthy")
    run("nodes", "drain", "nope", code=4)
    shutil.rmtree(tmp_path / "n1")
    assert "-y" in run("nodes", "remove", "--lost", tmp_path / "n1", code=2).stderr
    run("nodes", "remove", "--lost", "-y", tmp_path / "n1")
    run("repair")
    assert run("cat", "logs/c.txt").stdout_bytes == LOG


def test_find_for_other_programs(run: Run, files: dict[str, bytes]) -> None:
    run("put", "-", "logs/two\nlines", stdin=b"x")
    assert "logs/two\nlines" in run("find", "-0").stdout.split("\0")
    assert run("find", "logs", "--name", "?.gz").stdout.split() == ["logs/a.gz", "logs/b.gz", "logs/old/d.gz"]
    run("find", "nope", code=4)


# --- every verb: what it changes -------------------------------------------------------------------------------------


def test_cp(run: Run, files: dict[str, bytes]) -> None:
    run("cp", "logs/a.gz", "copy.gz")
    run("cp", "logs/[ab].gz", "logs/old")
    assert paths(run("find", "logs/old", "--json")) == ["logs/old/a.gz", "logs/old/b.gz", "logs/old/d.gz"]
    assert run("cat", "copy.gz").stdout_bytes == files["logs/a.gz"]
    assert "-f" in run("cp", "logs/b.gz", "copy.gz", code=1).stderr
    run("cp", "-f", "logs/b.gz", "copy.gz")
    assert run("cat", "copy.gz").stdout_bytes == files["logs/b.gz"]
    assert run("cat", "--at", 2, "copy.gz").stdout_bytes == files["logs/a.gz"]
    run("cp", "--at", 2, "copy.gz", "older.gz")
    assert run("cat", "older.gz").stdout_bytes == files["logs/a.gz"]
    assert "-r" in run("cp", "logs", "more", code=1).stderr
    run("cp", "-r", "logs", "more")
    run("cp", "-r", "logs", "more")
    assert run("cat", "more/c.txt", "more/logs/c.txt").stdout_bytes == LOG + LOG
    run("put", "-", "more/logs/mine", stdin=b"mine")
    run("cp", "-r", "logs", "more", code=1)
    run("cp", "-rf", "logs", "more")
    assert run("cat", "more/logs/mine").stdout == "mine", "a folder copied onto a folder leaves what else is there"
    for wrong in (("logs", "logs"), ("logs", "logs/old"), ("logs/a.gz", "logs/a.gz")):
        run("cp", "-rf", *wrong, code=2)
    run("cp", "nope", "x", code=4)
    run("cp", "logs/a.gz", "logs/b.gz", "nowhere", code=1)
    run("cp", "-f", "logs/a.gz", "more/logs/a.gz/", code=1)


def test_mv(run: Run, files: dict[str, bytes]) -> None:
    run("mv", "logs/*.gz", "logs/old")
    assert paths(run("find", "--json")) == ["logs/c.txt", "logs/old/a.gz", "logs/old/b.gz", "logs/old/d.gz"]
    run("mv", "logs/old/a.gz", "logs/old/b.gz", code=1)
    run("mv", "-f", "logs/old/a.gz", "logs/old/b.gz")
    assert run("cat", "logs/old/b.gz").stdout_bytes == files["logs/a.gz"]
    run("mv", "nope", "x", code=4)
    assert lines(run("mv", "--json", "logs", "l"))[0]["done"] == "moved"


def test_rm_says_how_to_undo_it(run: Run, files: dict[str, bytes]) -> None:
    undo = run("rm", "-r", "logs").stderr
    assert undo == "undo with: dfs restore --at 1 logs\n"
    run(*undo.split()[3:])
    assert paths(run("find", "--json")) == sorted(files)
    assert run("rm", "-q", "logs/a.gz").stderr == ""
    assert lines(run("rm", "--json", "logs/b.gz"))[0]["count"] == 1
    run("rm", "-r", "nope", code=4)
    run("rm", "-r", "nope*", code=4)
    before = txn()
    assert run("rm", "-rf", "nope", "nope*").output == ""
    assert txn() == before
    run("rm", "logs", code=1)
    run("rm", "-r", "logs", "logs/c.txt", "logs/old")
    assert txn() == before + 1


def test_setrep(run: Run, files: dict[str, bytes]) -> None:
    run("setrep", 3, "logs/c.txt")
    assert lines(run("fsck", "--json", code=12))[-1]["under_replicated"]
    run("repair")
    assert run("fsck").stdout.startswith("healthy")
    assert all(len(line["nodes"]) == 3 for line in lines(run("where", "--json", "logs/c.txt")))  # type: ignore[arg-type]
    run("setrep", "-R", "default", "logs/c.txt")
    assert lines(run("stat", "--json", "logs/c.txt"))[0]["replicas"] == 2
    run("setrep", "0", "logs", code=2)
    run("setrep", "many", "logs", code=2)
    run("setrep", "2", "nope", code=4)


def test_versions_snapshots_and_restore(run: Run, files: dict[str, bytes]) -> None:
    run("snapshot", "create", "first")
    run("put", "-", "logs/c.txt", stdin=b"new\n")
    run("rm", "-q", "logs/a.gz")
    found = lines(run("versions", "--json", "logs/c.txt"))
    assert [(line["txn"], line["ended"], line["size"]) for line in found] == [(3, None, 4), (1, 3, len(LOG))]
    assert run("versions", "logs/c.txt").stdout.splitlines()[1].split()[0] == "1"
    for moment in ("first", "1", "2"):
        assert run("cat", "--at", moment, "logs/c.txt").stdout_bytes == LOG
        assert run("head", "-n1", "--at", moment, "logs/c.txt").stdout_bytes == LOG.splitlines(keepends=True)[0]
        assert run("tail", "-n1", "--at", moment, "logs/c.txt").stdout_bytes == LOG.splitlines(keepends=True)[-1]
        assert lines(run("stat", "--json", "--at", moment, "logs/c.txt"))[0]["size"] == len(LOG)
        assert paths(run("find", "--json", "--at", moment)) == sorted(files)
        assert len(lines(run("where", "--json", "--at", moment, "logs/c.txt"))) > 3
        assert lines(run("du", "-s", "--json", "--at", moment))[0]["files"] == 4
        assert "a.gz" in run("tree", "--at", moment).stdout
    with pytest.raises(AssertionError):
        run("cat", "--at", "no such moment", "logs/c.txt")
    assert [(line["type"], line["name"]) for line in lines(run("snapshot", "list", "--json"))] == [
        ("snapshot", "first")
    ]
    run("snapshot", "create", "first", code=1)
    different = lines(run("diff", "--json", "first"))
    assert {(line["how"], line["path"]) for line in different} == {("modified", "logs/c.txt"), ("removed", "logs/a.gz")}
    assert run("diff", "first", "now", "logs/a.gz").stdout == "- logs/a.gz  (5000)\n"
    assert run("diff", "now").stdout == ""
    before = txn()
    assert lines(run("restore", "--json", "--dry-run", "--at", "first", "/"))[0]["action"] == "restore"
    assert txn() == before
    assert run("restore", "--at", "first", "logs/a.gz").stderr == "undo with: dfs restore --at 4 logs/a.gz\n"
    run("restore", "--at", "first", "logs/c.txt", "--to", "old.txt")
    assert run("cat", "old.txt").stdout_bytes == LOG
    assert run("cat", "logs/c.txt").stdout == "new\n"
    run("restore", "--at", "first", "/")
    assert run("diff", "first").stdout == ""
    before = txn()
    run("restore", "--at", "first", "/", "logs")
    assert txn() == before, "nothing differs"
    run("restore", "logs", code=2)
    run("restore", "--at", "first", "nope", code=4)
    assert "-y" in run("snapshot", "delete", "first", code=2).stderr
    run("snapshot", "delete", "nope", "-y", code=4)
    run("snapshot", "delete", "-y", "first")
    assert run("snapshot", "list").stdout == ""


def test_retention_and_collection(run: Run, files: dict[str, bytes]) -> None:
    assert run("retention").stdout == "7 days\n"
    run("retention", "forever")
    assert lines(run("retention", "--json"))[0]["days"] is None
    assert "-y" in run("retention", "0", code=2).stderr
    run("retention", "0", "-y")
    run("retention", "some", code=2)
    run("rm", "-q", "logs/b.gz", "logs/c.txt")
    plan = lines(run("gc", "--dry-run", "--json"))[0]
    assert plan["chunks"]
    assert plan["braked"]
    assert "--force is needed" in run("gc", "--dry-run").stdout
    run("gc", code=1)
    assert "-y" in run("gc", "--force", code=2).stderr
    assert run("cat", "--at", 1, "logs/c.txt").stdout_bytes == LOG, "nothing has been deleted yet"
    assert lines(run("gc", "--force", "-y", "--json"))[0]["chunks"] == plan["chunks"]
    run("cat", "--at", 1, "logs/c.txt", code=4)
    assert run("cat", "logs/a.gz").stdout_bytes == files["logs/a.gz"]
    assert run("gc").stdout.startswith("deleted 0 chunks")


def test_questions_are_asked_on_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("snapshot", "create", "one")
    monkeypatch.setattr("dfs.cli_command._can_answer", lambda: True)
    refused = CliRunner().invoke(cli, ["snapshot", "delete", "one"], input="n\n")
    assert refused.exit_code == 1
    assert refused.stderr.endswith("dfs: nothing was done\n")
    assert "one" in run("snapshot", "list").stdout
    run("snapshot", "delete", "one", stdin=b"y\n")
    assert run("snapshot", "list").stdout == ""


def test_scrub_checkpoint_and_rebuild(run: Run, files: dict[str, bytes], tmp_path: Path) -> None:
    assert lines(run("scrub", "--json"))[-1]["done"]
    with dfs.open_store() as store:
        ref = store.chunks("logs/c.txt")[0]
        holder = store.node_paths()[store.nodes_of(ref.id)[0]]
    damage_local(holder, ref.id, "flip")
    found = lines(run("scrub", "--restart", "--rate", "1G", "--json"))
    assert [line["files"] for line in found if line["type"] == "damaged"] == [["logs/c.txt"]]
    assert found[-1]["healed"] == 1
    assert "pass complete" in run("scrub").stdout
    assert lines(run("scrub", "--budget", "1", "--json"))[-1]["done"] is False
    assert lines(run("checkpoint", "--json"))[0]["txn"] == 1
    run("rebuild", code=2)
    for file in (tmp_path / "s").glob("store.db*"):
        file.unlink()
    run("ls", code=10)
    nodes = [argument for i in range(3) for argument in ("--node", tmp_path / f"n{i}")]
    assert lines(run("rebuild", "--json", *nodes))[-1]["txn"] == 1
    assert "-y" in run("rebuild", "--force", *nodes, code=2).stderr
    run("gc", code=1)
    run("fsck")
    run("gc")
    assert run("cat", "logs/c.txt").stdout_bytes == LOG


def test_init(run: Run, tmp_path: Path) -> None:
    made = lines(run("init", "other", "--json", "--durability", "none", "--retention", "forever"))[0]
    assert (made["type"], made["replicas"], made["durability"]) == ("store", 1, "none")
    assert run("--store", "other", "retention").stdout == "forever\n"
    assert "durability none" in run("doctor", "--store", "other").stdout
    run("init", "other", code=1)
    run("init", "third", "--retention", "soon", code=2)
    run("init", "third", "--durability", "some", code=2)
    assert not (tmp_path / "third").exists()


# --- promises over all verbs -----------------------------------------------------------------------------------------

DRY = [
    ["put", "here", "new"],
    ["get", "logs", "there"],
    ["cp", "-r", "logs", "copy"],
    ["mv", "logs", "moved"],
    ["rm", "-r", "logs"],
    ["restore", "--at", "0", "/"],
    ["gc"],
    ["repair"],
]


@pytest.mark.parametrize("args", DRY, ids=lambda args: args[0])
def test_a_dry_run_changes_nothing(run: Run, files: dict[str, bytes], tmp_path: Path, args: list[str]) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "f").write_bytes(b"x")
    run("setrep", "-q", 1, "logs/c.txt")
    run("fsck")

    def state() -> dict[str, bytes]:
        return {
            str(f): f.read_bytes() for f in tmp_path.rglob("*") if f.is_file() and f.suffix not in (".lock", ".intent")
        }

    before = state()
    told = run(*args, "--dry-run")
    assert told.stdout.startswith("would ")
    assert state().items() >= {k: v for k, v in before.items() if "-shm" not in k and "-wal" not in k}.items()
    assert not (tmp_path / "there").exists()
    assert txn() == 2
    planned = lines(run(*args, "--dry-run", "--json"))
    assert planned
    assert all(line["type"] in ("planned", "result") for line in planned)
    run(*args, "--yes") if args[0] == "gc" else run(*args)


def test_every_verb_has_help_of_its_own() -> None:
    listed = CliRunner().invoke(cli, ["--help"]).stdout
    verbs = dict(cli.commands)
    verbs |= {
        f"{name} {sub}": verb for name in ("nodes", "snapshot") for sub, verb in cli.commands[name].commands.items()
    }  # type: ignore[attr-defined]
    wanted = (
        "init put get ls tree cat head tail cp mv rm mkdir stat du df find checksum versions snapshot restore diff fsck"
    )
    wanted += " scrub repair gc rebuild checkpoint nodes setrep retention where doctor"
    assert set(cli.commands) == set(wanted.split())
    for name, verb in verbs.items():
        assert verb.help, name
        shown = CliRunner().invoke(cli, [*name.split(), "--help"])
        assert shown.exit_code == 0
        assert all(len(line) <= 100 for line in shown.stdout.splitlines())
    assert all(f"  {name} " in listed for name in cli.commands)


def test_options_may_stand_before_or_after_the_verb(run: Run, files: dict[str, bytes]) -> None:
    assert run("--json", "find").stdout == run("find", "--json").stdout
    assert run("-q", "rm", "logs/a.gz").stderr == run("rm", "-q", "logs/b.gz").stderr == ""
    assert "c.txt" in run("-v", "get", "logs/c.txt", ".").stderr


def test_a_locked_store_is_exit_code_11(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_: object, **__: object) -> int:
        raise StoreLocked("somebody else writes")

    monkeypatch.setattr(dfs.Store, "publish", locked)
    assert run("mkdir", "a", code=11).stderr == "dfs: somebody else writes\n"


def test_an_interrupt_is_exit_code_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(dfs.Store, "txn", interrupted)
    assert run("ls", code=130).stderr == "dfs: interrupted\n"


def test_names_in_errors_stay_on_one_line(run: Run) -> None:
    assert run("cat", "a\n\x1b[31mb", code=4).stderr.count("\n") == 1
    assert "\x1b" not in run("cat", "a\x1b[31mb", code=4).stderr


# --- the real command, on a terminal ---------------------------------------------------------------------------------

COMMAND = [sys.executable, "-c", "from dfs.cli import main; main()"]


def on_a_terminal(args: list[str], **environment: str) -> str:
    """What a command writes to a terminal of 120 columns."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 120))
    with subprocess.Popen([*COMMAND, *args], stdout=slave, stderr=slave, env={**os.environ, **environment}) as process:
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal ends with its last writer
            while block := os.read(master, 65536):
                shown += block
        process.wait()
    os.close(master)
    assert process.returncode == 0
    return shown.decode()


def test_progress_is_drawn_on_terminals_only(run: Run, tmp_path: Path) -> None:
    with open(tmp_path / "big", "wb") as file:
        file.truncate(120_000_000)
    shown = on_a_terminal(["put", "big", "big"], TERM="xterm")
    draws = re.findall(r"\r\x1b\[K(put [^\r]*)", shown)
    assert draws
    assert all(len(draw) < 120 for draw in draws)
    shape = r"put \[[#.]{24}\] +\d+%  [\d.]+ [MkB]+/120.0 MB  [\d.]+ [MGk]B/s .*0/1.*"  # cut off at the edge
    assert re.fullmatch(shape, draws[0])
    last = shown[shown.rindex("\x1b[K") + 3 :]
    assert last.startswith("put 1 file, 120.0 MB"), "the status line is gone before the answer comes"
    for args, environment in ((["-q"], {}), ([], {"TERM": "dumb"})):
        assert "\x1b" not in on_a_terminal(["put", "--rehash", *args, "big", "big"], **environment)


def test_progress_text_fits_and_says_what_is_known() -> None:
    whole = progress_text("get", (5 * 10**8, 10**9), (7, 9), (2.5e8, 3.0), "a/b.txt", 200)
    assert whole == "get [############............]  50%  500.0 MB/1.0 GB  250.0 MB/s  0:02 left  7/9 files  a/b.txt"
    for width in range(10, 120):
        assert len(progress_text("get", (5 * 10**8, 10**9), (7, 9), (2.5e8, 3.0), "n" * 300, width)) <= width
    assert "left" not in progress_text("get", (10, 10**9), (0, 9), (2.5, 3.0), "", 200), "too early to tell"
    assert progress_text("put", (10**6, None), (0, 1), (1e6, 0.0), "-", 200) == "put  1.0 MB  1.0 MB/s  0/1 files  -"
    assert "\n" not in progress_text("get", (1, 2), (1, 2), (1.0, 1.0), "a\nb", 200)


def test_an_interrupted_put_leaves_nothing_and_is_exit_code_130(run: Run, tmp_path: Path) -> None:
    with subprocess.Popen([*COMMAND, "put", "-", "x"], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(bytes(1 << 20))  # taken when the command reads its input
        process.stdin.flush()
        for _ in range(3):  # one that comes between the interpreter's look and its read is seen with the next
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
                break
        assert process.stderr.read() == b"dfs: interrupted\n"
        process.stdin.close()
        assert process.returncode == 130
    run("stat", "x", code=4)
    assert txn() == 0


def test_two_writers_take_turns(run: Run) -> None:  # F37
    writers = [subprocess.Popen([*COMMAND, "mkdir", f"d{i}"], stderr=subprocess.PIPE) for i in range(3)]
    for writer in writers:
        with writer:
            assert writer.wait() == 0
    assert sorted(str(path) for path in paths(run("ls", "--json"))) == ["d0", "d1", "d2"]
    assert txn() == 3


def test_a_warning_is_said_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(*_: object) -> int:
        for _ in range(3):
            logging.getLogger("dfs").warning("node %s is full", "n1")
        return 0

    monkeypatch.setattr(dfs.Store, "txn", warn)
    assert run("ls").stderr == "dfs: WARNING: node n1 is full\n"
    assert run("ls", "-q").stderr == ""
