"""The public test kit: run a job without files, make an executor misbehave, check that one keeps its contract.

Product code never imports this module.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mr.collected import collected
from mr.dataset import Dataset
from mr.events import AttemptLost, AttemptProgress
from mr.executors.base import AttemptEvent, Executor, NodeInfo
from mr.job_function import Job
from mr.kernels.rows import to_python
from mr.master import Master
from mr.plan import Collect, validate
from mr.results import JobResult, result_of
from mr.session import Session
from mr.tasks import Attempt, AttemptId
from mr.testing.executor_contract import check_executor


def run_inline(job_or_dataset: Job[Any] | Dataset, **params: Any) -> tuple[Any, JobResult]:
    """Run a job with these parameters, or a dataset, in this thread; its records and its result.

    Nothing is read from or left in `MR_HOME`, and outputs are collected, not written. Records are a list; of a job with
    several outputs a dict of lists by output name. Raises what running the job raises.

    >>> import mr
    >>> rows, result = run_inline(mr.from_items([3, 4]).map(lambda n: n * n))
    >>> rows, result.tasks_run
    ([9, 16], 1)
    >>> @mr.job
    ... def doubled(output: str, *, n: int):
    ...     return mr.from_items(range(n)).map(lambda i: 2 * i).write_json(output)
    >>> run_inline(doubled, output="out", n=3)[0]
    [0, 2, 4]
    """
    started = time.monotonic()
    with TemporaryDirectory(prefix="mr-test-") as home, Session("inline", home=Path(home)) as session:
        if isinstance(job_or_dataset, Dataset):
            nodes = {"": job_or_dataset._node}
        else:
            planned = job_or_dataset.plan(**params)
            validate(tuple(planned.values()))
            nodes = {name: write.input for name, write in planned.items()}
        graph = session.compile(tuple(Collect(node.shape, node) for node in nodes.values()))
        splits, executor = session.splits(graph), session.start()
        options: dict[str, Any] = {"name": "test", "code": session.code, "reuse": False, "observe": lambda _: None}
        outcome = Master(graph, splits, executor, session.journal, **options).run()
        rows = {}
        for name, exchange in zip(nodes, graph.collects, strict=True):
            outputs = [o for feed in graph.exchanges[exchange].feeds for o in outcome.outputs(feed.stage, feed.outlet)]
            rows[name] = to_python(collected(outputs, Path(home) / "runs"))
        result = result_of(outcome, session.take_spent(), {}, time.monotonic() - started, 0)
    return (next(iter(rows.values())) if len(rows) == 1 else rows), result


# --- faults ----------------------------------------------------------------------------------------------------------


class FaultyExecutor(Executor):
    """An executor whose news is bad: endings of attempts are lost, told twice or told late, by a seeded plan.

    `lose`, `repeat` and `delay` are the shares (0 to 1) of attempts this happens to; which ones depends on `seed` and
    the attempt alone. A lost attempt is reported lost, and its true ending comes afterwards, when nobody waits for it.

    >>> from mr.executors.inline import InlineExecutor
    >>> with TemporaryDirectory() as home:
    ...     executor = FaultyExecutor(InlineExecutor(Path(home), 1 << 30), seed=1, lose=0.5)
    ...     executor.nodes()[0].slots
    1
    """

    def __init__(
        self, executor: Executor, seed: int, *, lose: float = 0.1, repeat: float = 0.1, delay: float = 0.1
    ) -> None:
        self.can_kill = executor.can_kill
        self.isolates = executor.isolates
        self.faults: Counter[str] = Counter()
        self._executor = executor
        self._seed = seed
        self._shares = {"": 1 - lose - repeat - delay, "lose": lose, "repeat": repeat, "delay": delay}
        self._held: list[tuple[int, AttemptEvent]] = []
        self._waits = 0

    def nodes(self) -> Sequence[NodeInfo]:
        return self._executor.nodes()

    def submit(self, attempt: Attempt, node: str) -> None:
        self._executor.submit(attempt, node)

    def wait(self, timeout_seconds: float) -> Sequence[AttemptEvent]:
        self._waits += 1
        due = [event for when, event in self._held if when <= self._waits]
        self._held = [(when, event) for when, event in self._held if when > self._waits]
        idle = due or self._held
        for event in self._executor.wait(0 if idle else timeout_seconds):
            due += [event] if isinstance(event, AttemptProgress) else self._tell(event)
        return due

    def _tell(self, event: AttemptEvent) -> list[AttemptEvent]:
        chance = random.Random(f"{self._seed} {event.id}")
        fault = chance.choices(list(self._shares), list(self._shares.values()))[0]
        if not fault:
            return [event]
        self.faults[fault] += 1
        if fault == "repeat":
            return [event, event]
        self._held.append((self._waits + chance.randint(1, 5), event))
        return [AttemptLost(event.id, "lost by plan")] if fault == "lose" else []

    def kill(self, attempt: AttemptId) -> None:
        self._executor.kill(attempt)

    def close(self) -> None:
        self._executor.close()


__all__ = ["FaultyExecutor", "check_executor", "run_inline"]
