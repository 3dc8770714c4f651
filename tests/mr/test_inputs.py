"""Splits: aligned at record ends wherever they are cut, packed by content alone, named by content alone."""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dfs
import dfs.store
import mr
import mr.inputs
from mr.errors import InputError, InputNotFound
from mr.formats.text import TextReader
from mr.inputs import Range, splits_of, whole_files
from mr.options import PACK_BYTES_MAX, PACKED_FILE_BYTES_MAX
from mr.plan import Read
from mr.storage import InputFile
from mr.tasks import Split

TRICKY = "no end,\r\nCRLF,é€𝄞\n\n\r\n\rlone\r\r\n  blanks \nlast without an end".encode()


class Memo:
    """Remembers like the journal, and what it was asked."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], tuple[Range, ...]] = {}
        self.hits = 0

    def ranges_of(self, path: str, stamp: str) -> tuple[Range, ...] | None:
        found = self.kept.get((path, stamp))
        self.hits += found is not None
        return found

    def remember(self, path: str, stamp: str, ranges: tuple[Range, ...]) -> None:
        self.kept[path, stamp] = ranges


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Sets the size at which local files are cut; nothing is packed."""

    def set_to(size: int) -> None:
        monkeypatch.setattr(mr.inputs, "LOCAL_SPLIT_BYTES", size)
        monkeypatch.setattr(mr.inputs, "PACKED_FILE_BYTES_MAX", -1)

    return set_to


def splits(paths: str | Sequence[str] = "in", memo: Memo | None = None, **options: Any) -> tuple[Split, ...]:
    found = (paths,) if isinstance(paths, str) else tuple(paths)
    return splits_of(Read(None, found, TextReader(**options)), memo or Memo())


def identities(found: Sequence[Split]) -> list[str]:
    return [split.identity for split in found]


def names(found: Sequence[Split]) -> list[list[str]]:
    return [[os.path.basename(piece.path) for piece in split.pieces] for split in found]


# --- cutting ---------------------------------------------------------------------------------------------------------


def test_pieces_tile_a_file_and_end_at_line_ends_for_any_size(folder: Path, cut: Any) -> None:
    (folder / "a.txt").write_bytes(TRICKY)
    counts = set()
    for size in range(1, len(TRICKY) + 2):
        cut(size)
        pieces = [piece for split in splits() for piece in split.pieces]
        ends = [piece.offset + piece.length for piece in pieces]
        assert [0, *ends[:-1]] == [piece.offset for piece in pieces]
        assert ends[-1] == len(TRICKY)
        assert all(TRICKY[end - 1 : end] == b"\n" for end in ends[:-1])
        assert all(piece.length >= size for piece in pieces[:-1])
        counts.add(len(pieces))
    assert min(counts) == 1
    assert max(counts) == TRICKY.count(b"\n") + 1


@pytest.mark.parametrize(
    ("options", "data"),
    [
        ({}, TRICKY),
        ({}, b"\n\n\n"),
        ({}, b"\xef\xbb\xbfmark\nline\n"),
        ({"delimiter": "||"}, b"a|||b||\n||c|||||d"),
        ({"delimiter": "\n\n"}, b"a\n\n\nb\n\n\n\nc\nd"),
        ({"delimiter": ";"}, b"a;b;;\nc"),
        ({"encoding": "latin-1"}, "zwölf\nélan\n".encode("latin-1")),
        ({"include_offset": True}, TRICKY),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_moving_a_boundary_never_changes_a_record(
    folder: Path, cut: Any, inline: object, options: dict[str, Any], data: bytes
) -> None:
    (folder / "a.txt").write_bytes(data)
    whole = mr.read_text("in", **options).take_all()
    assert whole
    for size in range(1, len(data) + 1, 1 if len(data) < 30 else 3):
        cut(size)
        assert mr.read_text("in", **options).take_all() == whole


def test_line_numbers_go_on_from_piece_to_piece(folder: Path, cut: Any, inline: object) -> None:
    lines = [f"{i}" if i % 7 else f"bad {i}" for i in range(1, 60)]
    (folder / "a.txt").write_text("\n".join(lines))
    (folder / "b.txt").write_text("\n".join(lines))
    for size in (1, 10, 50, 1000):
        cut(size)
        rejected = mr.read_text("in").map(int, on_error="quarantine").rejected().take_all()
        seen = [(row.path, row.line, row.offset, row.raw.decode()) for row in rejected]
        offset_of = {line: sum(len(before) + 1 for before in lines[:i]) for i, line in enumerate(lines)}
        expected = [(i, line) for i, line in enumerate(lines, 1) if line.startswith("bad")]
        assert seen == [(f"in/{name}.txt", i, offset_of[line], line) for name in "ab" for i, line in expected]


def test_compressed_files_and_other_formats_are_one_piece(folder: Path, cut: Any) -> None:
    cut(10)
    (folder / "a.txt.gz").write_bytes(gzip.compress(TRICKY))
    (piece,) = splits()[0].pieces
    assert (piece.offset, piece.length, piece.compression) == (0, (folder / "a.txt.gz").stat().st_size, "gzip")
    whole = splits_of(Read(None, ("in",), mr.read_binary_files("in")._node.reader), Memo())
    assert [(p.offset, p.compression) for split in whole for p in split.pieces] == [(0, None)]


def test_a_large_file_has_splits_twice_as_long(folder: Path, cut: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mr.inputs, "LARGE_FILE_BYTES", 60)
    cut(10)
    memo = Memo()
    for lines, sizes in ((11, [10] * 5 + [5]), (12, [20] * 3), (13, [20] * 3 + [5])):
        (folder / "a.txt").write_text("line\n" * lines)
        os.utime(folder / "a.txt", (1, 1))
        for _ in range(2):  # the second time from memory
            assert [split.size_bytes for split in splits(memo=memo)] == sizes


def test_parquet_is_cut_between_row_groups(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"n": list(range(1000)), "text": [f"{i:040}" for i in range(1000)]})
    pq.write_table(table, folder / "a.parquet", row_group_size=100, use_dictionary=False, compression="none")
    reader = mr.read_parquet("in")._node.reader
    monkeypatch.setattr(mr.inputs, "PACKED_FILE_BYTES_MAX", -1)
    for size, groups in ((1, 1), (10_000, 2), (1 << 30, 10)):
        monkeypatch.setattr(mr.inputs, "LOCAL_SPLIT_BYTES", size)
        found = [piece.row_groups for split in splits_of(Read(None, ("in",), reader), Memo()) for piece in split.pieces]
        assert [n for chosen in found for n in chosen or ()] == list(range(10))
        assert {len(chosen or ()) for chosen in found} == {groups}
    identity = [s.identity for s in splits_of(Read(None, ("in",), reader), Memo())]
    assert len(set(identity)) == len(identity)


def test_a_chunk_of_the_store_is_a_split_and_a_cut_record_is_glued(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = (("c1", 10, False), ("c2", 20, True), ("c3", 5, True), ("c4", 7, False), ("c1", 10, False))
    file = InputFile("dfs://a.txt", "dfs", 52, "content", "/store", chunks, by_lines=True)
    monkeypatch.setattr(mr.inputs, "list_files", lambda path: [file])
    found = splits("dfs://a.txt")
    assert [[id for id, _ in piece.chunks] for split in found for piece in split.pieces] == [
        ["c1"],
        ["c2", "c3", "c4"],
        ["c1"],
    ]
    assert [(piece.offset, piece.length) for split in found for piece in split.pieces] == [(0, 10), (10, 32), (42, 10)]
    assert found[0].identity != found[2].identity, "only the first may begin with a byte order mark"
    raw = InputFile("dfs://a.txt", "dfs", 52, "content", "/store", chunks, by_lines=False)
    monkeypatch.setattr(mr.inputs, "list_files", lambda path: [raw])
    assert [len(piece.chunks) for split in splits("dfs://a.txt") for piece in split.pieces] == [5]


def test_items_are_cut_by_number(inline: object) -> None:
    node = mr.from_items(range(150_000))._node
    found = splits_of(node, Memo())
    assert [pa.ipc.open_stream(s.items).read_all().num_rows for s in found] == [65_536, 65_536, 18_928]
    assert identities(found) == identities(splits_of(mr.from_items(range(150_000))._node, Memo()))
    assert len(splits_of(mr.from_items([])._node, Memo())) == 1


# --- packing ---------------------------------------------------------------------------------------------------------


def small_files(folder: Path, count: int, seed: int = 1) -> list[str]:
    source = random.Random(seed)
    made = {f"{i:04}.txt": source.randbytes(6).hex() + "\n" for i in range(count)}
    for name in source.sample(list(made), len(made)):
        (folder / name).write_text(made[name])
    return list(made)


def test_small_files_are_packed_in_path_order(folder: Path) -> None:
    files = small_files(folder, 400)
    found = splits()
    assert [name for group in names(found) for name in group] == files
    assert 3 <= len(found) <= 14, "a pack closes after 64 files on average"
    for group, split in zip(names(found)[:-1], found, strict=False):
        assert split.size_bytes == 13 * len(group)


def test_packs_do_not_depend_on_when_and_where_files_were_made(folder: Path, tmp_path: Path) -> None:
    small_files(folder, 200)
    other = tmp_path / "other"
    other.mkdir()
    for path in sorted(folder.iterdir(), reverse=True):
        (other / path.name).write_bytes(path.read_bytes())
    assert identities(splits("other")) == identities(splits("in"))
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for path in folder.iterdir():
        (renamed / ("x" + path.name)).write_bytes(path.read_bytes())
    assert identities(splits("renamed")) == identities(splits("in")), "names do not count, their order does"
    assert identities(splits("renamed", include_path=True)) != identities(splits("in", include_path=True))


def test_a_new_file_changes_its_own_pack_only(folder: Path) -> None:
    small_files(folder, 400)
    before = identities(splits())
    (folder / "0200a.txt").write_text("new\n")
    after = identities(splits())
    assert 0 < len(set(after) - set(before)) <= 2
    (folder / "0200a.txt").unlink()
    (folder / "0100.txt").unlink()
    assert len(set(identities(splits())) - set(before)) <= 1


def test_large_files_are_not_packed_and_packs_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mr.inputs, "PACK_CLOSE_BITS", 32)
    monkeypatch.setattr(mr.inputs, "PACKED_FILE_BYTES_MAX", 100)
    monkeypatch.setattr(mr.inputs, "PACK_BYTES_MAX", 250)
    for i, size in enumerate((100, 100, 100, 101, 50, 50, 0, 90, 1000, 10)):
        (folder / str(i)).write_bytes(bytes([65 + i]) * size)
    assert names(splits()) == [["0", "1"], ["2"], ["3"], ["4", "5", "6", "7"], ["8"], ["9"]]
    assert PACKED_FILE_BYTES_MAX < PACK_BYTES_MAX


# --- identity --------------------------------------------------------------------------------------------------------


def test_identity_is_content(folder: Path) -> None:
    (folder / "a.txt").write_text("one\n")
    first = identities(splits())
    os.utime(folder / "a.txt", (1, 1))
    (folder / "a.txt").rename(folder / "b.txt")
    assert identities(splits()) == first
    (folder / "b.txt").write_text("two\n")
    assert identities(splits()) != first
    (folder / "b.txt").write_text("one\n")
    assert identities(splits()) == first
    (folder / "b.txt.gz").write_bytes(b"one\n")
    assert identities(splits("in/b.txt.gz")) != first, "the same bytes read through a codec are other records"


def test_equal_pieces_run_once(folder: Path, cut: Any, inline: mr.Session) -> None:
    cut(100)
    (folder / "a.txt").write_text("same line\n" * 1000)
    found = identities(splits())
    assert len(found) == 100
    assert len(set(found)) == 2, "the first, which may begin with a mark, and all others"
    result = mr.read_text("in").map(str.upper).write_text("out")
    assert result.tasks_run == 2
    assert result.outputs["out"].rows == 1000


# --- memo ------------------------------------------------------------------------------------------------------------


def test_ranges_are_remembered_for_files_that_have_settled(folder: Path) -> None:
    path, memo = folder / "a.txt", Memo()
    path.write_text("fresh\n")
    splits(memo=memo)
    assert not memo.kept, "it could change again within the clock's granularity"
    now = path.stat().st_mtime
    for age, kept in ((1.5, False), (-60, False), (2.5, True)):
        os.utime(path, (now - age, now - age))
        splits(memo=memo)
        assert bool(memo.kept) is kept
    assert memo.hits == 0
    splits(memo=memo)
    assert memo.hits == 1


def test_a_remembered_file_is_not_read_and_a_changed_one_is(folder: Path) -> None:
    path, memo = folder / "a.txt", Memo()
    path.write_text("one\n")
    os.utime(path, (1000, 1000))
    before = identities(splits(memo=memo))
    (key,) = memo.kept
    memo.kept[key] = (Range(0, 4, "f" * 64),)
    assert identities(splits(memo=memo)) != before, "what is remembered is believed"
    path.write_text("two\n")
    assert identities(splits(memo=memo)) == identities(splits()), "another time of change: read again"
    os.utime(path, (1000, 1000))
    path.write_text("three\n")
    os.utime(path, (1000, 1000))
    assert identities(splits(memo=memo)) == identities(splits()), "another size"
    (folder / "new").write_text("four\n")
    os.utime(folder / "new", (1000, 1000))
    os.replace(folder / "new", path)
    assert identities(splits(memo=memo)) == identities(splits()), "another file under the name"


def test_the_journal_is_such_a_memo(folder: Path, inline: mr.Session) -> None:
    (folder / "a.txt").write_text("one\n" * 10)
    os.utime(folder / "a.txt", (1000, 1000))
    node = mr.read_text("in")._node
    before = splits_of(node, inline.journal)
    line_end = b"\n"
    stamp = f"{mr.inputs.input_files(node)[0].stamp}:{line_end!r}:{mr.inputs.LOCAL_SPLIT_BYTES}"
    kept = inline.journal.ranges_of("in/a.txt", stamp)
    assert kept is not None
    assert (kept[0].offset, kept[0].length) == (0, 40)
    assert splits_of(node, inline.journal) == before


# --- what there is ---------------------------------------------------------------------------------------------------


def test_which_files_a_path_means(folder: Path) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", "sub/deep/d.log", ".hidden", "_SUCCESS", "_meta/x", ".git/y", "Z.txt"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(name)

    def found(*paths: str) -> list[str]:
        node = Read(None, paths, TextReader())
        return [os.path.relpath(file.path, folder) for file in mr.inputs.input_files(node)]

    assert found(str(folder)) == ["Z.txt", "a.txt", "b.txt", "sub/c.txt", "sub/deep/d.log"]
    assert found(f"{folder}/*.txt") == ["Z.txt", "a.txt", "b.txt"]
    assert found(f"{folder}/**/*.txt") == ["Z.txt", "a.txt", "b.txt", "sub/c.txt"]
    assert found(f"{folder}/_SUCCESS") == ["_SUCCESS"], "a file that is named is read"
    assert found(f"{folder}/b.txt", f"{folder}/a.txt") == ["b.txt", "a.txt"], "paths in the order given"
    assert found(f"file://{folder}/sub") == ["sub/c.txt", "sub/deep/d.log"]
    for path in ("nothing", "in/*.gz"):
        with pytest.raises(InputNotFound, match="no input at"):
            found(path)


def test_names_that_look_like_patterns(folder: Path) -> None:
    (folder / "[a].txt").write_text("brackets\n")
    (folder / "what?.txt").write_text("question\n")
    assert names(splits("in/[a].txt")) == [["[a].txt"]]
    assert names(splits("in/what?.txt")) == [["what?.txt"]]


def test_an_empty_folder_is_one_empty_split_and_a_first_piece_is_found(folder: Path) -> None:  # F46
    (split,) = splits()
    assert (split.pieces, split.size_bytes) == ((), 0)
    with pytest.raises(InputNotFound, match="infer a schema"):
        next(whole_files(["in"], True))
    (folder / "a.txt").write_text("")
    assert next(whole_files(["in"], True)).path == "in/a.txt"
    (folder / "b.txt").write_text("x")
    assert [piece.path for piece in whole_files(["in"], True)] == ["in/b.txt"]
    assert len(splits()) == 1


def test_what_is_no_file(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        splits("in/pipe")
    with pytest.raises(InputError, match="in/pipe is neither a file nor a folder"):
        splits("in")
    (folder / "pipe").unlink()
    (folder / "gone").symlink_to("nowhere")
    with pytest.raises(InputError, match="in/gone is a link to nothing"):
        splits("in")


def test_a_file_that_shrinks_after_it_was_planned(folder: Path, inline: mr.Session) -> None:
    (folder / "a.txt").write_text("line\n" * 100)

    def shrink(line: str) -> str:
        return line

    dataset = mr.read_text("in").map(shrink)
    graph = inline.compile((mr.plan.Collect(None, dataset._node),))
    planned = inline.splits(graph)
    (folder / "a.txt").write_text("line\n")
    piece = mr.inputs.OpenedPiece(planned[0][0].pieces[0])
    with pytest.raises(InputError, match=r"in/a\.txt: the file has become shorter"):
        piece.buffer()


@pytest.mark.parametrize("how", ["change", "grow"])
def test_a_file_that_changes_while_it_is_read(folder: Path, inline: mr.Session, how: str) -> None:
    """What was read would be recorded, and reused, as the result for the bytes that were planned."""

    def fill(name: str, letter: str) -> None:
        (folder / name).write_text((letter * 999_999 + "\n") * 5)  # too large to be packed

    fill("a.txt", "a")
    fill("b.txt", "b")

    def meddle(line: str) -> str:
        if line[0] == "a" and how == "change" and not (folder / "enough").exists():
            fill("b.txt", "x")
        elif line[0] == "a":
            with (folder / "b.txt").open("a") as file:
                file.write("more\n")
        return line[0]

    values = mr.read_text("in").map(meddle, names="value").distinct()
    if how == "change":
        with pytest.raises(mr.JobFailed, match=r"in/b\.txt: the file has changed since the job began; submit"):
            values.take_all()
        fill("b.txt", "b")
        (folder / "enough").mkdir()
        assert sorted(values.take_all()) == ["a", "b"]
    else:
        assert sorted(values.take_all()) == ["a", "b"], "a log that only grows is read as far as it was planned"
        assert sorted(values.take_all()) == ["a", "b", "m"]


@pytest.mark.usefixtures("own_state")
def test_a_file_of_the_store_reads_as_the_file_that_was_put() -> None:
    """In blocks of any size, and from any place of it."""
    source = random.Random(5)
    data = source.randbytes(2_500_000) + b"\n".join(b"line %d" % n for n in range(20_000))
    with dfs.init_store(dfs.store.default_path(), chunk_bytes_avg=1 << 20) as store:
        store.publish([dfs.PutFile("x.bin", store.write_file(data, records="none"))], request_id="x")
        assert len(store.chunks("x.bin")) > 2
    (piece,) = whole_files(["dfs://x.bin"], decompress=False)
    for size in (1 << 22, 1 << 16, 12_345):
        blocks = list(piece.blocks(size))
        assert b"".join(blocks) == data
        assert max(map(len, blocks)) <= size
    with piece.file() as file:
        for at in (0, 1_048_575, 1_048_576, len(data) - 5, len(data), 17, 2_000_000):
            file.seek(at)
            assert file.read(1_200_000) == data[at : at + 1_200_000]
