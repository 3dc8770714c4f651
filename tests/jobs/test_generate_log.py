"""The generated access log: the same for the same seed, and like a real one."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

GENERATOR = Path(__file__).parents[2] / "examples" / "generate_log.py"
COMBINED = re.compile(r'(\S+) - - \[([^\]]+) \+0000\] "(\S+) (\S+) HTTP/1.1" (\d{3}) (\d+|-) "([^"]*)" "([^"]*)"')


def generate(log: Path, *options: str) -> list[str]:
    subprocess.run([sys.executable, str(GENERATOR), str(log), *options], check=True)
    return log.read_text().splitlines()


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return generate(tmp_path_factory.mktemp("log") / "a.log", "--lines", "60001", "--days", "7")


def test_it_has_the_lines_asked_for_and_a_few_are_broken(week: list[str]) -> None:
    assert len(week) == 60_001
    assert sum(COMBINED.fullmatch(line) is None for line in week) == 7


def test_it_is_skewed_and_ordered_like_a_real_one(week: list[str]) -> None:
    hits = [match.groups() for line in week if (match := COMBINED.fullmatch(line))]
    urls, hours = Counter(hit[3] for hit in hits), Counter(hit[1].split(":")[1] for hit in hits)
    assert urls["/"] > 20 * sorted(urls.values())[len(urls) // 2]
    assert hours["16"] > 3 * hours["04"]
    assert [hit[1] for hit in hits] == sorted(hit[1] for hit in hits)  # one month: the text sorts as the time
    assert {hit[4] for hit in hits} == {"200", "301", "304", "404", "206", "403", "500", "503"}


def test_the_same_seed_gives_the_same_log_and_an_appended_day_is_the_next_one(tmp_path: Path) -> None:
    long = generate(tmp_path / "long.log", "--lines", "300", "--days", "3", "--seed", "5")
    short = generate(tmp_path / "short.log", "--lines", "200", "--days", "2", "--seed", "5")
    assert short == long[:200]
    assert generate(tmp_path / "short.log", "--lines", "200", "--days", "2", "--seed", "5", "--append-day") == long
    assert generate(tmp_path / "other.log", "--lines", "300", "--days", "3", "--seed", "6") != long
