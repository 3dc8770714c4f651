"""From streams to stored chunks: order, pins, bounds, and what failures leave."""

from __future__ import annotations

import contextlib
import io
import itertools
import random
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, cast

import pytest

from dfs.changes import FileManifest
from dfs.codec import Record, encode
from dfs.errors import BadInput, ChunkDamaged, NotEnoughNodes, UsageProblem
from dfs.ids import ChunkId
from dfs.options import BATCH_CHUNKS_MAX, MIB, ChunkSizes
from dfs.pins import Pins
from dfs.placement import PlacementNode
from dfs.replication import ReplicatedChunks
from dfs.stores.memory import MemoryChunkStore
from dfs.writing import FileWriter, WritePool, write_batched

SIZES = ChunkSizes.of_average(1 << 16)


class FakePins:
    """Keeps what was pinned, in memory; `inside` counts the threads that write."""

    def __init__(self) -> None:
        self.pinned: set[ChunkId] = set()
        self.inside = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        with self._lock:
            self.inside += 1
        try:
            yield
        finally:
            with self._lock:
                self.inside -= 1

    def add(self, chunk_ids: Iterable[ChunkId]) -> None:
        assert self.inside, "pinned inside `writing` only"
        self.pinned.update(chunk_ids)


class Watched(MemoryChunkStore):
    """A node that refuses to be asked for a chunk before it is pinned."""

    def __init__(self, name: str, pins: FakePins) -> None:
        super().__init__(name)
        self.pins = pins
        self.puts: list[int] = []
        self.fail_at: int | None = None

    def _check(self, chunk_ids: Iterable[ChunkId]) -> list[ChunkId]:
        ids = list(chunk_ids)
        assert self.pins.inside
        assert self.pins.pinned.issuperset(ids)
        return ids

    def held(self, chunk_ids: Iterable[ChunkId]) -> set[ChunkId]:
        return super().held(self._check(chunk_ids))

    def intact(self, chunk_ids: Iterable[ChunkId]) -> set[ChunkId]:
        return super().intact(self._check(chunk_ids))

    def put_many(self, records: Sequence[Record]) -> list[bool]:
        self._check(record.id for record in records)
        self.puts.append(len(records))
        if self.fail_at is not None and len(self.puts) > self.fail_at:
            raise NotEnoughNodes("no node is left")
        return super().put_many(records)


class World:
    """A pool over watched nodes."""

    def __init__(self, nodes: int = 1, replicas: int = 1) -> None:
        self.pins = FakePins()
        self.nodes = {f"n{i}": Watched(f"n{i}", self.pins) for i in range(nodes)}
        self.chunks = ReplicatedChunks([PlacementNode(name) for name in self.nodes], self.nodes, replicas)
        self.pool = WritePool(self.chunks, cast(Pins, self.pins))

    def batched(self, sources: Iterable[tuple[str, IO[bytes] | bytes]], **options: Any) -> list[FileManifest]:
        return list(write_batched(self.pool, SIZES, sources, options.pop("records", "auto"), **options))

    def bytes_of(self, manifest: FileManifest) -> bytes:
        node = MemoryChunkStore("all")
        for one in self.nodes.values():
            node.records |= one.records
        return b"".join(node.get(ref.id) for ref in manifest.chunks)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.pool.close()
    made.pool.close()
    made.chunks.close()


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def test_many_files_come_back_in_order_whatever_their_sizes(world: World) -> None:
    source = random.Random(1)
    datas = [
        noise(i, source.choice((0, 1, 63, 500, SIZES.min, SIZES.min + 1, 200_000))) + b"\n" * (i % 2)
        for i in range(120)
    ]

    def sources() -> Iterator[tuple[str, IO[bytes] | bytes]]:
        yield from ((f"{i}", data if i % 3 else io.BytesIO(data)) for i, data in enumerate(datas))

    manifests = world.batched(sources(), records="lines")
    assert [world.bytes_of(manifest) for manifest in manifests] == datas
    lines = [data.count(b"\n") + (1 if data and not data.endswith(b"\n") else 0) for data in datas]
    assert [manifest.records for manifest in manifests] == lines
    assert sum(m.new_chunks for m in manifests) == len(world.nodes["n0"].records)
    again = world.batched(sources(), records="lines")
    assert [m.content_id for m in again] == [m.content_id for m in manifests]
    assert sum(m.new_chunks for m in again) == 0


def test_small_files_are_stored_together(world: World) -> None:
    count = BATCH_CHUNKS_MAX + 5
    manifests = world.batched((f"{i}", b"file %d" % i) for i in range(count))
    assert sorted(world.nodes["n0"].puts) == [5, BATCH_CHUNKS_MAX]
    assert len(manifests) == count
    assert {m.records_mode for m in manifests} == {"lines"}


def test_what_is_held_is_not_written_again(world: World) -> None:
    files = [(f"{i}", noise(i, 100)) for i in range(10)]
    world.batched(files[:5])
    assert [m.new_chunks for m in world.batched(files)] == [0] * 5 + [1] * 5
    assert world.nodes["n0"].puts == [5, 5]


def test_equal_files_count_as_new_once(world: World) -> None:
    small, large = noise(1, 500), noise(2, 300_000)
    manifests = world.batched([("a", small), ("b", large), ("c", small), ("d", large)])
    assert len(manifests[1].chunks) > 1
    assert [m.new_chunks for m in manifests[::2]] in ([1, 0], [0, 1])
    assert sum(m.new_chunks for m in manifests) == len({ref.id for m in manifests for ref in m.chunks})
    futures = [world.pool.submit([noise(3, 50_000)]) for _ in range(8)]
    assert sum(new for future in futures for _, new in future.result()) == 1


def test_copies_are_made_as_asked() -> None:
    world = World(nodes=4, replicas=2)
    (two,) = world.batched([("a", b"two copies")])
    (three,) = world.batched([("a", b"three copies")], replicas=3)
    with FileWriter(world.pool, SIZES, "none", None, replicas=4) as writer:
        writer.write_from(noise(1, 500_000))
        four = writer.finish()
    for manifest, copies in ((two, 2), (three, 3), (four, 4)):
        for ref in manifest.chunks:
            assert sum(ref.id in node.records for node in world.nodes.values()) == copies
    with pytest.raises(NotEnoughNodes):
        world.batched([("a", b"five")], replicas=5)
    world.pool.close()


def test_all_chunks_of_a_file_are_pinned(world: World) -> None:
    (manifest,) = world.batched([("a", noise(1, 700_000))])
    assert world.pins.pinned == {ref.id for ref in manifest.chunks}
    assert world.pins.inside == 0


@pytest.mark.parametrize("size", [1, 7, 4096, 100_000])
def test_the_cuts_do_not_depend_on_how_a_stream_is_read(world: World, size: int) -> None:
    class Slow(io.RawIOBase):
        def __init__(self, data: bytes) -> None:
            self.left = io.BytesIO(data)

        def read(self, _: int = -1) -> bytes:
            return self.left.read(size)

    data = noise(5, 300_000 if size > 7 else 3_000)
    (whole,) = world.batched([("a", data)])
    assert world.batched([("a", Slow(data))])[0].chunks == whole.chunks
    with FileWriter(world.pool, SIZES, "auto", "a") as writer:
        writer.write_from(cast(IO[bytes], Slow(data)))
        assert writer.finish().chunks == whole.chunks
    with FileWriter(world.pool, SIZES, "auto", "a") as writer:
        for at in range(0, len(data), size * 3):
            assert writer.write(memoryview(data)[at : at + size * 3]) == len(data[at : at + size * 3])
        writer.end()
        assert writer.finish().chunks == whole.chunks


def test_a_failure_stays_and_no_manifest_has_a_hole(world: World) -> None:
    world.nodes["n0"].fail_at = 2
    writer = FileWriter(world.pool, SIZES, "none", None)
    with contextlib.suppress(NotEnoughNodes):  # it may be noticed now, or at the end
        writer.write_from(noise(1, 5 * MIB))
    with pytest.raises(NotEnoughNodes):
        writer.finish()
    world.nodes["n0"].fail_at = None
    with pytest.raises(NotEnoughNodes):
        writer.finish()
    with pytest.raises(NotEnoughNodes):
        writer.finish()
    writer.cancel()


def test_a_failing_batch_gives_no_manifest(world: World) -> None:
    world.nodes["n0"].fail_at = 0
    stored = write_batched(world.pool, SIZES, [("a", b"1"), ("b", noise(1, 100_000))], "auto")
    with pytest.raises(NotEnoughNodes):
        next(stored)
    assert world.nodes["n0"].records == {}


def test_a_writer_that_is_left_stores_nothing_more(world: World) -> None:
    gate = threading.Event()
    node = world.nodes["n0"]
    real = node.put_many

    def wait(records: Sequence[Record]) -> list[bool]:
        gate.wait(20)
        return real(records)

    node.put_many = wait  # type: ignore[method-assign]
    with contextlib.suppress(KeyError), FileWriter(world.pool, SIZES, "none", None) as writer:
        writer.write_from(noise(1, 150_000))
        raise KeyError
    stored = write_batched(world.pool, SIZES, ((f"{i}", noise(i, 70_000)) for i in itertools.count()), "none")
    threading.Timer(0.05, gate.set).start()
    next(stored)
    stored.close()
    world.pool.close()
    held = len(node.records)
    assert 0 < held < 60
    assert world.pool.submit([b"the pool can be used again"]).result()[0][1]


def test_only_so_much_is_in_memory(world: World) -> None:
    gate, node = threading.Event(), world.nodes["n0"]
    real = node.put_many

    def wait(records: Sequence[Record]) -> list[bool]:
        gate.wait(20)
        return real(records)

    node.put_many = wait  # type: ignore[method-assign]
    submitted: list[int] = []

    def submit() -> None:
        for i in range(30):
            world.pool.submit([noise(i, 100)])
            submitted.append(i)

    thread = threading.Thread(target=submit)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    assert len(submitted) <= 9, "one more than the threads, of which there are at most eight"
    gate.set()
    thread.join(20)
    assert len(submitted) == 30


def test_what_memory_corrupts_is_never_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:  # F17
    real = encode.__globals__["_compress"]

    def flip(data: bytes) -> bytes:
        compressed = bytearray(real(b"\1" + bytes(data)[1:]))
        return bytes(compressed)

    monkeypatch.setitem(encode.__globals__, "_compress", flip)
    with pytest.raises(ChunkDamaged, match="memory"):
        world.batched([("a", b"a" * 10_000)])
    with pytest.raises(ChunkDamaged, match="memory"):
        world.batched([("a", b"b" * 200_000)])
    assert world.nodes["n0"].records == {}


def test_an_unreadable_stream_is_bad_input(world: World) -> None:
    class Broken(io.RawIOBase):
        name = "broken.gz"

        def __init__(self, good: int) -> None:
            self.good = good

        def read(self, size: int = -1) -> bytes:
            self.good -= 1
            if self.good < 0:
                raise EOFError("ended early")
            return noise(self.good, min(size, 100_000))

    for good in (0, 1, 3):
        with pytest.raises(BadInput, match=r"broken\.gz cannot be read: ended early"):
            world.batched([("a", Broken(good))])
    with pytest.raises(BadInput):
        FileWriter(world.pool, SIZES, "auto", None).write_from(cast(IO[bytes], Broken(2)))


def test_records_must_be_a_known_mode(world: World) -> None:
    with pytest.raises(UsageProblem, match="auto, lines or none"):
        FileWriter(world.pool, SIZES, "words", None)  # type: ignore[arg-type]


def test_real_pins_outlive_the_writing(tmp_path: Any) -> None:
    (tmp_path / "pins").mkdir()
    pins = Pins(tmp_path / "pins")
    chunks = ReplicatedChunks([PlacementNode("a")], {"a": MemoryChunkStore("a")}, 1)
    pool = WritePool(chunks, pins)
    (manifest,) = write_batched(pool, SIZES, [("a", b"kept")], "auto")
    pool.close()
    (file,) = (tmp_path / "pins").glob("*.pin")
    assert manifest.chunks[0].id in file.read_text()
    pins.close()
