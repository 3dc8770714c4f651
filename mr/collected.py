"""Records that the tasks of a run left in run files: brought here, or as a plan node that reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from mr.assignment import Produced, exchange_schema, read_schema
from mr.batch import kind_of
from mr.errors import ExecutorError, FetchFailed, JobFailed, at_line
from mr.fingerprint import digest
from mr.graph import Graph
from mr.heads import gathered
from mr.heads.materialized import lost_files
from mr.joining import partitioning_of
from mr.kernels.frames import concat
from mr.kernels.rows import Shape
from mr.options import LOST_MAX
from mr.plan import Materialized, Node, walk
from mr.tasks import ExchangeInput, Output, Place, SourceFile, TaskId


def _produced(outputs: Sequence[Output]) -> list[Produced]:
    return [Produced(TaskId(0, i), output, Place(())) for i, output in enumerate(outputs)]


def collect(run: Callable[[], Sequence[Output]], runs: Path, site: str) -> pa.RecordBatch:
    """The records in the run files under the folder `runs` that `run` left, as one batch.

    A file that was damaged since it was recorded is removed, and `run` called again. Raises ExecutorError where that
    does not help, TypeConflict naming the line `site` where types differ, and what `run` raises.
    """
    for _ in range(LOST_MAX):
        try:
            outputs = run()
            with at_line(site):
                return collected(outputs, runs)
        except FetchFailed as error:
            last = error
            Path(error.path).unlink(missing_ok=True)
    raise ExecutorError(f"results are damaged as soon as they are written; last: {last}")


def collected(outputs: Sequence[Output], runs: Path) -> pa.RecordBatch:
    """The records in run files under the folder `runs`, as one batch. Raises FetchFailed."""
    items = _produced(outputs)
    schema = exchange_schema(items)
    files = tuple(SourceFile(item.task, item.output.path) for item in items if item.output.path)
    given = ExchangeInput(files, schema, 0, "")
    return concat(list(gathered(given, runs)), read_schema(schema))


def _part(number: int, output: Output, schema: bytes) -> ExchangeInput:
    files = (SourceFile(TaskId(0, number), output.path),) if output.segments else ()
    return ExchangeInput(files, schema, output.bytes, digest(schema, [s.digest for s in output.segments]))


def materialized(node: Node, outputs: Sequence[Output]) -> Materialized:
    """A node that reads what the tasks of `node` left, one part a task. Raises TypeConflict."""
    with at_line(str(node.site)):
        schema = exchange_schema(_produced(outputs))
    known = node.shape.schema() if node.shape is not None else None
    if not schema and known is not None:
        schema = bytes(known.serialize().to_pybytes())
    found = read_schema(schema)
    shape = Shape(kind_of(found), tuple(found.names), tuple(found.types)) if schema else node.shape
    parts = tuple(_part(i, output, schema) for i, output in enumerate(outputs))
    keys, count = partitioning_of(node) or ((), 0)
    if count != len(parts):
        keys = ()
    rows = sum(output.rows for output in outputs)
    by = f" by {', '.join(keys)}" if keys else ""
    note = f"{node.label} at {node.site}: {rows:,} rows, {len(parts)} partitions{by}"
    return Materialized(shape, parts, keys, note, node, site=node.site)


def _remove_lost(node: Materialized, runs: Path, verify: bool) -> list[Path]:
    """The files of a materialized result that are gone; with `verify` also the damaged ones, which are removed."""
    lost = [path for part in node.parts for path in lost_files(part, runs, verify)]
    for path in lost:
        path.unlink(missing_ok=True)
    return lost


def restore(graph: Graph, runs: Path, verify: bool, again: Callable[[Node], Materialized]) -> bool:
    """Make lost results that the graph reads again, by `again`; whether there were any. `verify`: read all files.

    Raises JobFailed where that gives other records, or other files.
    """
    read = [node for stage in graph.stages for node in (stage.source, *stage.parts)]
    sources = tuple(node for node in read if isinstance(node, Materialized))
    lost: dict[int, Path] = {}
    seen: set[int] = set()
    pending = list(sources)
    while pending:  # what was made from others that are lost as well, needs those first
        node = pending.pop()
        gone = _remove_lost(node, runs, verify) if id(node) not in seen else []
        seen.add(id(node))
        if gone:
            lost[id(node)] = gone[0]
            pending += [below for below in walk((node.of,)) if isinstance(below, Materialized)]
    for made in walk(sources, made=True) if lost else ():
        if isinstance(made, Materialized) and id(made) in lost and again(made.of).parts != made.parts:
            path = lost[id(made)]
            cure = "run the job again; a function that is not deterministic, or pure=False, may be the cause"
            raise JobFailed(f"{made.site}: a materialized result is lost ({path}) and cannot be made again; {cure}")
    return bool(lost)


__all__ = ["collect", "collected", "materialized", "restore"]
