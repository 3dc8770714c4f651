"""Millrace: batch MapReduce in Python. `import mr` is cheap; names are loaded when first used.

Layout, from what is known to what is done: values (`plan`, `program`, `tasks`, `events`, `options`, `errors`), pure
deciders (`stages`, `assignment`, `scheduler`, `fingerprint`, `progress`) and `kernels`, then what does I/O (`journal`,
`shuffle`, `formats`, `storage`, `inputs`), what runs attempts (`worker`, `executors`), the `master`, the `session`
that composes all this, and on top what users see: `dataset`, `readers`, `job`, `cli`. docs/ARCHITECTURE.md is the map.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mr.aggregates import (
        Aggregate,
        all,
        any,
        approx_distinct,
        approx_quantile,
        collect,
        count,
        count_distinct,
        first,
        histogram,
        last,
        max,
        mean,
        min,
        quantile,
        std,
        sum,
        top_k,
        var,
    )
    from mr.dataset import Dataset, GroupedDataset
    from mr.dataset.cogrouped import CoGroupedDataset
    from mr.dataset.ranges import range
    from mr.errors import (
        InputError,
        JobFailed,
        MillraceError,
        OutputError,
        PlanError,
        RecordError,
        RecordsLeftOut,
        TypeConflict,
    )
    from mr.job_function import Job, job
    from mr.kernels.rows import Row
    from mr.readers import (
        from_arrow,
        from_items,
        from_pandas,
        from_polars,
        read_access_log,
        read_arrow,
        read_binary_files,
        read_csv,
        read_json,
        read_parquet,
        read_text,
        read_text_files,
        read_warc,
    )
    from mr.results import JobResult, WriteResult
    from mr.session import Session, configure
    from mr.shared import broadcast, resource, side_file
    from mr.task_context import context, counter, rng

_HOMES = {
    "mr.aggregates": "Aggregate all any approx_distinct approx_quantile collect count count_distinct first histogram "
    "last max mean min quantile std sum top_k var",
    "mr.task_context": "context counter rng",
    "mr.dataset": "Dataset GroupedDataset",
    "mr.dataset.cogrouped": "CoGroupedDataset",
    "mr.dataset.ranges": "range",
    "mr.errors": "InputError JobFailed MillraceError OutputError PlanError RecordError RecordsLeftOut TypeConflict",
    "mr.job_function": "Job job",
    "mr.kernels.rows": "Row",
    "mr.readers": "from_arrow from_items from_pandas from_polars read_access_log read_arrow read_binary_files "
    "read_csv read_json read_parquet read_text "
    "read_text_files read_warc",
    "mr.results": "JobResult WriteResult",
    "mr.session": "Session configure",
    "mr.shared": "broadcast resource side_file",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "Aggregate",
    "CoGroupedDataset",
    "Dataset",
    "GroupedDataset",
    "InputError",
    "Job",
    "JobFailed",
    "JobResult",
    "MillraceError",
    "OutputError",
    "PlanError",
    "RecordError",
    "RecordsLeftOut",
    "Row",
    "Session",
    "TypeConflict",
    "WriteResult",
    "all",
    "any",
    "approx_distinct",
    "approx_quantile",
    "broadcast",
    "collect",
    "configure",
    "context",
    "count",
    "count_distinct",
    "counter",
    "first",
    "from_arrow",
    "from_items",
    "from_pandas",
    "from_polars",
    "histogram",
    "job",
    "last",
    "max",
    "mean",
    "min",
    "quantile",
    "range",
    "read_access_log",
    "read_arrow",
    "read_binary_files",
    "read_csv",
    "read_json",
    "read_parquet",
    "read_text",
    "read_text_files",
    "read_warc",
    "resource",
    "rng",
    "side_file",
    "std",
    "sum",
    "top_k",
    "var",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        import difflib  # only where a name is wrong

        alike = difflib.get_close_matches(name, _HOME_OF, 1)
        raise AttributeError(f"module 'mr' has no attribute {name!r}" + "".join(f"; use mr.{near}" for near in alike))
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value  # next time without this function, and before a submodule of the same name hides it
    return value
