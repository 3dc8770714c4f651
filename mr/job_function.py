"""@mr.job: a function whose parameters are options and whose written datasets are published together."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import PurePath
from typing import Any, Generic, ParamSpec

from msgspec.structs import asdict

from mr.errors import PlanError
from mr.parameters import Parameter, parameters_of
from mr.plan import Write, call_site
from mr.results import WriteResult
from mr.session import JobResult, current

P = ParamSpec("P")

_declared: ContextVar[list[Write] | None] = ContextVar("mr.declared", default=None)


class Output:
    """An output declared inside a job function; the function returns it."""

    def __init__(self, node: Write) -> None:
        self.node = node


def declare(node: Write) -> Output | WriteResult:
    """Inside a job function declare an output, elsewhere write it at once."""
    declared = _declared.get()
    if declared is None:
        return WriteResult(**asdict(current().run({name_of(node.path): node}, name="write")))
    declared.append(node)
    return Output(node)


def name_of(path: str) -> str:
    """What an output is called when nobody names it: the last part of its path.

    >>> name_of("out/top.csv"), name_of("dfs://counts/")
    ('top', 'counts')
    """
    last = PurePath(path.rstrip("/")).name
    return os.path.splitext(last)[0] or "output"


class Job(Generic[P]):
    """A job: call it to run it in the current session, or submit its file with `mr submit`. Made by `mr.job`.

    >>> import mr
    >>> job = mr.job(lambda output: mr.from_items([1]).write_json(output))
    >>> [output.path for output in job.plan("ones").values()]
    ['ones']
    """

    def __init__(self, fn: Callable[P, Any]) -> None:
        functools.update_wrapper(self, fn)
        self._fn = fn
        self.name = fn.__name__
        self.parameters: tuple[Parameter, ...] = parameters_of(fn)
        self.site = call_site()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> JobResult:
        """Run the job with these parameters. Raises PlanError, InputError, OutputError, JobFailed."""
        return current().run(self.plan(*args, **kwargs), name=self.name)

    def plan(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, Write]:
        """Build the job's outputs by name without running it.

        Raises PlanError when the function returns something else than its outputs, or not all it declared.
        """
        token = _declared.set([])
        try:
            with current().counting():
                returned = self._fn(*args, **kwargs)
            declared = _declared.get() or []
        finally:
            _declared.reset(token)
        outputs = self._named(returned)
        kept = {id(node) for node in outputs.values()}
        for node in declared:
            if id(node) not in kept:
                raise PlanError(f"{node.site}: the output {node.path} is declared but not returned by job {self.name}")
        return outputs

    def _named(self, returned: Any) -> dict[str, Write]:
        items: list[tuple[str | None, Any]]
        if isinstance(returned, Mapping):
            items = [(str(name), output) for name, output in returned.items()]
        else:
            items = [(None, output) for output in (returned if isinstance(returned, (list, tuple)) else [returned])]
        if not items or any(not isinstance(output, Output) for _, output in items):
            wrong = next((type(o).__name__ for _, o in items if not isinstance(o, Output)), "nothing")
            text = f"job {self.name} returned {wrong}, not the datasets it writes; return ds.write_...(path)"
            raise PlanError(text if wrong != "NoneType" else text.replace("NoneType", "None"))
        outputs: dict[str, Write] = {}
        for name, output in items:
            base = name or name_of(output.node.path)
            unique = base
            for number in range(2, len(items) + 2):
                if unique not in outputs:
                    break
                unique = f"{base}-{number}"
            outputs[unique] = output.node
        return outputs

    def main(self) -> None:
        """Run from the command line with this job's options, as `mr submit` does: for `python job.py`."""
        from mr.cli import run_job

        run_job(self)


def job(fn: Callable[P, Any]) -> Job[P]:
    """Make a function a job: its parameters are the job's options, the outputs it returns are published together.

    Raises PlanError when a parameter cannot be an option.

    >>> import mr, tempfile
    >>> @mr.job
    ... def squares(output: str, *, n: int = 3):
    ...     return mr.from_items(range(n)).map(lambda i: i * i).write_json(output)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     squares(folder + "/out").outputs["out"].rows
    3
    """
    return Job(fn)
