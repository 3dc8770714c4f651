"""The pure rooms of the store: cutting, ids, paths, placement, records, plans."""

from __future__ import annotations

import io
import random
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from dfs.changes import FileManifest, build_manifest
from dfs.chunking import Cutter, Piece, detect_records, only_piece
from dfs.codec import decode, decode_blocks, encode, is_intact
from dfs.errors import ChunkDamaged, InvalidChunkId, InvalidPath, Unsupported, UsageProblem
from dfs.ids import ChunkId, content_id
from dfs.options import MIB, ChunkSizes
from dfs.paths import normalise
from dfs.placement import PlacementNode, place

SIZES = ChunkSizes.of_average(4096)


def cut(data: bytes, mode: str = "lines", blocks: int = 1 << 20, sizes: ChunkSizes = SIZES) -> list[Piece]:
    cutter = Cutter(sizes, mode)  # type: ignore[arg-type]
    pieces: list[Piece] = []
    for at in range(0, len(data), blocks):
        pieces += cutter.feed(data[at : at + blocks])
    return [*pieces, *cutter.finish()]


def text(seed: int, lines: int) -> bytes:
    source = random.Random(seed)
    return b"".join(source.randbytes(source.randrange(1, 40)).hex().encode() + b"\n" for _ in range(lines))


@given(st.lists(st.binary(max_size=3000).map(lambda b: b * 3), max_size=20), st.integers(1, 70_000))
@settings(max_examples=60, deadline=None)
def test_cutting_keeps_every_byte_and_counts_every_record(lines: list[bytes], blocks: int) -> None:
    data = b"\n".join(lines)
    pieces = cut(data, blocks=blocks)
    assert b"".join(p.data for p in pieces) == data
    assert sum(p.records or 0 for p in pieces) == data.count(b"\n") + (1 if data and not data.endswith(b"\n") else 0)
    assert all(p.data.endswith(b"\n") != p.continues for p in pieces[:-1])
    assert pieces == cut(data), "the cuts do not depend on the blocks"
    assert [p.records for p in cut(data, "none")] == [None] * len(cut(data, "none"))


@pytest.mark.parametrize("average", [4096, 65536])
@pytest.mark.parametrize("place_of_change", [0.0, 0.3, 0.9])
def test_an_inserted_line_changes_at_most_two_chunks(average: int, place_of_change: float) -> None:
    sizes = ChunkSizes.of_average(average)
    lines = text(1, 40_000).splitlines(keepends=True)
    at = int(len(lines) * place_of_change)
    before = {bytes(p.data) for p in cut(b"".join(lines), sizes=sizes)}
    after = cut(b"".join([*lines[:at], b"a new line\n", *lines[at:]]), sizes=sizes)
    assert len(before) > 15
    assert sum(bytes(p.data) not in before for p in after) <= 2


def test_averages_that_pyfastcdc_cannot_scan_are_made_of_pieces() -> None:
    data = random.Random(2).randbytes(80 * MIB)
    sizes = ChunkSizes.of_average(8 * MIB)
    pieces = cut(data, "none", blocks=32 * MIB, sizes=sizes)
    lengths = [len(p.data) for p in pieces]
    assert b"".join(p.data for p in pieces) == data
    assert all(sizes.min <= n <= sizes.max for n in lengths[:-1])
    assert 4 * MIB < len(data) / len(lengths) < 20 * MIB
    before = {bytes(p.data) for p in pieces}
    changed = cut(data[:100] + b"!" + data[100:], "none", sizes=sizes)
    assert sum(bytes(p.data) not in before for p in changed) <= 2


def test_known_cuts_never_change() -> None:
    """Another cut is another id: everything that is stored would be stored again."""
    lines = random.Random(7).randbytes(30 * MIB).replace(b"\r", b"\n")
    cuts = [len(p.data) for p in cut(lines, sizes=ChunkSizes.of_average(8 * MIB), blocks=3 * MIB)]
    assert cuts == [5041586, 12830279, 10142440, 3442975]
    assert [p.records for p in cut(b"a\nb" * 9000)] == [5462, 3539]


@given(st.binary(max_size=4096))
@settings(max_examples=30, deadline=None)
def test_the_only_piece_is_what_a_cutter_gives(data: bytes) -> None:
    sizes = ChunkSizes.of_average(16384)
    for mode in ("lines", "none"):
        assert [only_piece(data, mode)] == cut(data, mode, sizes=sizes) or not data  # type: ignore[arg-type]


def test_a_record_longer_than_the_search_is_cut_and_marked() -> None:
    data = b"first\n" + b"x" * (9 * MIB) + b"\nlast"
    pieces = cut(data)
    assert b"".join(p.data for p in pieces) == data
    assert pieces[0].continues
    assert [p.records for p in pieces if p.records] == [2, 1]
    assert not pieces[-1].continues


@pytest.mark.parametrize(
    ("head", "name", "mode"),
    [(b"a\0", "x.txt", "none"), (b"plain", "x.parquet", "none"), (b"plain", "X.GZ", "none"), (b"", None, "lines")],
)
def test_auto_records(head: bytes, name: str | None, mode: str) -> None:
    assert detect_records(head, name) == mode


@pytest.mark.parametrize("average", [100, 1 << 27])
def test_sizes_have_limits(average: int) -> None:
    with pytest.raises(UsageProblem):
        ChunkSizes.of_average(average)


@given(st.binary(max_size=5000))
def test_chunk_ids(data: bytes) -> None:
    chunk = ChunkId.of(data)
    assert ChunkId.parse(str(chunk)) == chunk == ChunkId.from_digest(chunk.digest)
    assert chunk.verifies(data)
    assert not chunk.verifies(data + b"!")


@pytest.mark.parametrize(
    "bad",
    ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", "%2e" * 21 + "a", "../" + "a" * 61, "٠" * 64, None],
)
def test_malformed_chunk_ids_are_refused(bad: str) -> None:  # F53
    with pytest.raises(InvalidChunkId):
        ChunkId.parse(bad)


GOOD_NAME = st.text(min_size=1, max_size=60).filter(
    lambda s: (
        s not in (".", "..")
        and not set(s) & {"/", "\0"}
        and len(s.encode("utf8", "surrogatepass")) <= 255
        and not any(0xD800 <= ord(c) < 0xE000 for c in s)
    )
)


@given(st.lists(GOOD_NAME, max_size=6))
def test_good_paths_are_kept_exactly(names: list[str]) -> None:  # F52
    path = "/".join(names)
    if path.startswith("dfs:"):
        return
    assert normalise(path) == normalise("/" + path) == normalise(path + "/") == normalise("dfs://" + path) == path


@pytest.mark.parametrize(
    "bad", ["a/../b", "..", ".", "a//b", "a\0", "a" * 256, "é" * 128, "\ud800", "a/./b", "//a", "a/" * 2100 + "a"]
)
def test_bad_paths_are_refused(bad: str) -> None:  # F52
    with pytest.raises(InvalidPath):
        normalise(bad)


def test_placement_is_deterministic_weighted_and_stable() -> None:
    nodes = [PlacementNode("a"), PlacementNode("b"), PlacementNode("c"), PlacementNode("d", 2.0)]
    chunks = [ChunkId.of(b"%d" % i) for i in range(4000)]
    first = [place(chunk, nodes) for chunk in chunks]
    assert first == [place(chunk, reversed(nodes)) for chunk in chunks]
    share = sum(order[0] == "d" for order in first) / len(first)
    assert 0.36 < share < 0.44
    without = [place(chunk, [n for n in nodes if n.id != "b"]) for chunk in chunks]
    assert without == [tuple(n for n in order if n != "b") for order in first], "a node that leaves moves nothing else"


def test_known_placement_never_changes() -> None:
    nodes = [PlacementNode(name) for name in "abcd"]
    assert [place(ChunkId.of(b"%d" % i), nodes) for i in range(3)] == [
        ("c", "d", "b", "a"),
        ("c", "a", "d", "b"),
        ("b", "d", "a", "c"),
    ]


@pytest.mark.parametrize("weights", [(1.0,) * 5, (1.0,) * 12, (1.0, 2.0, 4.0, 0.5)])
def test_a_node_that_joins_takes_its_share_and_moves_nothing_else(weights: tuple[float, ...]) -> None:  # F40
    """The bytes that move are at most 1.2 times what the new node should hold: its share of the weights."""
    before = [PlacementNode(f"node {i}", weight) for i, weight in enumerate(weights)]
    joined = PlacementNode("joined", sum(weights) / len(weights))
    share = joined.weight / (sum(weights) + joined.weight)
    source = random.Random(len(weights))
    chunks = [(ChunkId.from_digest(source.randbytes(32)), source.randrange(1, 64 * MIB)) for _ in range(4000)]
    for replicas in (1, 3):
        moved = total = 0
        for chunk, size in chunks:
            old, new = place(chunk, before)[:replicas], place(chunk, [*before, joined])[:replicas]
            assert set(new) - set(old) <= {joined.id}, "what moves, moves to the new node"
            assert len(set(old) - set(new)) <= 1
            moved += size * len(set(new) - set(old))
            total += size * replicas
        if replicas == 1 or len(set(weights)) == 1:
            assert moved <= 1.2 * share * total
            assert moved >= 0.8 * share * total


def test_chunks_spread_by_weight() -> None:
    nodes = [PlacementNode("a", 0.5), PlacementNode("b", 1.0), PlacementNode("c", 2.5)]
    source = random.Random(3)
    firsts = [place(ChunkId.from_digest(source.randbytes(32)), nodes)[0] for _ in range(8000)]
    for node in nodes:
        assert 0.9 < firsts.count(node.id) / len(firsts) / (node.weight / 4.0) < 1.1


@given(st.binary(max_size=2000), st.booleans(), st.integers(1, 5000))
@settings(max_examples=50, deadline=None)
def test_records_round_trip(data: bytes, compressible: bool, size: int) -> None:
    data = data * 200 if compressible else data
    record = encode(data)
    assert decode(record.encoded, record.id) == data
    blocks = decode_blocks(io.BytesIO(record.encoded).read, size, record.id)
    assert blocks == [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("data", [b"a" * 100_000, random.Random(1).randbytes(1000), b""])
def test_every_flipped_byte_of_a_record_is_found(data: bytes) -> None:  # F14
    record = encode(data)
    whole = record.encoded
    for at in range(min(len(whole), 400)):
        with pytest.raises(ChunkDamaged):
            decode(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :], record.id)
    for damaged in (whole[:-1], whole + b"\0", b"", bytes(len(whole)), encode(b"other").encoded):
        with pytest.raises(ChunkDamaged):
            decode(damaged, record.id)


def test_a_newer_record_is_unsupported_not_damaged() -> None:  # F60
    import struct
    import zlib

    fields = struct.pack("<4sBBHQQQ", b"MRCK", 99, 0, 0, 3, 3, 0)
    with pytest.raises(Unsupported):
        decode(fields + struct.pack("<I", zlib.crc32(fields)) + b"abc", ChunkId.of(b"abc"))


def test_text_is_compressed_and_noise_is_not() -> None:
    assert len(encode(text(3, 5000)).payload) < len(text(3, 5000))
    noise = random.Random(4).randbytes(100_000)
    assert encode(noise).payload == noise


def manifest(data: bytes) -> FileManifest:
    return build_manifest([(ChunkId.of(data), len(data), 1, False)], "lines", 1)


def test_a_manifest_that_lies_is_refused() -> None:
    value = manifest(b"1").to_json()
    with pytest.raises(UsageProblem):
        FileManifest.from_json({**value, "size": 7})


def test_content_ids_depend_on_content_alone() -> None:
    data = text(5, 3000)
    pieces = cut(data)
    refs = [(ChunkId.of(p.data).digest, len(p.data)) for p in pieces]
    assert content_id(refs) == content_id(list(refs))
    assert content_id(refs) != content_id(refs[:-1])
    assert content_id(refs) != content_id(refs[::-1])


@pytest.mark.parametrize("data", [b"small", b"text that compresses " * 20_000])
def test_a_record_is_tied_to_its_chunk(data: bytes) -> None:  # F14: swapped files
    record = encode(data)
    other = ChunkId.of(data + b"!")
    assert is_intact(record.encoded, record.id)
    assert not is_intact(record.encoded, other)
    with pytest.raises(ChunkDamaged, match="another chunk's"):
        decode(record.encoded, other)
    for at in range(0, len(record.encoded), max(1, len(record.encoded) // 50)):
        flipped = bytearray(record.encoded)
        flipped[at] ^= 0x10
        assert not is_intact(bytes(flipped), record.id)


def test_records_of_version_1_are_read_and_never_trusted_unread() -> None:  # F60
    payload = b"written by the first release"
    fields = struct.pack("<4sBBHQQQ", b"MRCK", 1, 0, 0, len(payload), len(payload), xxh3_64_intdigest(payload))
    record = fields + struct.pack("<I", zlib.crc32(fields)) + payload
    assert decode(record, ChunkId.of(payload)) == payload
    assert not is_intact(record, ChunkId.of(payload))
