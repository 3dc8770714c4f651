"""A job that reads a damaged store: it reads on and heals while a good replica is left, and stops clearly when none is.

The log is cut into chunks of both kinds: small ones in the node's database and large ones in files of their own.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pytest
from blake3 import blake3
from click.testing import CliRunner

import dfs
import dfs.store
import mr
from dfs.cli import cli
from dfs.ids import ChunkId
from dfs.testing import Damage, damage_local
from mr.storage import open_store

AVERAGE = 1 << 16
LOG = "words/log.txt"


@pytest.fixture
def text(own_state: None, tmp_path: Path) -> bytes:
    """1.5 MB of words, put into the default store: three nodes, two replicas."""
    source = random.Random(5)
    words = [source.randbytes(3).hex() for _ in range(300)]
    made = b"".join(" ".join(source.choices(words, k=12)).encode() + b"\n" for _ in range(18_000))
    nodes = [tmp_path / f"node-{i}" for i in range(3)]
    with dfs.init_store(dfs.store.default_path(), nodes=nodes, replicas=2, chunk_bytes_avg=AVERAGE) as store:
        manifest = store.write_file(made, records="lines")
        store.publish([dfs.PutFile(LOG, manifest)], request_id="log")
        sizes = [ref.length for ref in store.chunks(LOG)]
    assert min(sizes) < 1 << 16 < max(sizes)
    assert len(sizes) > 10
    return made


@mr.job
def count_words(input: str, output: str) -> Any:
    """Count words."""
    words = mr.read_text(input).flat_map(str.split, names="word")
    return words.group_by("word").agg(n=mr.count()).sort("word").write_parquet(output)


def replicas() -> list[tuple[ChunkId, list[Path]]]:
    """Each chunk of the log and the node folders that hold it, the one that is read first before the others."""
    with dfs.open_store() as store:
        folders = store.node_paths()
        return [(ref.id, [folders[node] for node in store.nodes_of(ref.id)]) for ref in store.chunks(LOG)]


def damage(rank: int, how: Damage) -> set[ChunkId]:
    """Damage the replica of every chunk that is read first (0) or second (1)."""
    held = replicas()
    for chunk, nodes in held:
        assert len(nodes) == 2
        damage_local(nodes[rank], chunk, how)
    return {chunk for chunk, _ in held}


def run(output: str, home: Path, on: Literal["inline", "local"] = "inline") -> mr.JobResult:
    open_store.cache_clear()
    with mr.Session(on=on, workers=2, home=home, reuse=False):
        return count_words("dfs://" + LOG, output)


def parts(folder: Path) -> dict[str, str]:
    return {path.name: blake3(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def fsck(*options: str) -> tuple[int, list[dict[str, Any]]]:
    result = CliRunner().invoke(cli, ["fsck", "--json", *options])
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()]


def counted(text: bytes) -> list[tuple[str, int]]:
    return sorted(Counter(text.decode().split()).items())


@pytest.mark.parametrize(("how", "on"), [("delete", "inline"), ("zero", "local"), ("truncate", "inline")])
def test_the_first_replica_of_every_chunk_is_bad(how: Damage, on: Any, text: bytes, tmp_path: Path) -> None:
    before = run(str(tmp_path / "before"), tmp_path / "home-1")
    chunks = damage(0, how)
    code, found = fsck("--read-data")
    assert (code, {line["chunk"] for line in found if "chunk" in line}) == (12, chunks)
    after = run(str(tmp_path / "after"), tmp_path / "home-2", on)
    assert after.tasks_run == before.tasks_run > len(chunks)
    assert after.outputs["after"].digest == before.outputs["before"].digest
    assert parts(tmp_path / "after") == parts(tmp_path / "before")
    with mr.Session(on="inline"):
        assert mr.read_parquet(str(tmp_path / "after")).take_all() == counted(text)
    code, found = fsck("--read-data")
    assert (code, found[-1]["state"]) == (0, "healthy"), "the job healed what it met"


@pytest.mark.parametrize("how", ["delete", "zero"])
def test_the_other_replica_of_every_chunk_is_bad(how: Damage, text: bytes, tmp_path: Path) -> None:
    before = run(str(tmp_path / "before"), tmp_path / "home-1")
    chunks = damage(1, how)
    after = run(str(tmp_path / "after"), tmp_path / "home-2")
    assert parts(tmp_path / "after") == parts(tmp_path / "before")
    assert after.outputs["after"].digest == before.outputs["before"].digest
    code, found = fsck("--read-data")
    assert code == 12
    kind = "under-replicated" if how == "delete" else "corrupt"
    assert {line["chunk"] for line in found if line["type"] == kind} == chunks
    assert all(line["files"] == [LOG] for line in found if line["type"] == kind)
    assert fsck("--read-data", "--heal")[0] == 0
    assert fsck("--read-data")[0] == 0


@pytest.mark.parametrize("on", ["inline", "local"])
def test_all_replicas_of_a_chunk_are_lost(on: Any, text: bytes, tmp_path: Path) -> None:
    chunk, nodes = replicas()[7]
    damage_local(nodes[0], chunk, "delete")
    damage_local(nodes[1], chunk, "zero")
    with dfs.open_store() as store:
        ids = [node for node, path in store.node_paths().items() if path in nodes]
        before = store.txn()
    for output in (str(tmp_path / "out"), "dfs://out"):
        with pytest.raises(mr.JobFailed) as caught:
            run(output, tmp_path / "home", on)
        message = str(caught.value)
        assert "\n" not in message
        assert re.search(rf"task 0\.\d+ failed: chunk {chunk} of dfs://{LOG} has no good copy left", message)
        assert "attempt" not in message, "reading again cannot help: it fails at once"
        for node in ids:
            assert node in message
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if ".mr-" in path.name]
    with dfs.open_store() as store:
        assert not store.exists("out")
        assert store.txn() == before


def test_outputs_in_the_store_have_every_replica(text: bytes, tmp_path: Path) -> None:
    run("dfs://out/counts", tmp_path / "home")
    with dfs.open_store() as store:
        found = {info.path for info in store.find("out")}
        assert found == {"out/counts/part-00000.parquet", "out/counts/_SUCCESS"}
        chunks = [ref.id for path in found for ref in store.chunks(path)]
        for chunk in chunks:
            damage_local(store.node_paths()[store.nodes_of(chunk)[0]], chunk, "zero")
    open_store.cache_clear()
    with mr.Session(on="inline"):
        assert mr.read_parquet("dfs://out/counts").take_all() == counted(text)


def test_a_recorded_result_is_not_used_when_its_chunks_are_gone(text: bytes, tmp_path: Path) -> None:
    """Parts in the store are reused by their manifests; one whose chunks were lost is made again."""
    home = tmp_path / "home"
    with mr.Session(on="inline", home=home):
        first = count_words("dfs://" + LOG, "dfs://out")
    with dfs.open_store() as store:
        chunk = store.chunks("out/part-00000.parquet")[0].id
        for node in store.nodes_of(chunk):
            damage_local(store.node_paths()[node], chunk, "delete")
    open_store.cache_clear()
    with mr.Session(on="inline", home=home):
        again = count_words("dfs://" + LOG, "dfs://out2")
        assert (again.tasks_run, again.outputs["out2"].digest) == (1, first.outputs["out"].digest)
        assert mr.read_parquet("dfs://out").take_all() == counted(text), "writing the part again healed the first"
