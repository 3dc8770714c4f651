"""The promise: a job's part files are the same bytes on every executor, with any number of workers or threads, within
any memory budget, whatever the parent's hash seed and the order in which the input's files were made.

Every run has an MR_HOME of its own and reuses nothing. The quick tests run each job three times on a share of the
data; the slow ones run the whole matrix of the issue on all of it.
"""

from __future__ import annotations

import io
import json
import operator
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest
from blake3 import blake3
from pieces import shared

import mr
import mr.shuffle.merge

Files = dict[str, bytes]
BOOKS = ["being_ernest", "dorian_gray", "frankenstein", "grimm"]
BOOKS += ["huckleberry_finn", "metamorphosis", "sherlock_holmes", "tom_sawyer"]
SMALL_MEMORY = "8KB"  # less than any shuffle here: reduce tasks merge runs block by block
WORKERS_MEMORY = "1420MB"  # about the least for four


@mr.job
def flights_planes(
    flights: str, planes: str, output: str, *, strategy: Literal["broadcast", "sort_merge"] = "broadcast"
) -> Any:
    """Flights with what is known of their planes."""
    left = mr.read_csv(flights, null_values=["NA", ""], schema={"dep_time": int, "arr_delay": float})
    right = mr.read_csv(planes, null_values=["NA", ""], schema={"speed": float})
    return left.join(right, on="tailnum", how="left", strategy=strategy).write_parquet(output)


def routes(flight: Any) -> Iterator[tuple[tuple[str, str], int]]:
    """(carrier, destination) and the minutes in the air, where they are known."""
    if flight.air_time is not None:
        yield (flight.carrier, flight.dest), flight.air_time


def seen(tail: str | None, flights: Iterator[Any], planes: Iterator[Any]) -> tuple[str | None, int, str | None]:
    """How often a plane flew, and who made it."""
    plane = next(planes, None)
    return tail, sum(1 for _ in flights), None if plane is None else plane.manufacturer


def waits(key: Any, flights: Iterator[Any]) -> Iterator[tuple[str, int, float, int | None]]:
    """The time on the ground between flights of a plane that follow each other on one day."""
    before: int | None = None
    for number, flight in enumerate(flights):
        since = None if before is None or flight.dep_time is None else flight.dep_time - before
        yield key.tailnum, key.day, number / 3, since
        before = flight.arr_time


def late(delays: list[float | None]) -> list[float]:
    return [delay for delay in delays if delay is not None and delay > 60]


def share_late(delays: list[float]) -> float:
    return sum(delays) / 3 + len(delays)


@mr.job
def operators(flights: str, planes: str, output: str) -> Any:
    """An output of each kind of operator that has an order, a partition, a sketch or a random choice of its own."""
    left = mr.read_csv(flights, null_values=["NA", ""], schema={"dep_time": int, "arr_time": int, "arr_delay": float})
    right = mr.read_csv(planes, null_values=["NA", ""], schema={"speed": float})
    left = left.with_columns(air_time=pl.col("air_time").cast(pl.Int64, strict=False))
    aggregates: dict[str, Any] = {
        "n": mr.count("arr_delay"),
        "mean": mr.mean("arr_delay"),
        "sd": mr.std(pl.col("arr_delay") / 7),
        "median": mr.quantile("arr_delay", [0.5, 0.99]),
        "near": mr.approx_quantile("arr_delay", [0.01, 0.5, 0.99]),
        "planes": mr.approx_distinct("tailnum"),
        "exactly": mr.count_distinct("tailnum"),
        "worst": mr.top_k("arr_delay", 5),
        "hours": mr.histogram("hour", [0, 6, 12, 18, 24]),
        "first": mr.first("tailnum"),
        "last": mr.last("tailnum"),
        "days": mr.collect("day"),
        "own": mr.Aggregate(late, operator.add, share_late, column="arr_delay"),
    }
    by_day = left.group_by("tailnum", "day", num_partitions=5)
    return {
        "sketches": left.group_by("carrier", "origin").agg(**aggregates).write_parquet(f"{output}/sketches"),
        "total": left.agg(**{k: v for k, v in aggregates.items() if k != "days"}).write_json(f"{output}/total"),
        "seen": left.cogroup(right, on="tailnum").map_groups(seen).write_parquet(f"{output}/seen"),
        "waits": by_day.map_groups(waits, sort_by=["month", "dep_time"]).write_arrow(f"{output}/waits"),
        "shares": left.select("dest", "distance")
        .group_by("dest")
        .map_batches(lambda df: df.select("dest", share=pl.col("distance") / pl.col("distance").sum().over("dest")))
        .write_parquet(f"{output}/shares"),
        "best": left.group_by("origin", "dest").top_k(2, by=["arr_delay", "flight"]).write_csv(f"{output}/best"),
        "by": left.repartition(7, by="dest").write_parquet(f"{output}/by", target_file_size="1MB"),
        "dealt": left.select("flight", "dest").repartition(5).write_csv(f"{output}/dealt", compression="gzip"),
        "folders": left.write_parquet(f"{output}/folders", partition_by=["origin", "carrier"], compression="snappy"),
        "drawn": left.sample(n=1000, seed=3).write_json(f"{output}/drawn", compression="zstd"),
        "share": left.sample(0.01, seed=4).write_parquet(f"{output}/share"),
        "routes": left.map_reduce(
            routes,
            lambda key, times: (*key, max(times)),
            combiner=lambda _, times: max(times),
            partitioner=lambda key, n: ord(key[0][0]) % n,
            num_partitions=6,
            names={"carrier": str, "dest": str, "longest": int},
        ).write_parquet(f"{output}/routes"),
        "sorted": left.select("tailnum", "arr_delay", text=lambda row: f"{row.carrier} {row.flight}")
        .sort("arr_delay", "tailnum", descending=[True, False])
        .write_parquet(f"{output}/sorted"),
        "pairs": left.distinct("origin", "dest")
        .union(left.limit(9))
        .select("origin", "dest")
        .write_csv(f"{output}/pairs"),
    }


def books(full: bool) -> Files:
    texts = [shared(f"text/pg-{name}.txt.zst") for name in BOOKS]
    if not full:  # longer than what is packed with neighbours: two splits
        return {f"{i}.txt": b"".join(texts[i:] + texts[: i + 4]) for i in range(2)}
    return {f"{i}.txt": b"".join(texts[i:] + texts[:i]) * 2 for i in range(3)}


def logs(full: bool) -> Files:
    apache = shared("weblog/apache_logs.log.zst")
    tomcat = {f"tomcat.{i}": shared(f"weblog/tomcat-access.log.{i}.zst") for i in range(1, 10)}
    if not full:
        return {"apache": b"".join(apache.splitlines(keepends=True)[7900:9900]), "tomcat.3": tomcat["tomcat.3"]}
    return {"apache.1": apache * 2, "apache.2": apache * 3, **tomcat}


def pages(full: bool) -> Files:
    found: Files = {}
    for site in ("sqlite3", "apache2") if full else ("apache2",):
        with tarfile.open(fileobj=io.BytesIO(shared(f"crawl/{site}.html.tar.zst"))) as tar:
            for member in sorted(tar.getmembers(), key=lambda m: m.name):
                chosen = full or re.search("/manual/(en|ko)/mod/mod_a", member.name)  # the Korean pages are not UTF-8
                if member.isreg() and chosen:
                    file = tar.extractfile(member)
                    assert file is not None
                    found[member.name] = file.read()
    return found


def edges(full: bool) -> Files:
    lines = [line.split(b",") for line in shared("flights/flights.csv.zst").splitlines()[1:20_001]]
    return {f"{i}.txt": b"".join(b"%s %s\n" % (f[9 + i], f[11]) for f in lines[i::2]) for i in range(2)}


def flights(full: bool) -> Files:
    lines = shared("flights/flights.csv.zst").splitlines(keepends=True)
    if full:
        return {f"{i}.csv": b"".join([lines[0], *lines[1 + i :: 2]]) for i in range(2)}
    return {f"{i}.csv": b"".join([lines[0], *lines[1 + i : 100_001 : 2]]) for i in range(2)}


@dataclass(frozen=True)
class Case:
    """A job, the files of its input folder, its other parameters, and how many outputs it has."""

    name: str
    files: Callable[[bool], Files]
    words: tuple[str, ...]
    outputs: int
    memory: str = SMALL_MEMORY

    @property
    def target(self) -> str:
        if self.name == "operators":
            return f"{__file__}:operators"
        return f"{__file__}:flights_planes" if self.name.startswith("flights") else f"jobs.{self.name}"

    def run_in(self, folder: Path) -> mr.JobResult:
        """Run in the current session, with `folder` as the working directory."""
        from jobs.link_graph import link_graph
        from jobs.log_analytics import log_analytics
        from jobs.near_duplicates import near_duplicates
        from jobs.pagerank import pagerank
        from jobs.web_index import web_index
        from jobs.word_count import word_count

        os.chdir(folder)
        match self.name:
            case "word_count":
                return word_count(["in"], "out", pattern="letters")
            case "log_analytics":
                return log_analytics(["in"], "out")
            case "web_index":
                return web_index(["in"], "out")
            case "link_graph":
                return link_graph(["in"], "out")
            case "pagerank":
                return pagerank(["in"], "out", format="text", max_iter=3)
            case "near_duplicates":
                return near_duplicates(["in"], "out", pages=True, threshold=0.5)
            case "operators":
                return operators("in", "planes.csv", "out")
        return flights_planes("in", "planes.csv", "out", strategy=self.words[-1])  # type: ignore[arg-type]


CASES = [
    Case("word_count", books, ("in", "out", "--pattern", "letters"), 1),
    Case("log_analytics", logs, ("in", "out"), 7),
    Case("web_index", pages, ("in", "out"), 3),
    Case("link_graph", pages, ("in", "out"), 3),
    Case("flights by broadcast", flights, ("in", "planes.csv", "out", "--strategy", "broadcast"), 1),
    Case("flights by sort_merge", flights, ("in", "planes.csv", "out", "--strategy", "sort_merge"), 1),
]
MORE_CASES = [
    Case("operators", flights, ("in", "planes.csv", "out"), 14, memory="8MB"),  # map_batches holds whole groups
    Case("pagerank", edges, ("in", "out", "--format", "text", "--max-iter", "3"), 1),
    Case("near_duplicates", pages, ("in", "out", "--pages", "--threshold", "0.5"), 2),
]
"""Those that are too much for the quick tests."""
ALL_CASES = [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE_CASES)]
each_case = pytest.mark.parametrize("case", ALL_CASES, ids=[case.name for case in (*CASES, *MORE_CASES)])


def lay_out(case: Case, folder: Path, full: bool, reverse: bool = False) -> Path:
    """A working directory with the input of `case`, its files made in path order or the other way round."""
    for name, data in sorted(case.files(full).items(), reverse=reverse):
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    if "planes.csv" in case.words:
        (folder / "planes.csv").write_bytes(shared("flights/planes.csv.zst"))
    return folder


@dataclass(frozen=True)
class Made:
    """What a run left: the digest of each output as it was reported, and of each file by its path."""

    outputs: dict[str, str]
    files: dict[str, str]

    @classmethod
    def of(cls, folder: Path, outputs: dict[str, str]) -> Made:
        out = folder / "out"
        files = {str(p.relative_to(out)): blake3(p.read_bytes()).hexdigest() for p in out.rglob("*") if p.is_file()}
        assert any("part-" in name for name in files)
        for path in sorted(out.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        out.rmdir()
        return cls(outputs, files)


def in_process(case: Case, folder: Path, home: Path, **session: Any) -> Made:
    """Run in this process: on inline, or with workers that this process starts."""
    with mr.Session(home=home, reuse=False, **session):
        made = case.run_in(folder)
    assert made.tasks_reused == 0
    return Made.of(folder, {name: output.digest for name, output in made.outputs.items()})


def by_command(case: Case, folder: Path, home: Path, *options: str, **environment: str) -> Made:
    """Run with the `mr` command, in a process with this environment."""
    command = [str(Path(sys.executable).with_name("mr")), "submit", "--json", "--no-reuse", *options, case.target]
    done = subprocess.run(
        [*command, *case.words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MR_HOME": str(home), **environment},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["tasks_reused"] == 0
    return Made.of(folder, {name: output["digest"] for name, output in report["outputs"].items()})


@pytest.fixture(autouse=True)
def _stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # and back again, wherever a run has gone


@pytest.fixture
def merges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the bounded merges of this process, by how many streams they merge."""
    seen: list[int] = []
    whole = mr.shuffle.merge.merge_sorted

    def counted(streams: Any, *rest: Any) -> Iterator[Any]:
        seen.append(len(streams))
        yield from whole(streams, *rest)

    monkeypatch.setattr(mr.shuffle.merge, "merge_sorted", counted)
    return seen


# --- quick -----------------------------------------------------------------------------------------------------------


@each_case
def test_the_same_bytes_in_threads_and_processes(case: Case, tmp_path: Path, merges: list[int]) -> None:  # F49
    forth = lay_out(case, tmp_path / "forth", full=False)
    back = lay_out(case, tmp_path / "back", full=False, reverse=True)
    one = in_process(case, forth, tmp_path / "home-1", on="inline")
    assert len(one.outputs) == case.outputs
    assert not merges, "with half of the machine's memory nothing is merged"
    tight = in_process(case, forth, tmp_path / "home-2", on="inline", memory=case.memory)
    assert merges or "broadcast" in case.name, "a small budget must force merges"
    assert tight == one
    local = by_command(case, back, tmp_path / "home-3", "--workers", "2", PYTHONHASHSEED="4711")
    assert local == one


def test_equal_digests_mean_equal_bytes_and_other_input_gives_others(tmp_path: Path) -> None:
    case = CASES[0]
    folder = lay_out(case, tmp_path / "one", full=False)
    one = in_process(case, folder, tmp_path / "home-1", on="inline")
    with open(folder / "in" / "1.txt", "ab") as file:
        file.write(b"\nonceuponatime\n")
    other = in_process(case, folder, tmp_path / "home-2", on="inline")
    assert other.outputs != one.outputs
    assert other.files != one.files


def test_relative_paths_mean_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session outlives a change of the working directory, and workers must not read the old folder's files."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "in.txt").write_text(f"{name}\n")
    with mr.Session(on="local", workers=1, home=tmp_path / "home"):
        for name in ("a", "b"):
            monkeypatch.chdir(tmp_path / name)
            assert mr.read_text("in.txt").map(str.upper).take_all() == [name.upper()]


def test_both_join_strategies_give_the_same_rows(tmp_path: Path) -> None:
    tables = []
    for case in CASES[-2:]:
        folder = lay_out(case, tmp_path / case.words[-1], full=False)
        with mr.Session(on="inline", home=tmp_path / "home"):
            case.run_in(folder)
            tables.append(sorted(map(repr, mr.read_parquet("out").take_all())))
    assert len(tables[0]) == 100_000
    assert tables[0] == tables[1]


# --- the whole matrix ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
@each_case
def test_the_whole_matrix(case: Case, tmp_path: Path) -> None:
    forth = lay_out(case, tmp_path / "forth", full=case in CASES)
    back = lay_out(case, tmp_path / "back", full=case in CASES, reverse=True)
    one = by_command(case, forth, tmp_path / "home-0", "--on", "inline", POLARS_MAX_THREADS="1")
    assert len(one.outputs) == case.outputs
    runs = {
        "inline, 2 Polars threads": (forth, ("--on", "inline"), {"POLARS_MAX_THREADS": "2"}),
        "inline, 8 Polars threads": (forth, ("--on", "inline"), {"POLARS_MAX_THREADS": "8"}),
        "inline, little memory": (forth, ("--on", "inline", "--memory", case.memory), {}),
        "local, 1 worker": (forth, ("--workers", "1"), {}),
        "local, 2 workers, hash seed 1": (forth, ("--workers", "2"), {"PYTHONHASHSEED": "1"}),
        "local, 4 workers, hash seed 4711": (forth, ("--workers", "4"), {"PYTHONHASHSEED": "4711"}),
        "local, 4 workers, little memory": (forth, ("--workers", "4", "--memory", WORKERS_MEMORY), {}),
        "local, files made the other way round": (back, ("--workers", "2"), {}),
        "inline, files made the other way round": (back, ("--on", "inline"), {"PYTHONHASHSEED": "1"}),
    }
    for i, (name, (folder, options, environment)) in enumerate(runs.items(), 1):
        assert by_command(case, folder, tmp_path / f"home-{i}", *options, **environment) == one, name


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_flight_is_there_and_so_many_have_no_plane(tmp_path: Path) -> None:
    for case in CASES[-2:]:
        folder = lay_out(case, tmp_path / case.words[-1], full=True)
        with mr.Session(on="inline", home=tmp_path / "home"):
            case.run_in(folder)
            joined = mr.read_parquet("out").agg(rows=mr.count(), planes=mr.count("manufacturer")).first()
        assert (joined.rows, joined.rows - joined.planes) == (336_776, 52_606)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(300)
def test_the_same_bytes_on_ray(tmp_path: Path) -> None:
    cases = [*CASES, *MORE_CASES]
    folders = [lay_out(case, tmp_path / case.name, full=case in CASES) for case in cases]
    want = [in_process(c, f, tmp_path / "home", on="inline") for c, f in zip(cases, folders, strict=True)]
    with mr.Session(on="ray", workers=2, home=tmp_path / "home-ray", reuse=False):
        for case, folder, expected in zip(cases, folders, want, strict=True):
            assert case.run_in(folder).tasks_run > 0
            assert Made.of(folder, expected.outputs) == expected
