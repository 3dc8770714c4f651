"""`word_count` and `grep`."""

from __future__ import annotations

import bz2
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.grep import grep
from jobs.word_count import word_count


def test_the_known_counts_of_eight_books(data: Path, tmp_path: Path, rows: Any) -> None:
    books = str(data / "text" / "pg-*.txt.zst")
    word_count(input=[books], output=str(tmp_path / "out"), pattern="letters")
    counted = [(row["word"], row["n"]) for row in rows(tmp_path / "out")]
    assert len(counted) == 22_107
    assert counted[:3] == [("the", 29_748), ("and", 23_612), ("to", 16_079)]
    text = "".join(
        pa.input_stream(str(book), compression="zstd").read().decode() for book in (data / "text").glob("*.zst")
    )
    expected = Counter(re.findall(r"[^\W\d_]+", text))
    assert counted == sorted(expected.items(), key=lambda item: (-item[1], item[0]))


def test_words_between_blanks_and_a_minimum(tmp_path: Path, rows: Any) -> None:
    (tmp_path / "a.txt").write_text("to be or not\nto-be\u00a0to be\n")
    word_count(input=[str(tmp_path / "a.txt")], output=str(tmp_path / "out"), min_count=2)
    assert [tuple(row.values()) for row in rows(tmp_path / "out")] == [("be", 2), ("to", 2)]


def test_grep_tells_file_and_offset(tmp_path: Path, rows: Any) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.txt").write_text("grün\nERROR one\nfine\n")
    (tmp_path / "in" / "a.txt.bz2").write_bytes(bz2.compress(b"fatal\nFATAL two\nerror three"))
    found = {}
    for name, options in {"plain": {}, "any": {"ignore_case": True}, "rest": {"invert": True}}.items():
        grep(pattern="ERROR|FATAL", input=[str(tmp_path / "in")], output=str(tmp_path / name), **options)
        found[name] = [(Path(row["path"]).name, row["offset"], row["text"]) for row in rows(tmp_path / name)]
    assert found["plain"] == [("a.txt.bz2", 6, "FATAL two"), ("b.txt", 6, "ERROR one")]
    assert [text for _, _, text in found["any"]] == ["fatal", "FATAL two", "error three", "ERROR one"]
    assert [text for _, _, text in found["rest"]] == ["fatal", "error three", "grün", "fine"]
