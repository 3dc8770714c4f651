"""The benchmarks' harness and text, on a small scale."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import generate, harness
from benchmarks.harness import BenchmarkFailed, Contestant, Timing, compare, table


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "WORK", tmp_path)
    monkeypatch.setattr(harness, "LOG", tmp_path / "log.txt")


def contestant(name: str, code: str, result: object = None) -> Contestant:
    return Contestant(name, [sys.executable, "-c", code], lambda: result)


def test_text_follows_zipfs_law_and_is_the_same_for_the_same_seed() -> None:
    path = generate.zipf_text(500_000, words=1000)
    text = path.read_bytes()
    assert 500_000 <= len(text) < 500_200
    assert text.endswith(b"\n")
    counts = [n for _, n in Counter(text.split()).most_common(1000)]
    assert len(counts) == 1000
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.2)
    path.unlink()
    assert generate.zipf_text(500_000, words=1000).read_bytes() == text


def test_contestants_run_in_turn_and_are_timed(tmp_path: Path) -> None:
    order = tmp_path / "order"
    write = f"open({str(order)!r}, 'a').write({{!r}})"
    timings = compare([contestant("a", write.format("a")), contestant("b", write.format("b"))], rounds=2)
    assert order.read_text() == "ababab"
    assert [(t.name, len(t.seconds)) for t in timings] == [("a", 2), ("b", 2)]


def test_different_results_are_a_failure_of_the_benchmark() -> None:
    with pytest.raises(BenchmarkFailed, match="b and a computed different results"):
        compare([contestant("a", "", 1), contestant("b", "", 2)], rounds=1)


def test_a_contestant_that_fails_is_quoted() -> None:
    with pytest.raises(BenchmarkFailed, match=r"(?s)a ended with code 1:.*ZeroDivisionError"):
        compare([contestant("a", "1 / 0")], rounds=1)


def test_the_ratio_is_to_the_peer_which_comes_last() -> None:
    lines = table("T", [Timing("ours", (1.0, 3.0, 2.0)), Timing("peer", (4.0,))]).splitlines()
    assert lines[-2:] == ["| ours | 2.00 | 1.00 | 3.00 | 0.50 |", "| peer | 4.00 | 4.00 | 4.00 | 1.00 |"]
