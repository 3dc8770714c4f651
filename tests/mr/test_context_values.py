"""What functions in tasks may ask for: side files, broadcast values, resources, counters, a generator."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dfs
import dfs.store
import mr
from mr.errors import InputNotFound
from mr.executors.inline import InlineExecutor
from mr.options import SHARED_KEPT
from mr.scratch import prune
from mr.testing import FaultyExecutor


@pytest.fixture(autouse=True)
def _session(inline: mr.Session) -> mr.Session:
    return inline


@pytest.fixture
def write(tmp_path: Path) -> Callable[[mr.Dataset], mr.JobResult]:
    """Writes a dataset to a new place each time."""
    return lambda data: data.write_json(str(tmp_path / f"out-{len(list(tmp_path.iterdir()))}"))


Write = Callable[[mr.Dataset], mr.JobResult]


def test_a_side_file_is_known_by_its_content(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "stop.txt"

    def kept() -> mr.Dataset:
        stop = mr.side_file(path)
        return mr.from_items(["the", "mill", "a"]).filter(lambda word: word not in Path(stop).read_text().split())

    path.write_text("the")
    assert write(kept()).tasks_run == 1
    assert kept().take_all() == ["mill", "a"]
    os.rename(path, tmp_path / "moved.txt")
    (tmp_path / "moved.txt").rename(path)
    os.utime(path, (1, 1))
    assert write(kept()).tasks_run == 0
    before = kept()
    path.write_text("a the")
    assert before.take_all() == ["mill", "a"]  # the copy is what the plan was made with
    assert kept().take_all() == ["mill"]
    assert write(kept()).tasks_run == 1


def test_a_side_file_of_the_store_is_read_from_a_local_copy() -> None:
    with dfs.init_store(dfs.store.default_path()) as store:
        store.publish([dfs.PutFile("words.txt", store.write_file(b"mill\n"))], request_id="words")
    copy = mr.side_file("dfs://words.txt")
    assert Path(copy).read_bytes() == b"mill\n"
    assert mr.from_items(["mill", "race"]).filter(lambda w: w in Path(copy).read_text()).take_all() == ["mill"]


def test_what_is_no_side_file(tmp_path: Path) -> None:
    with pytest.raises(InputNotFound, match="none"):
        mr.side_file(tmp_path / "none")
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    with pytest.raises(mr.PlanError, match="2 files match"):
        mr.side_file(str(tmp_path / "*.txt"))


def test_a_side_file_that_was_pruned_is_told(tmp_path: Path, inline: mr.Session) -> None:
    (tmp_path / "a").write_text("x")
    copy = mr.side_file(tmp_path / "a")
    assert prune(inline.home, 0)[0] >= 1
    with pytest.raises(mr.JobFailed, match="the copy of a side file is gone; submit the job again"):
        mr.from_items([1]).map(lambda n: len(copy)).take_all()
    assert mr.from_items([1]).map(lambda n: n).take_all() == [1]
    mr.side_file(tmp_path / "a")
    assert mr.from_items([1]).map(lambda n: Path(copy).read_text()).take_all() == ["x"]


def test_where_the_copies_lie_reaches_no_byte(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")

    def drawn(home: Path) -> list[Any]:
        with mr.Session(on="inline", home=home):
            copy, value = mr.side_file(tmp_path / "a"), mr.broadcast([1])
            data = mr.range(3).map(lambda n: (mr.rng().random(), Path(copy).read_text(), value.value))
            return data.take_all()

    assert drawn(tmp_path / "one") == drawn(tmp_path / "two")


class Loads:
    """Counts how often it is unpickled."""

    count = 0

    def __reduce__(self) -> tuple[object, ...]:
        return _loaded, ()


def _loaded() -> dict[int, str]:
    Loads.count += 1
    return {1: "one"}


def test_a_broadcast_value_is_read_once_by_a_worker() -> None:
    Loads.count = 0
    names: Any = mr.broadcast(Loads())
    data = mr.range(3).map(lambda n: names.value.get(n, "?")).repartition(2).map(lambda s: s + names.value[1])
    assert sorted(data.take_all()) == ["?one", "?one", "oneone"]
    assert Loads.count == 1
    assert len(pickle.dumps(mr.broadcast(["x" * 100_000]))) < 1000


def test_a_broadcast_value_is_known_by_its_content(write: Write) -> None:
    def scaled(by: dict[str, Any]) -> mr.Dataset:
        handle = mr.broadcast(by)
        return mr.from_items([1, 2]).map(lambda n: n * handle.value["by"])

    assert (write(scaled({"by": 2})).tasks_run, write(scaled({"by": 2})).tasks_run) == (1, 0)
    assert write(scaled({"by": 3})).tasks_run == 1
    assert scaled({"by": 3}).take_all() == [3, 6]


def test_a_value_that_cannot_travel_is_told(tmp_path: Path) -> None:
    with open(tmp_path / "x", "w") as file, pytest.raises(mr.PlanError, match=r"broadcast\(\): .*cannot be pickled"):
        mr.broadcast(file)
    with pytest.raises(mr.PlanError, match="is not a function"):
        mr.resource(3)  # type: ignore[arg-type]


def test_a_resource_is_built_once_by_a_worker_and_counts_for_no_task(tmp_path: Path, write: Write) -> None:
    log = str(tmp_path / "built")  # a list would travel with the functions, each with a copy

    def dictionary(language: str) -> Callable[[], dict[str, str]]:
        def load() -> dict[str, str]:
            with open(log, "a") as file:
                file.write(language + " ")
            mr.counter("loaded").add()
            return {"mill": f"{language} mill {mr.rng().random() >= 0}"}

        return load

    def translated(language: str) -> mr.Dataset:
        words = mr.resource(dictionary(language))
        return mr.from_items(["mill"]).map(lambda w: words()[w]).repartition(2).map(lambda w: w + words()["mill"][:2])

    assert translated("de").take_all() == ["de mill Truede"]
    assert Path(log).read_text() == "de "
    first, other = write(translated("de")), write(translated("fr"))
    assert Path(log).read_text() == "de fr "  # the same code is the same resource, also in another job
    assert first.counters == {}
    assert other.tasks_run > 0


def test_a_worker_keeps_a_few_of_them() -> None:
    built: list[int] = []
    handles = [mr.resource(partial(built.append, i)) for i in range(SHARED_KEPT + 1)]
    for i in (*range(SHARED_KEPT + 1), *range(1, SHARED_KEPT + 1), 0):
        handles[i]()
    assert built == [*range(SHARED_KEPT + 1), 0]


def test_losing_attempts_do_not_count(tmp_path: Path) -> None:
    """Attempts are lost after they ran: their counts and random numbers must leave no trace."""

    def drawn(n: int) -> float:
        mr.counter("drawn").add()
        return mr.rng().random()

    def results(executor: Any, home: Path) -> tuple[list[Any], Any, mr.JobResult]:
        with mr.Session(on="inline", home=home, executor=executor) as session:
            data = mr.range(5).repartition(4).map(drawn)
            values = data.take_all()
            session.reuse = True
            return values, data.write_json(str(home / "a")), data.write_json(str(home / "b"))

    faulty = FaultyExecutor(InlineExecutor(tmp_path / "one", 1 << 30), seed=3, lose=0.5)
    lossy, first, again = results(faulty, tmp_path / "one")
    plain, _, _ = results(InlineExecutor(tmp_path / "two", 1 << 30), tmp_path / "two")
    assert lossy == plain
    assert any("lost" in trouble for trouble in first.troubles)
    assert first.counters == again.counters == {"drawn": 5}
    assert again.tasks_run == 0


class Adds:
    """Counts its instances."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1

    def __call__(self, n: int) -> int:
        return n + 1


def test_a_class_given_as_a_function_is_built_once_a_task() -> None:
    Adds.made = 0
    assert mr.range(20).repartition(3).map(Adds).count() == 20
    assert Adds.made == 3


def test_the_context_names_the_attempt() -> None:
    assert mr.from_items([1]).map(lambda n: mr.context().attempt.partition("#")[2]).take_all() == ["1"]
    assert mr.context().attempt == ""
