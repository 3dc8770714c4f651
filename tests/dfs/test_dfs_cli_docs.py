"""The examples of docs/cli-dfs.md, run as they are written."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from dfs.cli import cli

PAGE = Path(__file__).parents[2] / "docs" / "cli-dfs.md"


def examples() -> Iterator[tuple[str, str]]:
    """(command, what it prints) of every example on the page."""
    for block in re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = example.partition("\n")
            yield command, shown


def printed(command: str) -> str:
    """What a command writes to a terminal; `dfs` runs in this process, the rest in a shell."""
    before, pipe, last = command.rpartition(" | ")
    if not last.startswith("dfs "):
        return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout
    given = subprocess.run(before, shell=True, check=True, capture_output=True).stdout if pipe else None
    result = CliRunner().invoke(cli, shlex.split(last)[1:], input=given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_examples_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DFS_STORE", "store")
    found = list(examples())
    assert len(found) > 20
    for command, shown in found:
        got = printed(command)
        same = doctest.OutputChecker().check_output(shown, got, doctest.ELLIPSIS)
        assert same, f"{command}\nshould print\n{shown}\nbut printed\n{got}"
