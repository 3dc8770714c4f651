"""How outputs appear: whole or not at all, once however often a publication is tried, never over what is not ours."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from blake3 import blake3

import dfs
import dfs.store
import mr
from mr import publication
from mr.errors import OutputError, PlanError
from mr.publication import Target, check, parts_of, publish, version_of
from mr.tasks import Output, PartFile


class Killed(BaseException):
    """Stands for a `kill -9`: nothing of ours handles it."""


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of run files; the working directory is its sibling."""
    for name in ("runs", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "runs"


def folder(path: str = "out", mode: Any = "error") -> Target:
    return Target(path, mode, False, ".txt")


def single(path: str = "out.txt", mode: Any = "error") -> Target:
    return Target(path, mode, True, ".txt")


def part(runs: Path, text: str, folder: str = "") -> Output:
    """What a task left: a part file with these lines."""
    digest = blake3(text.encode()).hexdigest()
    (runs / digest).write_text(text)
    file = PartFile(folder, digest, text.count("\n"), len(text), digest)
    return Output("", b"", file.rows, file.bytes, parts=(file,))


def put(
    runs: Path, target: Target, *texts: str, request: str = "first", fail: Callable[[str], None] | None = None
) -> Any:
    """Publish one output made of these parts, as a job that begins now."""
    outputs = [part(runs, text) for text in texts]
    return publish([(target, outputs)], runs, request, {target.where: version_of(target)}, fail or (lambda name: None))


def content(path: str = "out") -> str:
    return "".join(p.read_text() for p in sorted(Path(path).rglob("part-*")))


def success(path: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(path, "_SUCCESS").read_text())
    return found


def listed() -> list[str]:
    return sorted(os.listdir("."))


# --- what is published -----------------------------------------------------------------------------------------------


def test_a_folder_has_its_parts_and_says_so(runs: Path) -> None:
    ((version, report),) = put(runs, folder(), "a\nb\n", "", "c\n")
    assert sorted(os.listdir("out")) == ["_SUCCESS", "part-00000.txt", "part-00001.txt"], (
        "parts without rows are left out"
    )
    assert success()["rows"] == 3
    listing = [(p["name"], p["rows"], p["digest"]) for p in success()["parts"]]
    assert listing == [
        (name, len(text) // 2, blake3(text.encode()).hexdigest())
        for name, text in (("part-00000.txt", "a\nb\n"), ("part-00001.txt", "c\n"))
    ]
    assert (report["files"], report["rows"], report["bytes"], report["path"]) == (2, 3, 6, "out")
    assert version == version_of(folder())
    assert listed() == ["out"]


def test_without_rows_there_is_one_part(runs: Path) -> None:
    put(runs, folder(), "", "")
    assert sorted(os.listdir("out")) == ["_SUCCESS", "part-00000.txt"]
    assert success()["rows"] == 0
    assert [p.name for p in parts_of(single(), [part(runs, "")])] == [""]


def test_a_digest_is_that_of_the_parts_alone(runs: Path) -> None:
    digests = [
        put(runs, folder(name), *texts)[0][1]["digest"]
        for name, texts in {"a": ("1\n", "2\n"), "b": ("1\n", "", "2\n"), "c": ("2\n", "1\n"), "d": ("1\n2\n",)}.items()
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_missing_folders_above_are_made(runs: Path) -> None:
    put(runs, folder("deep/er/out"), "a\n")
    put(runs, single("else/where/out.txt"), "b\n")
    assert content("deep/er/out") == "a\n"
    assert Path("else/where/out.txt").read_text() == "b\n"


# --- what is refused -------------------------------------------------------------------------------------------------


def test_what_exists_is_refused_unless_a_mode_allows_it(runs: Path) -> None:
    put(runs, folder(), "a\n")
    put(runs, single(), "a\n")
    for target in (folder(), single()):
        with pytest.raises(OutputError, match=r"exists already; use --overwrite or --append"):
            check(target)
    check(folder(mode="overwrite"))
    check(folder(mode="append"))
    check(single(mode="overwrite"))
    with pytest.raises(PlanError, match="one file cannot be appended to"):
        check(single(mode="append"))
    Path("empty").mkdir()
    check(folder("empty"))
    put(runs, folder("empty"), "a\n")
    assert content("empty") == "a\n"


@pytest.mark.parametrize("mode", ["overwrite", "append"])
def test_a_folder_without_success_is_not_ours(mode: str) -> None:
    Path("photos").mkdir()
    Path("photos/one.jpg").write_text("smile")
    with pytest.raises(OutputError, match=r"not written by a job \(no _SUCCESS\)"):
        check(folder("photos", mode))
    assert Path("photos/one.jpg").read_text() == "smile"


def test_files_and_folders_are_not_swapped(runs: Path) -> None:
    put(runs, folder("x.txt"), "a\n")
    Path("y").write_text("a file")
    with pytest.raises(OutputError, match="is a folder"):
        check(single("x.txt", "overwrite"))
    with pytest.raises(OutputError, match="is a file"):
        check(folder("y", "overwrite"))
    with pytest.raises(OutputError, match="y is not a folder"):
        check(folder("y/out"))


@pytest.mark.parametrize("kind", [folder, single])
def test_what_appears_while_the_job_runs_is_left_alone(runs: Path, kind: Callable[..., Target]) -> None:
    for mode in ("error", "overwrite"):
        target = kind(mode=mode)
        outputs, versions = [part(runs, "mine\n")], {target.where: version_of(target)}
        Path("theirs").mkdir(exist_ok=True)
        if target.one_file:
            Path(target.path).write_text("theirs\n")
        else:
            Path(target.path).mkdir()
            Path(target.path, "data").write_text("theirs\n")
        with pytest.raises(OutputError, match="has changed since the job began; it is left alone"):
            publish([(target, outputs)], runs, "r", versions, lambda name: None)
        found = Path(target.path) if target.one_file else Path(target.path, "data")
        assert found.read_text() == "theirs\n"
        shutil.rmtree(target.path) if Path(target.path).is_dir() else Path(target.path).unlink()
        assert listed() == ["theirs"], "the staged parts are gone"


# --- overwrite, append, and trying again -----------------------------------------------------------------------------


def test_overwrite_replaces_everything(runs: Path) -> None:
    put(runs, folder(), "a\n", "b\n")
    put(runs, folder(mode="overwrite"), "c\n", request="second")
    assert sorted(os.listdir("out")) == ["_SUCCESS", "part-00000.txt"]
    assert content() == "c\n"
    assert listed() == ["out"]


def test_an_overwritten_folder_is_swapped_in_one_step(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(runs, folder(), "old\n")
    seen: list[tuple[bool, str]] = []
    swap = publication.exchange

    def watched(one: Path, other: Path) -> bool:
        swapped = swap(one, other)
        seen.append((swapped, content()))
        return swapped

    monkeypatch.setattr(publication, "exchange", watched)
    put(runs, folder(mode="overwrite"), "new\n", request="second")
    if not seen[0][0]:
        pytest.skip("this system cannot swap two names")
    assert seen == [(True, "new\n")]
    assert content() == "new\n"
    assert listed() == ["out"]


def test_append_adds_parts_and_keeps_those_before(runs: Path) -> None:
    put(runs, folder(mode="append"), "a\n", "b\n", request="one")
    kept = Path("out/part-00001.txt").stat().st_mtime_ns
    ((_, report),) = put(runs, folder(mode="append"), "c\n", request="two")
    assert sorted(os.listdir("out")) == ["_SUCCESS", "part-00000.txt", "part-00001.txt", "part-00002.txt"]
    assert content() == "a\nb\nc\n"
    assert (success()["rows"], [p["name"] for p in success()["parts"]][-1]) == (3, "part-00002.txt")
    assert report["rows"] == 1, "what was added is reported"
    assert Path("out/part-00001.txt").stat().st_mtime_ns == kept
    assert listed() == ["out"]


@pytest.mark.parametrize("mode", ["error", "overwrite", "append"])
@pytest.mark.parametrize("texts", [("c\n",), ("c\n", "d\n"), ("", "")], ids=["one part", "two parts", "no rows"])
def test_publishing_again_after_a_crash_changes_nothing(runs: Path, mode: str, texts: tuple[str, ...]) -> None:
    """The master died after everything was visible, before it could note so: the resumed job publishes once more."""
    if mode != "error":
        put(runs, folder(), "a\n", "b\n", request="before")
    target = folder(mode=mode)
    versions = {target.where: version_of(target)}
    outputs = [part(runs, text) for text in texts]
    ((_, first),) = publish([(target, outputs)], runs, "request", versions, lambda name: None)
    seen = {p.name: p.read_bytes() for p in Path("out").iterdir()}
    ((_, again),) = publish([(target, outputs)], runs, "request", versions, lambda name: None)
    assert {p.name: p.read_bytes() for p in Path("out").iterdir()} == seen
    assert again == first
    assert listed() == ["out"]


@pytest.mark.parametrize("folders", [("", ""), ("k=1", "k=2")], ids=["parts", "partitions"])
@pytest.mark.parametrize("mode", ["error", "overwrite", "append"])
@pytest.mark.parametrize("call", ["rename", "replace", "link", "fsync", "rmtree", "rename without swaps"])
def test_killed_at_every_step_and_tried_again(
    runs: Path, mode: str, call: str, folders: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever system call is the last one, the next try publishes the same bytes, once, and cleans up."""
    if call == "rename without swaps":
        call = "rename"
        monkeypatch.setattr(publication, "exchange", lambda one, other: False)
    for number in range(1, 20):
        for name in listed():
            shutil.rmtree(name)
        if mode != "error":
            before = [part(runs, text, folders[0]) for text in ("a\n", "b\n")]
            publish([(folder(), before)], runs, "before", {folder().where: None}, lambda name: None)
        target = folder(mode=mode)
        versions = {target.where: version_of(target)}
        outputs = [part(runs, "c\n", folders[0]), part(runs, "d\n", folders[1])]
        killed = False
        with monkeypatch.context() as patch:
            _kill_at(patch, call, number)
            try:
                publish([(target, outputs)], runs, "request", versions, lambda name: None)
            except Killed:
                killed = True
        publish([(target, outputs)], runs, "request", versions, lambda name: None)
        assert content() == ("a\nb\nc\nd\n" if mode == "append" else "c\nd\n"), (call, number)
        assert success()["rows"] == len(content()) // 2
        assert sorted(p["name"] for p in success()["parts"]) == sorted(
            str(p.relative_to("out")) for p in Path("out").rglob("part-*")
        )
        assert listed() == ["out"], (call, number)
        if not killed:
            break
    else:
        raise AssertionError("it was never left alone")


def _kill_at(patch: pytest.MonkeyPatch, call: str, number: int) -> None:
    """Die before the `number`th call, and do nothing from then on: what a killed process would not do either."""
    count = 0
    dead = False

    def wrapped(real: Callable[..., Any], counts: bool) -> Callable[..., Any]:
        def run(*args: Any, **given: Any) -> Any:
            nonlocal count, dead
            count += counts
            dead = dead or (counts and count >= number)
            if dead:
                raise Killed
            return real(*args, **given)

        return run

    for name in ("rename", "replace", "link", "fsync"):
        patch.setattr(os, name, wrapped(getattr(os, name), name == call))
    patch.setattr(shutil, "rmtree", wrapped(shutil.rmtree, call == "rmtree"))
    patch.setattr(publication, "exchange", wrapped(publication.exchange, False))


def test_a_failure_removes_what_was_staged(runs: Path) -> None:
    def fail(name: str) -> None:
        if name == "publish.store":
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        put(runs, folder(), "a\n", fail=fail)
    with pytest.raises(OutputError, match="No space left"):
        put(runs, single(), "a\n", fail=fail)
    assert listed() == []


def test_a_part_that_is_gone_is_an_error_and_leaves_nothing(runs: Path) -> None:
    output = part(runs, "a\n")
    (runs / output.parts[0].path).unlink()
    with pytest.raises(OutputError):
        publish([(folder(), [output])], runs, "r", {folder().where: None}, lambda name: None)
    assert listed() == []


# --- other places ----------------------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


def test_other_file_systems_have_success_last(runs: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    target = folder("memory://bucket/out")
    written: list[str] = []
    monkeypatch.setattr(type(memory), "put_file", _noting(type(memory).put_file, written))
    monkeypatch.setattr(type(memory), "pipe_file", _noting(type(memory).pipe_file, written))
    assert version_of(target) is None
    put(runs, target, "a\n", "b\n")
    assert [name.rpartition("/")[2] for name in written] == ["part-00000.txt", "part-00001.txt", "_SUCCESS"]
    assert memory.cat_file("/bucket/out/part-00001.txt") == b"b\n"
    with pytest.raises(OutputError, match="exists already"):
        check(target)
    put(runs, folder("memory://bucket/out", "overwrite"), "c\n")
    assert sorted(memory.ls("/bucket/out", detail=False)) == ["/bucket/out/_SUCCESS", "/bucket/out/part-00000.txt"]
    with pytest.raises(PlanError, match="append works for local folders and dfs:// only"):
        put(runs, folder("memory://bucket/out", "append"), "d\n")
    put(runs, single("memory://bucket/one.txt"), "e\n")
    assert memory.cat_file("/bucket/one.txt") == b"e\n"


def _noting(real: Any, written: list[str]) -> Any:
    def run(self: Any, *args: Any, **given: Any) -> Any:
        written.append(next(str(a) for a in args[::-1] if isinstance(a, str)))
        return real(self, *args, **given)

    return run


@pytest.fixture
def store(own_state: None) -> Iterator[dfs.Store]:
    with dfs.init_store(dfs.store.default_path()) as made:
        yield made


@mr.job
def two_outputs(text: str, output: str) -> Any:
    """Lines and their number."""
    lines = mr.from_items(text.split())
    return [lines.write_text(output + "/lines"), lines.agg(n=mr.count()).write_csv(output + "/n.csv")]


def test_all_outputs_in_a_store_appear_in_one_transaction(store: dfs.Store, inline: object) -> None:
    before = store.txn()
    two_outputs("a b", "dfs://out")
    assert store.txn() == before + 1
    assert {i.path for i in store.find("out")} == {"out/lines/_SUCCESS", "out/lines/part-00000.txt", "out/n.csv"}
    with pytest.raises(OutputError, match="exists already"):
        two_outputs("c", "dfs://out")
    assert store.txn() == before + 1


def test_appending_to_a_store_twice(store: dfs.Store, inline: mr.Session) -> None:
    for texts, rows in (("a b", 2), ("c", 3), ("d e", 5)):
        mr.from_items(texts.split()).write_text("dfs://out", mode="append")
        with store.open("out/_SUCCESS") as file:
            assert json.loads(file.read())["rows"] == rows
    assert mr.read_text("dfs://out").take_all() == ["a", "b", "c", "d", "e"]
    mr.from_items(["x"]).write_text("dfs://out", mode="overwrite")
    assert mr.read_text("dfs://out").take_all() == ["x"]


def test_a_store_path_that_changes_while_the_job_runs(store: dfs.Store, inline: mr.Session) -> None:
    def meddle(line: str) -> str:
        if not store.exists("out"):
            store.publish([dfs.PutFile("out/x", store.write_file(b"theirs\n"))], request_id="meddle")
        return line

    with pytest.raises(OutputError, match="could not be published"):
        mr.from_items(["a"]).map(meddle).write_text("dfs://out")
    assert [info.path for info in store.find("out")] == ["out/x"]


# --- through a session -----------------------------------------------------------------------------------------------


def test_a_resubmitted_append_appends_again_but_a_resumed_one_does_not(
    inline: mr.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines() -> Any:
        return mr.from_items(["a", "b"]).write_text("out", mode="append")

    lines()
    lines()
    assert content() == "a\nb\na\nb\n", "the same append twice is two appends"
    with monkeypatch.context() as patch:
        patch.setattr(inline.journal, "end_job", _raise_killed)
        patch.setattr(inline.journal, "published", _raise_killed)
        with pytest.raises(Killed):
            lines()
    assert content() == "a\nb\n" * 3, "it was visible when the master died"
    result = lines()
    assert content() == "a\nb\n" * 3, "so resuming adds nothing"
    assert (result.state, result.tasks_run) == ("done", 0)
    assert lines().outputs["out"].rows == 2
    assert content() == "a\nb\n" * 4


def _raise_killed(*args: Any) -> None:
    raise Killed


def test_an_output_that_was_edited_is_not_up_to_date_and_does_not_spoil_the_record(inline: mr.Session) -> None:
    """Parts are hard links to recorded results where the file system allows: editing one must not change the other."""
    dataset = mr.from_items(["a", "b"])
    dataset.write_text("out")
    assert dataset.write_text("out").state == "up to date"
    with open("out/part-00000.txt", "a") as file:
        file.write("edited\n")
    with pytest.raises(OutputError, match="exists already"):
        dataset.write_text("out")
    dataset.write_text("out2")
    assert content("out2") == "a\nb\n"


def test_outputs_that_overlap_are_refused(inline: object) -> None:
    @mr.job
    def job(one: str, two: str) -> Any:
        return [mr.from_items([1]).write_json(one), mr.from_items([2]).write_json(two)]

    for pair in (("out", "out"), ("out", "out/deeper"), ("out/x.json", "out"), ("out", "./out/")):
        with pytest.raises(PlanError, match="overlap"):
            job(*pair)
    job("out", "outer")
    assert listed() == ["out", "outer"]


def test_the_order_in_which_things_are_done(runs: Path) -> None:
    """The failpoints that tests of kills use are hit in this order."""
    hit: list[str] = []
    put(runs, folder(), "a\n", fail=hit.append)
    assert hit == ["publish.staged", "publish.store"]
    assert publication.SUCCESS == "_SUCCESS"
