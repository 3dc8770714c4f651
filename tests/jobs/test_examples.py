"""Each example runs as a command and does what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
LOG = """\
1.1.1.1 - - [05/Jan/2026:10:00:00 +0000] "GET /a HTTP/1.1" 200 1 "-" "-"
2.2.2.2 - - [05/Jan/2026:10:05:00 +0000] "GET /a HTTP/1.1" 200 1 "-" "-"
1.1.1.1 - - [05/Jan/2026:10:20:00 +0000] "GET /b HTTP/1.1" 200 1 "-" "-"
1.1.1.1 - - [05/Jan/2026:11:00:00 +0000] "GET /c HTTP/1.1" 200 1 "-" "-"
not a line
"""


def run(example: str, *options: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / example), "--on", "inline", *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def log(tmp_path: Path) -> str:
    (tmp_path / "access.log").write_text(LOG)
    return str(tmp_path / "access.log")


def test_word_count(tmp_path: Path, rows: Any) -> None:
    (tmp_path / "a.txt").write_text("To be or not to be\n")
    run("word_count.py", "--input", str(tmp_path / "a.txt"), "--output", str(tmp_path / "out"), "--min-count", "2")
    assert [tuple(row.values()) for row in rows(tmp_path / "out")] == [("be", 2), ("to", 2)]


def test_sessions(log: str, tmp_path: Path, rows: Any) -> None:
    (tmp_path / "countries.csv").write_text("host,country\n1.1.1.1,AU\n")
    run(
        "sessions.py", "--input", log, "--countries", str(tmp_path / "countries.csv"), "--output", str(tmp_path / "out")
    )
    assert [(r["host"], r["seconds"], r["requests"], r["entry"], r["country"]) for r in rows(tmp_path / "out")] == [
        ("1.1.1.1", 1200.0, 2, "/a", "AU"),
        ("2.2.2.2", 0.0, 1, "/a", None),
        ("1.1.1.1", 0.0, 1, "/c", "AU"),
    ]


def test_top_urls(log: str, tmp_path: Path) -> None:
    run("top_urls.py", "--input", log, "--output", str(tmp_path / "out"), "--top", "1")
    lines = (tmp_path / "out" / "top.csv").read_text().splitlines()
    assert lines[0] == "hour,url,n,visitors"
    assert [line.split(",")[1:] for line in lines[1:]] == [["/a", "2", "2"], ["/c", "1", "1"]]


def test_several_outputs(tmp_path: Path, rows: Any) -> None:
    (tmp_path / "in.txt").write_text("ann,1.50\nbob,2\nwhat\nann,0.25\n")
    run("several_outputs.py", "--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out"))
    assert sorted(tuple(row.values()) for row in rows(tmp_path / "out" / "names")) == [("ann", 2, 175), ("bob", 1, 200)]
    assert '"n":3' in (tmp_path / "out" / "total.jsonl").read_text().replace(" ", "")
    (part,) = (tmp_path / "out" / "bad").glob("part-*")
    assert "what" in part.read_text()
