"""Hostile names: each is refused with a typed error before any I/O, or comes back exactly as it was given, and never
becomes a path of a file system outside the folder that was asked for."""

from __future__ import annotations

import json
import os
import random
import subprocess
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from click.testing import CliRunner

import dfs
from dfs.cli import cli
from dfs.download import GetOptions, get_tree
from dfs.errors import DfsError, InvalidChunkId, InvalidPath
from dfs.ids import ChunkId
from dfs.paths import normalise
from dfs.render import Output

COUNT = 20_000

NFC, NFD = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
KEPT = (
    *("a", "A", "a b", " ", "a ", " a", "a.", "a..", "...", ".a", "..a", "a..b", ".hidden"),
    *(
        "-rf",
        "--help",
        "-",
        "~",
        "~root",
        "$HOME",
        "`id`",
        "$(id)",
        "a;b",
        "a|b",
        "a&b",
        "a>b",
        "a'b",
        'a"b',
        "*",
        "?",
        "[a]",
    ),
    *("a\\b", "..\\..\\x", "C:", "C:\\x", "con", "NUL", "nul.txt", "aux", "COM1", "a:b", "file.txt:stream"),
    *("a\nb", "\n", "a\rb", "\t", "\x01", "\x1b[31m", "\x7f", "\u2028", "\ufeff", "\u200b", "\u202etxt.exe"),
    *("%2e%2e", "%2e%2e%2f", "..%2f..", "%00", "%c0%ae", "a%20b", "a#b", "a?b", "a?versionId=1"),
    *(NFC, NFD, "İ", "ß", "ẞ", "ﬁ", "Å", "Å", "日本", "שלום", "🙂", "\U0010ffff", "\ue000", "١٢", "．．", "‥", "／"),
    *("x" * 255, "é" * 127, ".dfs", "store.db", "node.json", "chunks", "_SUCCESS", ".part"),
)
REFUSED = (
    *("..", ".", "a/..", "a/../b", "../a", "./a", "a/.", "a/./b", "a//b", "a///b", "//a", "///", "a//", "/.."),
    *("a\0", "\0", "a/\0/b", "\ud800", "a/\udfff", "\udcff", "x" * 256, "é" * 128, "a/" * 2048 + "b", "dfs://../a"),
)


def oracle(path: str) -> str | None:
    """The one spelling of a path, None when it is refused; written down another way than `normalise`."""
    text = path[len("dfs://") :] if path.startswith("dfs://") else path
    text = text[1:] if text.startswith("/") else text
    text = text[:-1] if text.endswith("/") else text
    if not text:
        return ""
    if any(0xD800 <= ord(c) <= 0xDFFF or c == "\0" for c in text) or len(text.encode()) > 4096:
        return None
    names = text.split("/")
    return None if any(name in ("", ".", "..") or len(name.encode()) > 255 for name in names) else text


def hostile_paths() -> Iterator[str]:
    """The corpus, then paths made of its parts and of random characters; the same in every run."""
    yield from KEPT
    yield from REFUSED
    chance = random.Random(52)
    parts = [*KEPT, *REFUSED, "", "", "/", "..", "dfs://", "a", "b"]
    for _ in range(COUNT - len(KEPT) - len(REFUSED)):
        names = []
        for _ in range(chance.choice((1, 1, 2, 3, 6))):
            kind = chance.random()
            if kind < 0.6:
                names.append(chance.choice(parts))
            elif kind < 0.9:
                names.append(
                    "".join(
                        chr(chance.choice((chance.randrange(1, 128), chance.randrange(128, 0x3000)))) for _ in range(5)
                    )
                )
            else:
                names.append("".join(chr(chance.randrange(0x110000)) for _ in range(chance.randrange(1, 90))))
        yield chance.choice(("", "", "", "/", "dfs://", "dfs:///")) + "/".join(names) + chance.choice(("", "", "/"))


def hostile_ids() -> Iterator[object]:
    good = ChunkId.of(b"x")
    yield from (
        good,
        good.upper(),
        good[:-1],
        good + "0",
        good + "\n",
        "\n" + good,
        " " + good,
        good[:-1] + " ",
        "",
        "0" * 64,
    )
    yield from (
        "g" * 64,
        "١" * 64,
        "０" * 64,
        "../" + good[3:],
        "../" * 21 + "a",
        good[:2] + "/" + good[2:-1],
        good[:-1] + "\0",
    )
    yield from ("%2e" * 21 + "a", good[:-2] + "é", "a" * 63 + "\ud800", "aa" * 32 + "/..", None, 7, b"a" * 64, [good])
    chance = random.Random(53)
    for _ in range(COUNT):
        text = list(chance.choice((good, "0" * 64)))
        for _ in range(chance.randrange(3)):
            text[chance.randrange(len(text))] = chance.choice(
                ("A", "F", "g", "/", ".", "\0", "\n", "٣", "ａ", "", "00", "-", "%")
            )
        yield "".join(text)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dfs.Store]:
    folder = tmp_path_factory.mktemp("names")
    (folder / "canary").write_text("untouched")
    with dfs.init_store(folder / "s", nodes=[folder / "n"], durability="none") as made:
        yield made


def listed(top: Path) -> set[str]:
    """All files below a folder, by names relative to it."""
    return {os.path.relpath(os.path.join(folder, name), top) for folder, _, names in os.walk(top) for name in names}


def calls(store: dfs.Store, path: str) -> list[Callable[[], object]]:
    manifest = store.write_file(b"")
    change = [
        dfs.PutFile(path, manifest),
        dfs.Remove(path, True),
        dfs.Move(path, "m"),
        dfs.Copy("c", path),
        dfs.MakeDir(path),
    ]
    return [
        *(
            lambda ask=ask: ask(path)
            for ask in (store.stat, store.exists, store.find, store.ls, store.chunks, store.open)
        ),  # type: ignore[misc]
        *(lambda ask=ask: ask(path) for ask in (store.version, store.versions, store.manifest, store.replicas_of)),  # type: ignore[misc]
        *(lambda one=one: store.publish([one], request_id="x") for one in change),  # type: ignore[misc]
        lambda: store.publish([dfs.PutFolder("f", {path: manifest})], request_id="x"),
        lambda: list(store.diff(0, None, path)),
    ]


def test_normalise_keeps_or_refuses_as_documented() -> None:  # F52
    kept = refused = 0
    for path in hostile_paths():
        expected = oracle(path)
        if expected is None:
            with pytest.raises(InvalidPath):
                normalise(path)
            refused += 1
        else:
            assert normalise(path) == expected
            assert normalise(expected) == expected
            kept += 1
    assert kept + refused == COUNT
    assert min(kept, refused) > COUNT // 5, "both kinds must be met often"


def test_every_call_refuses_what_normalise_refuses(store: dfs.Store) -> None:  # F52
    before = store.txn()
    for path in REFUSED:
        for call in calls(store, path):
            with pytest.raises(InvalidPath):
                call()
    assert store.txn() == before


def test_chunk_ids_are_64_lower_case_hex_digits_or_an_error(store: dfs.Store) -> None:  # F53
    accepted = 0
    before = listed(store.path.parent)
    for text in hostile_ids():
        good = isinstance(text, str) and len(text) == 64 and all(c in "0123456789abcdef" for c in text)
        if good:
            assert ChunkId.parse(text) == text  # type: ignore[arg-type]
            accepted += 1
            continue
        for call in (ChunkId.parse, store.read_chunk, store.nodes_of):
            with pytest.raises(InvalidChunkId):
                call(text)  # type: ignore[arg-type]
    assert accepted > 1000
    assert listed(store.path.parent) == before


def test_what_is_accepted_comes_back_exactly(store: dfs.Store) -> None:  # F52
    """Through publish, find, ls, stat and get. Each path lies in its own folder: one may be the parent of another."""
    paths = {f"{i}/{name}" for i, path in enumerate(hostile_paths()) if (name := oracle(path))}
    paths = {path for path in paths if len(path.encode()) <= 4096 - len("all/")}
    assert len(paths) > 4000
    data = b"the same in every file\n"
    manifest = store.write_file(data)
    around = set(os.listdir(store.path.parent))
    store.publish([dfs.PutFolder("all", dict.fromkeys(paths, manifest))], request_id="all")
    found = store.find("all")
    assert {info.path.removeprefix("all/") for info in found} == paths
    assert [info.path.encode() for info in found] == sorted(info.path.encode() for info in found)
    for path in sorted(paths)[::50]:
        assert store.stat(f"all/{path}").path == f"all/{path}"
        folder = path.rpartition("/")[0]
        assert f"all/{path}" in [info.path for info in store.ls(f"all/{folder}")]
    few = {path for i, path in enumerate(sorted(paths)) if i % 8 == 0}
    store.publish([dfs.PutFolder("few", dict.fromkeys(few, manifest))], request_id="few")
    target = store.path.parent / "out"
    target.mkdir()
    done = get_tree(store, "few", str(target), Output(False), GetOptions(store.txn()))
    assert (done.files, done.errors) == (len(few), [])
    assert listed(target / "few") == few
    assert all((target / "few" / path).read_bytes() == data for path in sorted(few)[::10])
    assert set(os.listdir(store.path.parent)) == {*around, "out"}, "nothing appeared beside the store and the target"
    assert (store.path.parent / "canary").read_text() == "untouched"
    subprocess.run(["rm", "-r", target], check=True)


def test_a_path_of_2048_folders_comes_and_goes(store: dfs.Store) -> None:
    path = "d/" * 2047 + "f"
    assert len(path) == 4095
    store.publish([dfs.PutFile(path, store.write_file(b"deep"))], request_id="deep")
    assert store.open(path).read() == b"deep"
    assert [info.path for info in store.find("d")] == [path]
    target = store.path.parent / "deep"
    target.mkdir()
    done = get_tree(store, "d", str(target), Output(False), GetOptions(store.txn()))
    assert (done.files, done.errors) == (1, [])
    found = subprocess.run(["find", target, "-type", "f", "-printf", "%d %f"], capture_output=True, check=True)
    assert found.stdout == b"2048 f"
    subprocess.run(["rm", "-r", target], check=True)
    store.publish([dfs.Remove("d", recursive=True)], request_id="deep-rm")
    assert not store.exists("d")


def test_names_never_become_files_of_the_store(store: dfs.Store) -> None:
    before = listed(store.path.parent)
    names = ["store.db", "node.json", "pins", "store.db-wal", "oplog", "../s/store.db".replace("/", "\\")]
    store.publish([dfs.PutFile(f"same/{name}", store.write_file(b"")) for name in names], request_id="same")
    assert listed(store.path.parent) - before <= {name for name in listed(store.path.parent) if "oplog" in name}


@pytest.mark.parametrize(
    "name", ["-rf", "--help", "a\nb", "*", "[x]", "%2e%2e", "a\\b", NFD, "\u202egnp.exe", "~", " "]
)
def test_hostile_names_on_the_command_line(store: dfs.Store, tmp_path: Path, name: str) -> None:
    def run(*args: str, stdin: bytes | None = None) -> bytes:
        result = CliRunner().invoke(cli, ["--store", str(store.path), *args], input=stdin, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout_bytes

    run("put", "--", "-", f"c/{name}/{name}", stdin=name.encode())
    assert run("cat", "--", f"c/{name}/{name}") == name.encode()
    assert run("find", "-0", "--", f"c/{name}") == f"c/{name}/{name}\0".encode()
    shown = run("ls", "--json", "--", f"c/{name}")
    assert json.loads(shown)["path"] == f"c/{name}/{name}"
    assert len(run("ls", "--", f"c/{name}").splitlines()) == 1, "one entry stays on one line"
    run("get", "--", f"c/{name}", str(tmp_path))
    assert (tmp_path / name / name).read_bytes() == name.encode()
    assert os.listdir(tmp_path) == [name]
    run("put", "--", str(tmp_path / name), "again")
    assert run("cat", "--", f"again/{name}" if store.exists("again/" + name) else "again") == name.encode()
    run("rm", "-q", "-r", "--", f"c/{name}", "again")


@pytest.mark.parametrize("path", ["a/../b", "..", "a//b", "./a", "a/\ud800", "x" * 256])
@pytest.mark.parametrize("verb", ["ls", "cat", "get", "rm", "stat", "mkdir", "find", "du", "where", "put"])
def test_refused_paths_on_the_command_line(store: dfs.Store, tmp_path: Path, verb: str, path: str) -> None:
    args = {"get": [path, str(tmp_path)], "put": ["-", path]}.get(verb, [path])
    result = CliRunner().invoke(cli, ["--store", str(store.path), verb, *args], input=b"", catch_exceptions=False)
    assert result.exit_code == 2
    assert result.stderr.startswith("dfs: ")
    assert len(result.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == []


def test_urls_are_paths_as_they_are(store: dfs.Store) -> None:  # F53
    """Nothing is decoded: what looks like an escape is a name. What is refused is refused before any I/O."""
    fs = fsspec.filesystem("dfs", store=str(store.path), skip_instance_cache=True)
    for name in ("%2e%2e", "..%2fx", "a%20b", "%00", "a#b", NFC, NFD, "a\\..\\b", "trailing. "):
        with fs.open(f"dfs://u/{name}", "wb") as file:
            file.write(name.encode())
        assert fs.cat_file(f"dfs://u/{name}") == name.encode()
        assert f"u/{name}" in [path.removeprefix("dfs://") for path in fs.find("dfs://u")]
    for path in ("dfs://a/../b", "dfs://../b", "dfs://a//b", "dfs://a/./b", "dfs://a\0b", "dfs://" + "x" * 256):
        for call in (fs.info, fs.cat_file, lambda path: fs.open(path, "rb"), lambda path: fs.pipe_file(path, b"")):
            with pytest.raises((DfsError, ValueError)):
                call(path)
