"""The `mr` command: what it prints, what it leaves, and one clear line with the right exit code for bad input."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from mr import cli_info  # noqa: F401 - adds its commands
from mr.cli import cli
from mr.journal import Journal

WORD_COUNT = """
    import mr

    @mr.job
    def word_count(input: list[str], output: str, *, min_count: int = 1):
        '''Count words.'''
        return (
            mr.read_text(input)
            .flat_map(str.split, names={"word": str})
            .group_by("word")
            .agg(n=mr.count())
            .filter(lambda row: row.n >= min_count)
            .sort("word")
            .write_parquet(output)
        )

    if __name__ == "__main__":
        word_count.main()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory: in/a.txt with three words in two lines. Modules that a test imports do not stay."""
    work = tmp_path / "work"
    (work / "in").mkdir(parents=True)
    (work / "in" / "a.txt").write_text("b a\nb\n")
    monkeypatch.chdir(work)
    yield work
    for name in ("job", "helper", "broken", "counted"):
        sys.modules.pop(name, None)


def write_job(source: str, name: str = "job.py") -> str:
    Path(name).write_text(dedent(source))
    return name


def job_of(body: str, signature: str = "input: list[str], output: str") -> str:
    """The file of a job whose function has this body; the lines before it are one import and one decorator."""
    lines = dedent(body).strip().splitlines()
    text = "import mr\n@mr.job\ndef job(" + signature + "):\n" + "".join(f"    {line}\n" for line in lines)
    Path("job.py").write_text(text)
    return "job.py"


def mr(*words: str) -> Result:
    command = [words[0], "--on", "inline", *words[1:]] if words[0] in ("submit", "run", "explain") else list(words)
    result = CliRunner().invoke(cli, command, prog_name="mr")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def mr_process(*words: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command, in a process of its own."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("mr")), *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, done.stderr
    return done


def left_over() -> list[str]:
    """What staging may leave: nothing may be left after any command."""
    return [str(path) for path in Path(".").rglob(".*") if ".mr-" in path.name]


def refused(result: Result | subprocess.CompletedProcess[str], code: int, *parts: str, traceback: bool = False) -> str:
    """Assert that a command failed as it should: one line, exit code, all `parts` in it, nothing left behind."""
    returned = result.exit_code if isinstance(result, Result) else result.returncode
    lines = result.stderr.splitlines()
    assert returned == code, result.stderr
    assert lines[-1].startswith("mr: ")
    for part in parts:
        assert part in lines[-1]
    if traceback:
        assert lines[0] == "Traceback (user code):"
        assert not re.search(r'File ".*/(mr|importlib|click)/', result.stderr)
    else:
        assert len(lines) == 1, result.stderr
    assert not result.stdout
    assert not Path("out").exists()
    assert not left_over()
    return lines[-1]


def report(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.stderr
    last: dict[str, object] = json.loads(result.stdout.splitlines()[-1])
    assert last["type"] == "result"
    return last


# --- bad input -------------------------------------------------------------------------------------------------------


def test_no_such_input() -> None:
    refused(mr("submit", write_job(WORD_COUNT), "--input", "nope", "--output", "out"), 4, "no input at nope")
    refused(mr("submit", write_job(WORD_COUNT), "--input", "in/*.gz", "--output", "out"), 4, "no input at in/*.gz")
    csv = job_of("return mr.read_csv(input).write_csv(output)")
    refused(mr("submit", csv, "--input", "nope.csv", "--output", "out"), 4, "no input at nope.csv")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_empty_input_gives_an_empty_output(kind: str) -> None:
    Path("nothing").write_text("") if kind == "file" else Path("nothing").mkdir()
    done = report(mr("submit", write_job(WORD_COUNT), "nothing", "out", "--json"))
    assert done["state"] == "done"
    assert sorted(os.listdir("out")) == ["_SUCCESS", "part-00000.parquet"]
    table = pq.read_table("out/part-00000.parquet")
    assert table.num_rows == 0
    assert {field.name: str(field.type) for field in table.schema} == {"word": "large_string", "n": "int64"}
    success = json.loads(Path("out/_SUCCESS").read_text())
    assert success["rows"] == 0
    assert [part["name"] for part in success["parts"]] == ["part-00000.parquet"]
    shown = mr("show", "out").stdout
    assert "word" in shown
    assert "(0, 2)" in shown


def test_an_output_that_exists_is_left_alone() -> None:
    job = write_job(WORD_COUNT)
    report(mr("submit", job, "in", "out", "--json"))
    before = Path("out/part-00000.parquet").read_bytes()
    Path("in/b.txt").write_text("more\n")
    result = mr("submit", job, "in", "out")
    assert result.exit_code == 1
    assert result.stderr == "mr: out exists already; use --overwrite or --append (in Python mode=), or another path\n"
    assert Path("out/part-00000.parquet").read_bytes() == before
    assert not left_over()
    report(mr("submit", job, "in", "out", "--overwrite", "--json"))
    assert pq.read_table("out/part-00000.parquet").column("word").to_pylist() == ["a", "b", "more"]


def test_a_folder_that_no_job_wrote_is_never_replaced() -> None:
    Path("mine").mkdir()
    Path("mine/diary.txt").write_text("dear")
    for mode in ("--overwrite", "--append"):
        result = mr("submit", write_job(WORD_COUNT), "in", "mine", mode)
        assert result.exit_code == 1
        assert "was not written by a job" in result.stderr
        assert os.listdir("mine") == ["diary.txt"]


def test_a_syntax_error_names_file_and_line() -> None:
    refused(mr("submit", write_job("x = 1\ndef f(:\n")), 2, "job.py:2: SyntaxError: ")
    Path("broken.py").write_text("def f(:\n")
    refused(mr("submit", write_job("import broken\n")), 2, "broken.py:1: SyntaxError: ")
    refused(mr("submit", "broken"), 2, "SyntaxError", "line 1")


def test_a_file_without_a_job_with_two_and_none_at_all() -> None:
    refused(mr("submit", write_job("x = 1\n")), 2, "job.py has no job", "@mr.job")
    two = "import mr\n" + "".join(
        f"@mr.job\ndef {name}(output: str):\n    return mr.from_items([1]).write_json(output)\n" for name in ("a", "b")
    )
    refused(mr("submit", write_job(two), "out"), 2, "2 jobs (a, b)", "job.py:a")
    refused(mr("submit", "job.py:c", "out"), 2, "no job 'c'", "a, b")
    report(mr("submit", "job.py:b", "out", "--json"))
    assert "no job file absent.py" in mr("submit", "absent.py").stderr
    assert "no job file or module 'absent'" in mr("submit", "absent").stderr


def test_a_job_file_that_fails_while_it_is_loaded() -> None:
    Path("helper.py").write_text("1 / 0\n")
    result = mr("submit", write_job("import helper\n"))
    refused(result, 2, "job.py:1: ZeroDivisionError", traceback=True)
    assert "helper.py" in result.stderr
    refused(mr("submit", write_job("import no_such_module\n")), 2, "job.py:1: ModuleNotFoundError", traceback=True)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--bogus", "1", "--input", "in", "--output", "out"), "No such option '--bogus'"),
        (("--output", "out"), "missing --input"),
        ((), "missing --input, --output"),
        (("in", "out", "--min-count", "few"), "--min-count: 'few' is not a value of type int"),
        (("in", "out", "--min-count"), "'--min-count' requires an argument"),
    ],
)
def test_wrong_options(words: tuple[str, ...], part: str) -> None:
    line = refused(mr("submit", write_job(WORD_COUNT), *words), 2, part)
    assert "--help" in line or "requires" in line


def test_a_glob_that_the_shell_expanded_for_one_parameter() -> None:
    Path("in/b.txt").write_text("c\n")
    job = job_of("return mr.read_text(input).write_text(output)", "input: str, output: str")
    for words in (("in/a.txt", "in/b.txt", "--output", "out"), ("in/a.txt", "in/b.txt", "out")):
        refused(mr("submit", job, *words), 2, "unexpected argument", "quote the glob or declare list[str]")
    refused(mr("submit", job, "in", "out", "more"), 2, "unexpected argument 'more'; see")


def test_appending_and_overwriting_is_a_contradiction() -> None:
    write_job(WORD_COUNT)
    refused(mr("submit", "job.py", "in", "out", "--append", "--overwrite"), 2, "--overwrite", "--append", "one of them")
    assert not Path("out").exists()


def test_wrong_engine_options_are_one_line_too() -> None:
    for words in (("--on", "mars"), ("--workers", "0"), ("--workers", "two")):
        result = CliRunner().invoke(cli, ["submit", *words, write_job(WORD_COUNT), "in", "out"], prog_name="mr")
        refused(result, 2, words[0])
    refused(mr("submit", write_job(WORD_COUNT), "in", "out", "--memory", "lots"), 2, "'lots' is not a size")
    refused(mr("nonsense"), 2, "No such command 'nonsense'")


def test_a_type_conflict_names_record_column_types_and_line() -> None:
    Path("in/a.txt").write_text("1\n2\nx\n")
    job = write_job("""
        import mr

        def parse(line):
            return (line, int(line)) if line.isdigit() else (line, line)

        @mr.job
        def job(input: list[str], output: str):
            return mr.read_text(input).map(parse).write_parquet(output)
    """)
    line = refused(mr("submit", job, "in", "out"), 1, "task 0.0", "parse (job.py:4)", "in/a.txt, line 3, byte 4")
    assert "column 'value' is int before, but str 'x' follows" in line


def test_a_type_conflict_between_tasks() -> None:
    Path("in/a.txt").write_text("1\n" * 2_500_000)  # more than is packed with a neighbour
    Path("in/b.txt").write_text("x\n" * 2_500_000)
    job = job_of("""
        return mr.read_text(input).map(lambda line: int(line) if line.isdigit() else line).write_json(output)
    """)
    refused(mr("submit", job, "in", "out"), 1, "'value'", "int", "str")


@pytest.mark.parametrize(
    ("key", "part"), [("frozenset(line)", "Python objects"), ("list(line)", "lists cannot be compared")]
)
def test_a_key_that_cannot_be_hashed(key: str, part: str) -> None:
    job = job_of(f"""
        pairs = lambda line: [({key}, 1)]
        return mr.read_text(input).map_reduce(pairs, lambda k, ns: (str(k), sum(ns))).write_parquet(output)
    """)
    refused(mr("submit", job, "in", "out"), 1, "'key'", "cannot be a key", part)


def test_an_output_that_cannot_be_written() -> None:
    Path("file").write_text("x")
    job = write_job(WORD_COUNT)
    refused(mr("submit", job, "in", "file/out"), 1, "file/out cannot be written", "file is not a folder")
    refused(mr("submit", job, "in", "file"), 1, "file exists already")
    refused(mr("submit", job, "in", "file", "--overwrite"), 1, "file is a file")
    assert Path("file").read_text() == "x"
    refused(mr("submit", job, "in", "in/deeper"), 2, "lies inside the input")


def test_a_store_that_does_not_exist() -> None:
    job = write_job(WORD_COUNT)
    for words in (("in", "dfs://out"), ("dfs://in", "out")):
        refused(mr("submit", job, *words), 10, os.environ["DFS_STORE"], "dfs init")
    refused(mr("show", "dfs://out"), 10, "dfs init")
    assert not Path(os.environ["DFS_STORE"]).exists()


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_gzip_is_named(damage: str) -> None:
    whole = gzip.compress(b"".join(b"%d %d\n" % (i, i * i) for i in range(200_000)))
    middle = len(whole) // 2
    bad = whole[:middle] if damage == "cut" else whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    Path("in/bad.txt.gz").write_bytes(bad)
    refused(mr("submit", write_job(WORD_COUNT), "in", "out"), 1, "in/bad.txt.gz", "corrupt or cut short")


def test_a_reducer_that_returns_a_list_of_tuples() -> None:
    job = job_of("""
        pairs = lambda line: [(word, 1) for word in line.split()]
        return mr.read_text(input).map_reduce(pairs, lambda word, ns: [(word, sum(ns))]).write_parquet(output)
    """)
    line = refused(mr("submit", job, "in", "out"), 1, "returned a list of records", "yield them")
    assert "job.py:5" in line


def test_an_output_declared_and_not_returned() -> None:
    job = job_of("""
        words = mr.read_text(input)
        words.write_text(output + "/a")
        return words.write_text(output + "/b")
    """)
    refused(mr("submit", job, "in", "out"), 2, "job.py:5: the output out/a is declared but not returned by job job")
    refused(mr("submit", job_of("mr.read_text(input).write_text(output)"), "in", "out"), 2, "returned None")
    refused(mr("submit", job_of("return mr.read_text(input)"), "in", "out"), 2, "returned Dataset", "write_")


def test_a_plan_that_is_wrong_names_the_line() -> None:
    unknown = job_of("""
        pairs = mr.read_text(input).map(lambda line: (line, 1))
        return pairs.group_by("key").agg(n=mr.count()).write_csv(output)
    """)
    refused(mr("submit", unknown, "in", "out"), 2, "job.py:5: the columns of map", "add names= at job.py:4")
    absent = job_of('return mr.read_text(input).select("nope").write_csv(output)')
    refused(mr("submit", absent, "in", "out"), 2, "job.py:4: select(): no column 'nope'")
    raising = job_of('return mr.read_text(input).groupBy("x")')
    refused(mr("submit", raising, "in", "out"), 2, "job.py:4", "'groupBy'; use group_by", traceback=True)


def test_a_function_that_raises_names_everything() -> None:
    Path("in/b.txt").write_text("fine\nbad one\n")
    job = write_job("""
        import mr

        def check(line):
            return deeper(line)

        def deeper(line):
            if "bad" in line:
                raise ValueError("will not do")
            return line

        @mr.job
        def job(input: list[str], output: str):
            return mr.read_text(input).map(check).write_text(output)
    """)
    result = mr("submit", job, "in", "out")
    line = refused(result, 1, "task 0.0", "map check (job.py:4)", "ValueError: will not do", traceback=True)
    assert "in/b.txt, line 2, byte 5" in line
    assert "'bad one'" in line
    assert "attempt 4 of 4" in line
    frames = re.findall(r'File "(.*)", line (\d+), in (\w+)', result.stderr)
    assert [(Path(file).name, line, name) for file, line, name in frames] == [
        ("job.py", "5", "check"),
        ("job.py", "9", "deeper"),
    ]


def test_bad_input_through_worker_processes_is_one_line_too() -> None:
    job = job_of("""
        pairs = lambda line: [(word, 1) for word in line.split()]
        return mr.read_text(input).map_reduce(pairs, lambda word, ns: [(word, sum(ns))]).write_parquet(output)
    """)
    refused(mr_process("submit", "--workers", "2", job, "in", "out", code=1), 1, "returned a list of records")
    refused(mr_process("submit", job, "nope", "out", code=4), 4, "no input at nope")


# --- options of jobs -------------------------------------------------------------------------------------------------

ALL_TYPES = """
    import enum
    from datetime import date, datetime, timedelta
    from pathlib import Path
    from typing import Literal

    import mr

    class Color(enum.Enum):
        RED = 1
        BLUE = 2

    @mr.job
    def job(words: list[str], output: str, *, flag: bool = False, on_off: bool = True, letter: Literal["a", "b"] = "a",
            digit: Literal[1, 2] = 1, color: Color = Color.RED, day: date | None = None, at: datetime | None = None,
            gap: timedelta = timedelta(minutes=1), path: Path = Path("x"), pairs: dict[str, int] = {},
            maybe: int | None = None, ratio: float = 0.5, untyped=3, numbers: list[int] = [1], bare=None):
        '''Shows its values.'''
        values = (words, flag, on_off, letter, digit, color, day, at, gap, path, pairs, maybe, ratio, untyped, numbers,
                  bare)
        return mr.from_items([repr(value) for value in values]).write_text(output)
"""
_DEFAULTS = "['w'] False True 'a' 1 <Color.RED:_1> None None datetime.timedelta(seconds=60)"
DEFAULTS = [*_DEFAULTS.split(), "PosixPath('x')", "{}", "None", "0.5", "3", "[1]", "None"]


def values_of(*words: str) -> list[str]:
    report(mr("submit", write_job(ALL_TYPES), *words, "--output", "out.txt", "--overwrite", "--json"))
    return [line.replace(" ", "_") for line in Path("out.txt").read_text().splitlines()]


def test_every_parameter_has_its_default() -> None:
    assert values_of("w") == DEFAULTS


@pytest.mark.parametrize(
    ("words", "index", "expected"),
    [
        (("--words", "w", "--words", "v"), 0, "['w',_'v']"),
        (("w", "--flag"), 1, "True"),
        (("w", "--no-flag"), 1, "False"),
        (("w", "--no-on-off"), 2, "False"),
        (("w", "--letter", "b"), 3, "'b'"),
        (("w", "--digit", "2"), 4, "2"),
        (("w", "--color", "BLUE"), 5, "<Color.BLUE:_2>"),
        (("w", "--day", "2026-01-02"), 6, "datetime.date(2026,_1,_2)"),
        (("w", "--at", "2026-01-02T03:04:05"), 7, "datetime.datetime(2026,_1,_2,_3,_4,_5)"),
        (("w", "--gap", "30m"), 8, "datetime.timedelta(seconds=1800)"),
        (("w", "--gap", "1d12h"), 8, "datetime.timedelta(days=1,_seconds=43200)"),
        (("w", "--path", "a/b"), 9, "PosixPath('a/b')"),
        (("w", "--pairs", "a=1", "--pairs", "b=2"), 10, "{'a':_1,_'b':_2}"),
        (("w", "--maybe", "7"), 11, "7"),
        (("w", "--ratio", "1.5"), 12, "1.5"),
        (("w", "--untyped", "9"), 13, "9"),
        (("w", "--numbers", "4", "--numbers", "5"), 14, "[4,_5]"),
        (("w", "--bare", "text"), 15, "'text'"),
    ],
)
def test_every_type_of_parameter(words: tuple[str, ...], index: int, expected: str) -> None:
    changed = values_of(*words)
    assert changed == [*DEFAULTS[:index], expected, *DEFAULTS[index + 1 :]]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--letter", "c"), "--letter: 'c' is not one of a, b"),
        (("--color", "GREEN"), "--color: 'GREEN' is not one of RED, BLUE"),
        (("--day", "today"), "--day: 'today' is not a value of type date"),
        (("--gap", "30x"), "--gap: '30x' is not a value of type timedelta"),
        (("--pairs", "a"), "--pairs: write a=VALUE"),
        (("--pairs", "a=x"), "--pairs: 'x' is not"),
        (("--numbers", "x"), "--numbers: 'x' is not a value of type int"),
    ],
)
def test_a_value_of_the_wrong_type(words: tuple[str, ...], part: str) -> None:
    refused(mr("submit", write_job(ALL_TYPES), "w", "out", *words), 2, part)


def test_positionals_fill_required_parameters_and_lists_take_the_rest() -> None:
    job = write_job(WORD_COUNT)
    Path("more.txt").write_text("a a\n")
    report(mr("submit", job, "in", "more.txt", "out", "--min-count", "2", "--json"))
    assert pq.read_table("out").to_pylist() == [{"word": "a", "n": 3}, {"word": "b", "n": 2}]


def test_after_two_dashes_everything_belongs_to_the_job() -> None:
    job = write_job(WORD_COUNT)
    refused(mr("submit", job, "in", "--", "--output", "out", "--json"), 2, "No such option '--json'")
    result = mr("submit", job, "in", "--quiet", "--", "--output", "out")
    assert (result.exit_code, result.stdout) == (0, "")
    assert Path("out/_SUCCESS").exists()


@pytest.mark.parametrize("name", ["on", "workers", "memory", "json", "overwrite", "help", "no_reuse"])
def test_a_parameter_named_like_an_engine_option_is_refused(name: str) -> None:
    job = job_of("return mr.from_items([1]).write_json(output)", f"output: str, {name}: int = 1")
    refused(mr("submit", job, "out"), 2, "job.py:2", f"parameter {name!r}", f"--{name.replace('_', '-')}", "rename it")


def test_parameters_that_have_no_text_form() -> None:
    for signature, part in (("*output: str", "declare list[str]"), ("output: str, x: set = 1", "no text form")):
        refused(mr("submit", job_of("return None", signature), "out"), 2, "job.py:2", part)


def test_the_help_of_a_job_shows_its_options() -> None:
    result = mr("submit", write_job(ALL_TYPES), "--help")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Shows its values." in result.stdout
    for text in ("--words", "required", "--flag / --no-flag", "a|b", "RED|BLUE", "--gap", "K=INT", "default: RED"):
        assert text in result.stdout
    assert "--flag" not in mr("submit", "--help").stdout
    assert "--overwrite" in mr("submit", "--help").stdout


# --- results ---------------------------------------------------------------------------------------------------------


def test_the_last_json_line_is_the_result() -> None:
    job = write_job(WORD_COUNT)
    done = report(mr("submit", job, "in", "out", "--json"))
    assert (done["state"], done["tasks_run"], done["tasks_reused"], done["name"]) == ("done", 3, 0, "word_count")
    assert 0 < float(str(done["seconds"])) < 60
    output = done["outputs"]["out"]  # type: ignore[index]
    assert (output["path"], output["files"], output["rows"]) == ("out", 1, 2)
    assert output["bytes"] == Path("out/part-00000.parquet").stat().st_size
    assert re.fullmatch("[0-9a-f]{64}", output["digest"])
    again = report(mr("submit", job, "in", "out", "--json"))
    assert (again["state"], again["tasks_run"], again["tasks_reused"]) == ("up to date", 0, 0)
    assert again["outputs"] == done["outputs"]
    elsewhere = report(mr("run", job, "in", "out2", "--json"))
    assert (elsewhere["tasks_run"], elsewhere["tasks_reused"]) == (0, 3)
    assert elsewhere["outputs"]["out2"]["digest"] == output["digest"]  # type: ignore[index]
    forced = report(mr("submit", job, "in", "out3", "--json", "--no-reuse"))
    assert (forced["tasks_run"], forced["tasks_reused"]) == (3, 0)


def test_named_outputs_and_counters_are_reported() -> None:
    job = job_of("""
        words = mr.read_text(input).flat_map(str.split, names="word")
        counted = words.filter(lambda word: mr.counter("seen").add(1) or True)
        return {"all": counted.write_text(output + "/all"), "one": words.limit(1).write_csv(output + "/one.csv")}
    """)
    done = report(mr("submit", job, "in", "out", "--json"))
    assert sorted(done["outputs"]) == ["all", "one"]  # type: ignore[call-overload]
    assert done["counters"] == {"seen": 3}
    assert sorted(os.listdir("out")) == ["all", "one.csv"]


def test_list_status_and_explain() -> None:
    assert mr("status").exit_code == 4
    job = write_job(WORD_COUNT)
    explained = mr("explain", job, "in", "out", "--reuse").stdout
    assert "nothing is recorded" in explained
    assert "0 of 1 tasks have results" in explained
    assert not Path("out").exists()
    unknown = mr("explain", job, "in", "out", "--analyze")
    assert (unknown.exit_code, unknown.stdout) == (4, "")
    report(mr("submit", job, "in", "out", "--json"))
    assert "slowest task 0.0" in mr("explain", job, "in", "out", "--analyze").stdout
    assert "word_count" in mr("list").stdout
    row = json.loads(mr("list", "--json").stdout)
    assert (row["type"], row["name"], row["state"]) == ("job", "word_count", "done")
    for which in ((), (str(row["id"]),), (row["key"][:8],)):
        status = mr("status", *which)
        assert "word_count: done" in status.stdout
        assert "stage" in status.stdout
    assert json.loads(mr("status", "--json").stdout)["tasks_run"] == 3
    refused_line = mr("status", "999")
    assert (refused_line.exit_code, refused_line.stderr) == (4, "mr: no job 999\n")
    explained = mr("explain", job, "in", "out2", "--reuse").stdout
    assert "shuffled by word, combined by blocks" in explained
    assert "writes out2" in explained
    assert "1 of 1 tasks have results" in explained
    changed = write_job(WORD_COUNT.replace("row.n >= min_count", "row.n > min_count"))
    explained = mr("explain", changed, "in", "out2", "--reuse").stdout
    assert "changed since the last run: step 0 filter" in explained


def test_a_job_s_number_comes_before_keys_that_begin_with_it() -> None:
    journal = Journal(Path(os.environ["MR_HOME"]))
    for key in ("a" * 64, "1" * 64):
        journal.start_job(key, f"job {key[0]}", {}, 0.0)
    journal.close()
    assert "job 1 job a:" in mr("status", "1").stdout
    assert "job 2 job 1:" in mr("status", "11").stdout


def test_the_history_of_a_failed_job() -> None:
    job = job_of("return mr.read_text(input).map(lambda line: 1 / 0).write_json(output)")
    assert mr("submit", job, "in", "out").exit_code == 1
    assert "failed" in mr("list").stdout
    shown = mr("status").stdout
    assert "attempt 0.0#1 failed" in shown
    assert "ZeroDivisionError" in shown


def test_show_prints_any_format() -> None:
    Path("rows.csv").write_text("host,n\na,1\nb,2\n")
    Path("rows.jsonl").write_text('{"host": "a", "n": 1}\n{"host": "b", "n": 2}\n')
    Path("lines.txt.gz").write_bytes(gzip.compress(b"a\nb\n"))
    for path in ("rows.csv", "rows.jsonl"):
        shown = mr("show", path, "-n", "1").stdout
        assert "host" in shown
        assert "│ a " in shown
        assert "│ b " not in shown
        assert [json.loads(line) for line in mr("show", path, "--json").stdout.splitlines()][1] == {"host": "b", "n": 2}
    assert json.loads(mr("show", "lines.txt.gz", "--json", "-n", "1").stdout) == {"value": "a"}
    assert mr("show", "nothing").exit_code == 4


def test_doctor_says_what_is_in_effect() -> None:
    result = mr("doctor")
    assert result.exit_code == 0, result.output
    assert os.environ["MR_HOME"] in result.stdout
    assert "dfs init" in result.stdout
    facts = json.loads(mr("doctor", "--json").stdout)
    assert facts["problems"] == []
    assert facts["journal"] == "0 jobs, 0 recorded results"
    Path(os.environ["MR_HOME"], "journal.db").write_bytes(b"not a database, but long enough to be looked at" * 100)
    broken = mr("doctor")
    assert broken.exit_code == 1
    assert "problem: journal: " in broken.stderr


def test_a_damaged_journal_is_one_line() -> None:
    Path(os.environ["MR_HOME"]).mkdir()
    Path(os.environ["MR_HOME"], "journal.db").write_bytes(b"garbage " * 1000)
    refused(mr("submit", write_job(WORD_COUNT), "in", "out"), 1, "journal.db", "delete the file")


def test_a_home_that_cannot_be_one_is_one_line_whoever_needs_it() -> None:
    write_job(WORD_COUNT)
    Path("file").touch()
    run = mr_process("submit", "job.py", "in", "out", code=1, MR_HOME=os.path.abspath("file"))
    refused(run, 1, "MR_HOME", "cannot be used")


@pytest.mark.parametrize("name", ["json", "polars"])
def test_new_hides_no_module(name: str) -> None:
    refused(mr("new", name), 2, f"{name}.py would hide")
    assert not Path(f"{name}.py").exists()


def test_new_writes_a_job_and_a_test_that_run() -> None:
    assert mr("new", "counted").exit_code == 0
    refused(mr("new", "counted"), 1, "counted.py exists already")
    refused(mr("new", "not-a-name"), 2, "not a name")
    Path("README.md").write_text("to be or not to be\n")
    report(mr("submit", "counted.py", "--input", "README.md", "--output", "counts.csv", "--json"))
    assert Path("counts.csv").read_text() == "word,n\nbe,2\nto,2\nnot,1\nor,1\n"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_counted.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


# --- real processes --------------------------------------------------------------------------------------------------


def test_python_job_runs_through_main() -> None:
    job = write_job(WORD_COUNT)
    run = [sys.executable, job, "in", "out", "--json"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"]["out"]["rows"] == 2
    wrong = subprocess.run([sys.executable, job, "in", "--bogus"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.splitlines() == ["mr: No such option '--bogus'; see job.py --help"]


def test_submitting_pins_the_hash_seed_on_inline() -> None:
    job = job_of("return mr.from_items(['x']).map(lambda x: hash(x)).write_json(output)", "output: str")
    for seed, name in (("1", "one"), ("2", "two")):
        mr_process("submit", "--on", "inline", "--no-reuse", job, name, PYTHONHASHSEED=seed)
    assert Path("one/part-00000.jsonl").read_bytes() == Path("two/part-00000.jsonl").read_bytes()


@pytest.mark.parametrize("command", ["mr", "dfs"])
def test_help_loads_nothing_heavy(command: str) -> None:
    code = f"""
import sys
import {command}.cli
sys.argv = ["{command}", "--help"]
try:
    {command}.cli.main()
except SystemExit:
    pass
print("loaded:", *sorted({{"polars", "pyarrow", "ray", "numpy", "fsspec", "pandas"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout
    assert done.stdout.splitlines()[-1].strip() == "loaded:"
