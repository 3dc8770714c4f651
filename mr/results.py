"""What a job did, as a value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field, to_builtins

if TYPE_CHECKING:
    from mr.master import Outcome


class OutputReport(Struct, frozen=True):
    """A published output: how many files, rows and bytes, and the BLAKE3 over the digests of its parts."""

    path: str
    files: int
    rows: int
    bytes: int
    digest: str


class JobResult(Struct, frozen=True):
    """What a job did. `state` is "done" or "up to date"; `seconds` is wall time; `troubles` what was survived; `notes`
    what keeps results from being reused. Tasks and counters are those of the actions inside the job function, too.

    >>> JobResult("done", {}, {"bad lines": 2}, tasks_run=3, tasks_reused=0, seconds=0.1).counters["bad lines"]
    2
    """

    state: str
    outputs: Mapping[str, OutputReport]
    counters: Mapping[str, int]
    tasks_run: int
    tasks_reused: int
    seconds: float
    troubles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    job: int = 0
    stages: tuple[Mapping[str, Any], ...] = ()

    def __repr__(self) -> str:
        shown = (name for name in self.__struct_fields__ if name != "stages")  # which are long
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


class WriteResult(JobResult, frozen=True):
    """What a `write_` method outside of a job did: the result of a job of one output, and what is said of that.

    >>> import mr, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = mr.from_items([1, 2]).write_json(folder + "/out.json")
    >>> result.rows, result.files, result.path.rpartition("/")[2]
    (2, 1, 'out.json')
    """

    @property
    def output(self) -> OutputReport:
        """The report of the output."""
        (report,) = self.outputs.values()
        return report

    @property
    def path(self) -> str:
        """Where the output is."""
        return self.output.path

    @property
    def files(self) -> int:
        """How many files it has."""
        return self.output.files

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.output.rows

    @property
    def bytes(self) -> int:
        """The size of its files."""
        return self.output.bytes

    @property
    def digest(self) -> str:
        """The BLAKE3 over the digests of its parts."""
        return self.output.digest


class Spent(Struct):
    """What actions inside a job function ran and counted."""

    tasks_run: int = 0
    tasks_reused: int = 0
    counters: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, outcome: Outcome, seconds: float) -> None:
        """Add one run that took so long."""
        self.seconds += seconds
        self.tasks_run += outcome.tasks_run
        self.tasks_reused += outcome.tasks_reused
        self.counters.update(outcome.counters)


def report_of(result: JobResult) -> dict[str, Any]:
    """A result as plain values, for JSON."""
    return dict(to_builtins(result))


def result_of(
    outcome: Outcome, spent: Spent, reports: Mapping[str, OutputReport], seconds: float, job: int
) -> JobResult:
    """The result of a job from its last run and from what its actions ran before."""
    stages = tuple(to_builtins(stage) for stage in outcome.stages)
    troubles, notes = outcome.snapshot.troubles, outcome.snapshot.notes
    spent.add(outcome, seconds)
    counters = dict(sorted(spent.counters.items()))
    run, reused = spent.tasks_run, spent.tasks_reused
    return JobResult("done", reports, counters, run, reused, spent.seconds, troubles, notes, job, stages)


def up_to_date(
    spent: Spent, reports: Mapping[str, OutputReport], counters: Mapping[str, int], seconds: float
) -> JobResult:
    """The result of a job that had nothing to do after its actions; `counters`: of the run that made its outputs."""
    return JobResult("up to date", reports, counters, spent.tasks_run, spent.tasks_reused, spent.seconds + seconds)
