"""Loading jobs: what a snapshot of their sources holds, and that a running job never sees an edit."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

import mr
from mr.errors import JournalError, PlanError
from mr.job_function import Job
from mr.jobfile import load_job
from mr.snapshot import load, sources_of, take

JOB = """
    import mr
    import jf_words
    from jf_tools.shout import shout

    def work(line):
        import jf_late
        return shout(jf_words.first(line)) + jf_late.TAIL

    @mr.job
    def job(input: str, output: str):
        return mr.read_text(input).map(work).write_text(output)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A job file with a module, a package and a module that is imported late beside it; the working directory."""
    work = tmp_path / "jobs"
    (work / "jf_tools").mkdir(parents=True)
    write(work / "job.py", JOB)
    write(work / "jf_words.py", "def first(line):\n    return line.split()[0]\n")
    write(work / "jf_late.py", "TAIL = '!'\n")
    write(work / "jf_tools/__init__.py", "")
    write(
        work / "jf_tools/shout.py",
        "from jf_tools.deeper import MARK\ndef shout(word):\n    return word.upper() + MARK\n",
    )
    write(work / "jf_tools/deeper.py", "MARK = '?'\n")
    write(work / "jf_unrelated.py", "def this is not Python\n")
    write(work / "in.txt", "a b\nc d\n")
    monkeypatch.chdir(work)
    yield work
    for name in [name for name in sys.modules if name == "job" or name.startswith("jf_")]:
        del sys.modules[name]


def write(path: Path, text: str) -> None:
    path.write_text(dedent(text))


def home() -> Path:
    return Path(os.environ["MR_HOME"])


def loaded(target: str = "job.py") -> Job[...]:
    return load_job(target, home())[0]


def run(target: str = "job.py", output: str = "out", **session: object) -> list[str]:
    with mr.Session(**{"on": "inline", **session}) as current:  # type: ignore[arg-type]
        job, current.code = load_job(target, current.home)
        job("in.txt", output)
    return Path(output, "part-00000.txt").read_text().splitlines()


def test_what_a_snapshot_holds(folder: Path) -> None:
    found = sources_of(folder / "job.py")
    assert set(found) == {"job", "jf_words", "jf_late", "jf_tools", "jf_tools.shout", "jf_tools.deeper"}
    assert found["jf_tools"].is_package
    assert not found["jf_words"].is_package
    digest = take(found, home())
    assert load(home(), digest) == found
    assert take(found, home()) == digest
    write(folder / "jf_unrelated.py", "def neither is this\n")
    assert take(sources_of(folder / "job.py"), home()) == digest
    for name in ("job.py", "jf_words.py", "jf_tools/deeper.py"):
        with open(name, "a") as file:
            file.write("# edited\n")
        changed = take(sources_of(folder / "job.py"), home())
        assert changed != digest
        digest = changed
    assert len(list((home() / "code").iterdir())) == 4


def test_a_snapshot_that_a_crash_cut_short_is_written_again(folder: Path) -> None:
    found = sources_of(folder / "job.py")
    digest = take(found, home())
    for name in ("sources.json", "jf_words.py"):
        os.truncate(home() / "code" / digest / name, 0)
        assert take(found, home()) == digest
        assert load(home(), digest) == found


def test_a_home_that_cannot_hold_a_snapshot_is_named(folder: Path) -> None:
    with pytest.raises(JournalError, match=r"MR_HOME .*/in.txt cannot be used: .*Not a directory") as caught:
        take(sources_of(folder / "job.py"), folder / "in.txt")
    assert "\n" not in str(caught.value)


def test_modules_and_packages_beside_the_job() -> None:
    assert run() == ["A?!", "C?!"]


def test_relative_imports_inside_a_package(folder: Path) -> None:
    write(
        folder / "jf_tools/shout.py",
        "from .deeper import MARK\nfrom . import deeper\ndef shout(word):\n    return MARK + deeper.MARK\n",
    )
    assert run() == ["??!", "??!"]
    write(folder / "jf_tools/__init__.py", "from .shout import shout\n")
    write(folder / "job.py", JOB.replace("from jf_tools.shout", "from jf_tools"))
    assert run(output="out2") == ["??!", "??!"]
    (folder / "jf_tools/inner").mkdir()
    write(folder / "jf_tools/inner/__init__.py", "from ..deeper import MARK\n")
    write(folder / "jf_tools/shout.py", "from .inner import MARK\ndef shout(word):\n    return MARK\n")
    assert run(output="out3") == ["?!", "?!"]


def test_a_class_of_the_job_means_the_same_in_workers(folder: Path) -> None:
    write(
        folder / "job.py",
        """
        import mr

        class Seen(Exception):
            pass

        class Pair(tuple):
            pass

        def check(line):
            try:
                raise Seen(line)
            except Seen as error:
                return isinstance(error, Seen) and isinstance(Pair(), Pair)

        @mr.job
        def job(input: str, output: str):
            return mr.read_text(input).filter(check).write_text(output)
        """,
    )
    assert run(on="local", workers=1) == ["a b", "c d"]


@pytest.mark.parametrize("on", ["inline", "local"])
def test_an_edit_while_the_job_runs_changes_nothing(folder: Path, on: str) -> None:
    """What is imported only when a function first runs comes from the snapshot as well."""
    with mr.Session(on=on, workers=1) as session:  # type: ignore[arg-type]
        job, session.code = load_job("job.py", session.home)
        for name in ("jf_words.py", "jf_tools/deeper.py", "jf_late.py", "job.py"):
            write(folder / name, "raise RuntimeError('edited while the job ran')\n")
        job("in.txt", "out")
    assert Path("out/part-00000.txt").read_text() == "A?!\nC?!\n"


def test_an_edit_is_seen_by_the_next_load(folder: Path) -> None:
    assert run() == ["A?!", "C?!"]
    write(folder / "jf_late.py", "TAIL = '.'\n")
    assert run(output="out2") == ["A?.", "C?."]
    write(folder / "jf_tools/deeper.py", "MARK = ''\n")
    assert run(output="out3") == ["A.", "C."]


def test_only_what_changed_runs_again(folder: Path) -> None:
    def tasks(output: str) -> tuple[int, int]:
        with mr.Session(on="inline") as session:
            job, session.code = load_job("job.py", session.home)
            result = job("in.txt", output)
            return result.tasks_run, result.tasks_reused

    assert tasks("one") == (1, 0)
    assert tasks("two") == (0, 1)
    with open("jf_unrelated.py", "a") as file:
        file.write("still not Python\n")
    assert tasks("three") == (0, 1)
    write(folder / "jf_words.py", "def first(line):\n    return line.split()[-1]\n")
    assert tasks("four") == (1, 0)
    write(folder / "jf_late.py", "TAIL = '.'\n")
    assert tasks("five") == (1, 0), "a module that is imported inside of a function counts"


def test_an_edit_counts_also_in_a_file_that_is_called_like_a_module_of_python(folder: Path) -> None:
    for text in ("line", "line * 2"):
        job = f"import mr\ndef work(line):\n    return {text}\n@mr.job\ndef job(input: str, output: str):\n"
        write(folder / "this.py", job + "    return mr.read_text(input).map(work).write_text(output)\n")
        lines = run("this.py", output=f"out-{text}")
    sys.modules.pop("this")
    assert lines == ["a ba b", "c dc d"]


def test_tracebacks_show_the_file_that_was_submitted(folder: Path) -> None:
    write(folder / "jf_words.py", "def first(line):\n    raise ValueError(line)\n")
    with pytest.raises(mr.JobFailed) as caught:
        run()
    assert f'File "{folder}/jf_words.py", line 2, in first' in caught.value.detail
    assert "raise ValueError(line)" in caught.value.detail


@pytest.mark.parametrize("target", ["job.py", "job.py:job", "job", "job:job"])
def test_the_ways_to_name_a_job(target: str) -> None:
    assert loaded(target).name == "job"


def test_a_job_that_is_only_imported_is_not_the_file_s_own(folder: Path) -> None:
    write(folder / "other.py", "import mr\nfrom job import job\n@mr.job\ndef mine(output: str):\n    return None\n")
    assert loaded("other.py").name == "mine"
    sys.modules.pop("other", None)


@pytest.mark.parametrize(
    ("target", "text", "message"),
    [
        ("absent.py", None, "no job file absent.py"),
        ("absent", None, "no job file or module 'absent'"),
        ("absent:job", None, "no job file or module 'absent'"),
        ("my.job.py", "x = 1\n", "my.job.py cannot be imported: a module's name has no dot; rename the file"),
        ("job.py:other", None, "job.py has no job 'other'; it has job"),
        ("job.py", "x = 1\n", "job.py has no job; decorate a function with @mr.job"),
        ("job.py", "def f(:\n", "job.py:1: SyntaxError: invalid syntax"),
        ("job.py", "x = 1\nimport jf_unrelated\n", "jf_unrelated.py:1: SyntaxError: "),
        ("job.py", "x = 1\nx.y\n", "job.py:2: AttributeError: 'int' object has no attribute 'y'"),
        ("job.py", "\0", "job.py:1: SyntaxError: source code string cannot contain null bytes"),
        ("job.py", "\n\n\nimport nowhere_to_be_found\n", "job.py:4: ModuleNotFoundError"),
    ],
)
def test_one_line_for_every_failure(folder: Path, target: str, text: str | None, message: str) -> None:
    if text is not None:
        write(folder / target, text)
    with pytest.raises(PlanError) as caught:
        loaded(target)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert "/mr/" not in caught.value.detail
    assert "importlib" not in caught.value.detail
