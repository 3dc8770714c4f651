"""A warning about records that a run left out and that nobody looks at."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence

from mr.errors import RecordsLeftOut, one_line
from mr.graph import Graph, Stage
from mr.heads import place_of
from mr.master import Outcome
from mr.plan import call_site
from mr.program import HEAD, Port
from mr.settling import policies
from mr.tasks import Split, TaskId, TaskResult


def warn_of_left_out(graph: Graph, outcome: Outcome, splits: Mapping[int, Sequence[Split]]) -> None:
    """Warn, at the user's line, of every reader or operator of a graph whose rejects are quarantined for nobody."""
    site = call_site()
    for stage in graph.stages:
        results = [outcome.results[TaskId(stage.id, i)] for i in range(outcome.tasks.get(stage.id, 0))]
        for text in _left_out(stage, results, splits.get(stage.id, ())):
            warnings.warn_explicit(text, RecordsLeftOut, site.file, site.line)


def _left_out(stage: Stage, results: Sequence[TaskResult], splits: Sequence[Split]) -> Iterator[str]:
    looked_at = {outlet.source for outlet in stage.program.outlets}
    for i, (name, policy) in enumerate(policies(stage)):
        found = [(task, result.rejected[i]) for task, result in enumerate(results) if result.rejected[i].records]
        if policy.on_error == "quarantine" and found and Port(i + HEAD, rejects=True) not in looked_at:
            task, first = found[0]
            count = sum(rejected.records for _, rejected in found)
            known = first.offset >= 0 and task < len(splits)
            place = f" at {place_of(splits[task], first.offset, first.line)}" if known else " of them"
            told = (
                f"{name} left {count:,} record{'s' if count > 1 else ''} out, the first{place}: {one_line(first.error)}"
            )
            yield f'{told}; call rejected() on its dataset to see them, or say on_error="skip"'


__all__ = ["warn_of_left_out"]
