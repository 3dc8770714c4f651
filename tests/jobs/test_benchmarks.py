"""The benchmarks' harness and text, on a small scale."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks import contestants, generate, harness
from benchmarks.contestants import PEERS, lacking, peers_of
from benchmarks.harness import BenchmarkFailed, Contestant, Timing, compare, table, write_section


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "WORK", tmp_path)
    monkeypatch.setattr(harness, "LOG", tmp_path / "log.txt")
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "RESULTS.md")


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


def test_a_contestant_that_writes_less_is_compared_in_what_it_writes() -> None:
    compare([contestant("a", "", {"urls": [1], "hosts": [2]}), contestant("b", "", {"hosts": [2]})], rounds=0)
    for other in ({"hosts": [3]}, {}, {"agents": [2]}):
        with pytest.raises(BenchmarkFailed, match="different results"):
            compare([contestant("a", "", {"urls": [1], "hosts": [2]}), contestant("b", "", other)], rounds=0)


def test_a_slow_contestant_runs_less_often() -> None:
    slow = Contestant("slow", [sys.executable, "-c", ""], lambda: None, rounds_max=1)
    assert [len(t.seconds) for t in compare([contestant("a", ""), slow], rounds=3)] == [3, 1]


def test_the_ratio_is_to_the_peer_which_comes_last() -> None:
    lines = table("T", [Timing("ours", (1.0, 3.0, 2.0)), Timing("peer", (4.0,))]).splitlines()
    assert lines[-2:] == ["| ours | 2.00 | 1.00 | 3.00 | 3 | 0.50 |", "| peer | 4.00 | 4.00 | 4.00 | 1 | 1.00 |"]


def test_each_of_ours_has_a_column_of_ratios() -> None:
    timings = [Timing("auto", (2.0,), ours=True), Timing("merge", (4.0,), ours=True), Timing("peer", (8.0,))]
    head, _, *rows = table("T", timings).splitlines()[2:]
    assert head == "| | median s | fastest | slowest | rounds | auto / this | merge / this |"
    assert [row.split(" | ")[-2:] for row in rows] == [["1.00", "2.00 |"], ["0.50", "1.00 |"], ["0.25", "0.50 |"]]


def test_a_section_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n\nWords.\n\n### A\n\nold\n\nfigures\n\n### A (more)\n\nkept\n")
    write_section("B", "one")
    write_section("A", r"new \1")
    write_section("B", "two\n")
    expected = "# Results\n\nWords.\n\n### A\n\nnew \\1\n\n### A (more)\n\nkept\n\n### B\n\ntwo\n"
    assert results.read_text().rstrip() == expected.rstrip()


GENERATED = {
    "records": lambda: generate.records(1_000),
    "access_log": lambda: generate.access_log(60_000),
    "dimension": lambda: generate.dimension(1_010),
    "facts": lambda: generate.facts(20_000, 1_000),
    "distinct_keys": lambda: generate.distinct_keys(3_000),
    "hot_key": lambda: generate.hot_key(10_000),
}


@pytest.mark.parametrize("name", GENERATED)
def test_inputs_are_the_same_for_the_same_seed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "BLOCK_ROWS", 700)
    monkeypatch.setattr(generate, "LOG_BLOCK_LINES", 200)
    path = GENERATED[name]()
    before = path.read_bytes()
    path.unlink()
    assert GENERATED[name]().read_bytes() == before


def test_records_are_random_lines_of_100_bytes() -> None:
    text = generate.records(1_000).read_bytes()
    assert len(text) == 100_000
    assert len({line for line in text.split(b"\n") if len(line) == 99}) == 1_000
    assert set(text) == {10, *range(33, 127)}


def test_logs_are_cut_at_a_line_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "LOG_BLOCK_LINES", 200)
    text = generate.access_log(60_000).read_bytes()
    assert 60_000 <= len(text) < 60_400
    assert text.endswith(b"\n")
    days = {line.split(b"[")[1][:2] for line in text.splitlines() if b"[" in line}
    assert len(days) == 2


def test_facts_follow_zipfs_law_and_a_few_have_no_dimension() -> None:
    facts = pq.read_table(generate.facts(50_000, 1_000, exponent=1.0))["customer"].to_pylist()
    known = pq.read_table(generate.dimension(1_000))["customer"].to_pylist()
    counts = [n for _, n in Counter(facts).most_common(10)]
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.2)
    assert len(set(known)) == 1_000
    assert 0 < len(set(facts) - set(known)) <= 10
    assert all(re.fullmatch(r"customer-\d{8}", key) for key in known)


def test_keys_are_distinct_or_one_of_them_is_hot() -> None:
    assert len(set(pq.read_table(generate.distinct_keys(3_000))["customer"].to_pylist())) == 3_000
    (_, hot), (_, next_hot) = Counter(pq.read_table(generate.hot_key(10_000))["customer"].to_pylist()).most_common(2)
    assert hot / 10_000 == pytest.approx(0.99, abs=0.005)
    assert next_hot < 20


def test_a_peer_that_is_not_there_is_skipped_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contestants, "_installed", dict)
    monkeypatch.setitem(PEERS, "sort", contestants.Peer("GNU sort", commands=("no-such-command",)))
    found, note = peers_of("sort", None, [tmp_path / "in"], lambda path: None)
    assert found == []
    assert "GNU sort not run (there is no command no-such-command" in note
    assert "skipped DuckDB: duckdb is not installed (`make bench-peers`)" in capsys.readouterr().err


def test_every_script_of_a_peer_is_reached() -> None:
    workloads = ("word_count", "sort", "log_analytics", "join")
    names = {f"{workload}_{peer}" for workload in workloads for peer in PEERS}
    scripts = {path.stem for path in (contestants.HERE / "peers").iterdir() if path.suffix in (".py", ".sh")}
    assert scripts <= names
    assert {peer for peer in PEERS if any(f"{workload}_{peer}" in scripts for workload in workloads)} == set(PEERS)
    assert lacking(contestants.Peer("Python", commands=("python3",))) == ""
