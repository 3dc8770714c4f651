"""The journal: the engine's only memory. It refuses what is not its own, and remembers across processes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import apsw
import pytest

import mr
from mr.errors import JournalError, JournalLocked
from mr.fingerprint import combine
from mr.inputs import Range
from mr.journal import APPLICATION_ID, VERSION, Journal, Publication, result_from_json, result_to_json
from mr.tasks import Output, PartFile, Segment, TaskResult

RESULT = TaskResult(
    (
        Output("a.0", b"schema", 3, 30, (Segment(0, 0, 0, 10, 1, "d1"), Segment(255, 1, 10, 20, 2, "d2")), b"sample"),
        Output("", b"", 3, 9, parts=(PartFile("day=1", "", 3, 9, "d3", '{"chunks": []}'),)),
    ),
    (("bad", 2),),
    records_in=3,
    bytes_in=40,
    seconds=0.5,
    piece_lines=(2, 1),
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def journal(home: Path) -> Iterator[Journal]:
    made = Journal(home)
    yield made
    made.close()


# --- what is refused -------------------------------------------------------------------------------------------------


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE songs (title TEXT)")
        db.commit()


def newer(path: Path) -> None:
    Journal(path.parent).close()
    with closing(apsw.Connection(str(path), vfs="cksmvfs")) as db:
        db.pragma("user_version", VERSION + 1)


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 64)


def text(path: Path) -> None:
    path.write_text("# my journal\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    Journal(path.parent).close()
    os.truncate(path, 4096 + 100)


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (foreign, "belongs to another program; choose another MR_HOME"),
        (newer, "was made by a newer version; upgrade or choose another MR_HOME"),
        (garbage, "is not a usable journal"),
        (text, "is not a usable journal"),
        (empty, "journal"),
        (cut, "is not a usable journal"),
        (folder, "is not a usable journal"),
    ],
)
def test_what_is_not_a_journal_is_refused_in_one_line(home: Path, spoil: Callable[[Path], None], part: str) -> None:
    home.mkdir()
    path = home / "journal.db"
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(JournalError) as caught:
        Journal(home).jobs(10)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert part in message
    assert not path.is_file() or path.read_bytes() == before, "it is not touched"


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(JournalError, match=r"MR_HOME .*/file/home cannot be used") as caught:
        Journal(tmp_path / "file" / "home")
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_no_damage(journal: Journal) -> None:
    many = [(combine([("a", str(i))]), "task", RESULT) for i in range(200)]
    journal._db.pragma("max_page_count", 8)
    with pytest.raises(JournalError, match="make room on its disk") as caught:
        journal.record(many, 1.0)
    assert "delete" not in str(caught.value)
    journal._db.pragma("max_page_count", 1 << 30)
    journal.record(many, 1.0)
    assert journal.count_results() == 200, "it goes on when there is room"


@pytest.mark.parametrize(
    ("code", "cure"),
    [
        (apsw.SQLITE_IOERR_WRITE, "make room on its disk"),
        (apsw.SQLITE_IOERR_DATA, "delete the file"),  # a checksum that does not fit
        (apsw.SQLITE_BUSY, "try again"),
    ],
)
def test_what_to_do_depends_on_what_is_wrong(journal: Journal, code: int, cure: str) -> None:
    assert cure in str(journal._unusable(apsw.exception_for(code)))


@pytest.mark.parametrize("page", [1, 2, 3])
def test_a_flipped_bit_is_noticed(home: Path, page: int) -> None:
    made = Journal(home)
    made.record([(combine([("a", str(i))]), "task", RESULT) for i in range(200)], 1.0)
    made.close()
    path = home / "journal.db"
    data = bytearray(path.read_bytes())
    data[4096 * page + 2000] ^= 4
    path.write_bytes(data)
    with pytest.raises(JournalError, match="is not a usable journal"):
        _read_all(home)


def _read_all(home: Path) -> None:
    made = Journal(home)
    try:
        made.jobs(1000)
        made.parts_like("task")
        made.results([combine([("a", str(i))]).digest for i in range(200)])
        made.count_results()
        made.publication("x")
        made.ranges_of("x", "y")
        made.history(1)
    finally:
        made.close()


def test_damage_under_a_session_is_one_line(home: Path) -> None:
    home.mkdir()
    garbage(home / "journal.db")
    with mr.Session(on="inline", home=home), pytest.raises(JournalError, match="delete the file to start anew"):
        mr.from_items([1]).take_all()
    (home / "journal.db").unlink()
    with mr.Session(on="inline", home=home):
        assert mr.from_items([1]).take_all() == [1]


# --- what is remembered ----------------------------------------------------------------------------------------------


def test_a_new_journal_is_marked_and_durable(journal: Journal, home: Path) -> None:
    with closing(apsw.Connection(str(home / "journal.db"), vfs="cksmvfs")) as db:
        assert db.pragma("application_id") == APPLICATION_ID
        assert db.pragma("user_version") == VERSION
        assert db.pragma("journal_mode") == "wal"
        assert db.reserve_bytes() == 8
        assert db.pragma("integrity_check") == "ok"


def test_results_are_found_by_fingerprint(journal: Journal, home: Path) -> None:
    one, two = combine([("engine", "1"), ("input", "x")]), combine([("engine", "1"), ("input", "y")])
    journal.record([(one, "read > map", RESULT), (two, "sort", TaskResult(()))], 1.0)
    assert journal.results([one.digest, "nothing", ""]) == {one.digest: RESULT}
    newer_result = TaskResult((Output("b.0", b"", 1, 1),))
    journal.record([(one, "read > map", newer_result)], 2.0)
    journal.close()
    again = Journal(home)
    assert again.results([one.digest, two.digest]) == {one.digest: newer_result, two.digest: TaskResult(())}
    assert again.count_results() == 2
    assert again.parts_like("read > map") == [{"engine": "1", "input": "x"}]
    assert again.parts_like("other") == []
    again.close()


def test_results_as_json() -> None:
    assert result_from_json(result_to_json(RESULT)) == RESULT
    assert result_from_json(result_to_json(TaskResult(()))) == TaskResult(())


def test_an_unfinished_job_is_resumed_with_what_it_began_with(journal: Journal) -> None:
    assert not journal.unfinished("key")
    first = journal.start_job("key", "name", {"out": "version 1", "new": None}, 10.0)
    assert journal.unfinished("key")
    resumed = journal.start_job("key", "name", {"out": "version 2", "new": "there now"}, 20.0)
    assert resumed == first
    assert resumed.versions == {"out": "version 1", "new": None}
    assert journal.start_job("other", "name", {}, 20.0).id != first.id
    journal.end_job(first.id, "done", 30.0, {"tasks_run": 3})
    assert not journal.unfinished("key")
    third = journal.start_job("key", "name", {}, 40.0)
    assert third.id != first.id
    assert third.request != first.request, "another publication, not the same one again"
    newest = journal.jobs(10)
    assert [row.id for row in newest] == sorted((row.id for row in newest), reverse=True)
    row = next(row for row in newest if row.id == first.id)
    assert (row.name, row.state, row.started, row.ended, row.report) == ("name", "done", 10.0, 30.0, {"tasks_run": 3})
    assert len(journal.jobs(1)) == 1


def test_history_publications_and_input_files(journal: Journal) -> None:
    journal.log(1, ["first", "second"])
    journal.log(2, ["another job"])
    journal.log(1, ["third"])
    assert journal.history(1) == ["first", "second", "third"]
    assert journal.history(3) == []
    noted = Publication("key", "version", {"rows": 1})
    journal.published([("out", noted), ("out2", noted)])
    newer_one = Publication("key 2", "version 2", {})
    journal.published([("out", newer_one)])
    assert (journal.publication("out"), journal.publication("out2")) == (newer_one, noted)
    assert journal.publication("out3") is None
    ranges = (Range(0, 10, "a" * 64), Range(10, 5, "b" * 64))
    journal.remember("a.txt", "stamp", ranges)
    assert journal.ranges_of("a.txt", "stamp") == ranges
    assert journal.ranges_of("a.txt", "other stamp") is None
    journal.remember("a.txt", "other stamp", ranges[:1])
    assert journal.ranges_of("a.txt", "stamp") is None


def test_a_transaction_is_whole_or_not_at_all(journal: Journal) -> None:
    good = (combine([("a", "1")]), "task", RESULT)
    bad = (combine([("a", "2")]), "task", TaskResult((), (("n", object()),)))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        journal.record([good, bad], 1.0)
    assert journal.count_results() == 0
    journal.record([good], 1.0)
    assert journal.count_results() == 1


def test_a_job_whose_process_is_gone_is_interrupted(journal: Journal) -> None:
    with journal.job_lock("a" * 64):
        journal.start_job("a" * 64, "words", {}, 1.0)
        assert [row.state for row in journal.jobs(1)] == ["running"]
    assert [row.state for row in journal.jobs(1)] == ["interrupted"]
    assert journal.unfinished("a" * 64), "submitting it again goes on"


# --- several users ---------------------------------------------------------------------------------------------------


def test_one_lock_for_each_job_key(home: Path) -> None:
    one, two = Journal(home), Journal(home)
    with one.job_lock("a" * 64):
        with pytest.raises(JournalLocked, match="running in another process") as caught, two.job_lock("a" * 64):
            pass
        assert caught.value.exit_code == 11
        with two.job_lock("b" * 64):
            pass
    with two.job_lock("a" * 64):
        pass
    for journal in (one, two):
        journal.close()


def test_threads_share_a_journal(journal: Journal) -> None:
    def work(number: int) -> None:
        for i in range(20):
            journal.record([(combine([("a", f"{number}-{i}")]), "task", RESULT)], 1.0)
            journal.log(number, [f"line {i}"])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.count_results() == 80
    assert [journal.history(n) for n in range(4)] == [[f"line {i}" for i in range(20)]] * 4


def test_processes_make_and_share_a_journal(home: Path) -> None:
    """Several first users at once: one makes the database, all write to it."""
    script = dedent(f"""
        import sys
        from pathlib import Path
        from mr.fingerprint import combine
        from mr.journal import Journal
        from mr.tasks import TaskResult
        journal = Journal(Path({str(home)!r}))
        for i in range(20):
            journal.record([(combine([("a", f"{{sys.argv[1]}}-{{i}}")]), "task", TaskResult(()))], 1.0)
    """)
    children = [subprocess.Popen([sys.executable, "-c", script, str(n)]) for n in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    with closing(Journal(home)) as journal:
        assert journal.count_results() == 60
