"""Loading a job from a file or module."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import cloudpickle

from mr import snapshot
from mr.errors import PlanError, in_user_code
from mr.fingerprint import is_library
from mr.job_function import Job


def load_job(target: str, home: Path) -> tuple[Job[...], str]:
    """The job that "FILE.py", "FILE.py:JOB", "module" or "module:JOB" names, and the digest of its snapshot, if any.

    Raises PlanError in one line: no such file, a syntax error with its line, an import that fails, no job, or several
    of which none is named.
    """
    source, _, wanted = target.partition(":")
    path = Path(source)
    if source.endswith(".py") or path.is_file():
        module, code = _from_file(path, home)
    else:
        module, code = _from_module(source), ""
    jobs = {value.name: value for value in vars(module).values() if isinstance(value, Job)}
    jobs = {name: job for name, job in jobs.items() if job.__module__ == module.__name__}
    if wanted:
        if wanted not in jobs:
            raise PlanError(f"{source} has no job {wanted!r}; it has {', '.join(jobs) or 'none'}")
        return jobs[wanted], code
    if not jobs:
        raise PlanError(f"{source} has no job; decorate a function with @mr.job")
    if len(jobs) > 1:
        raise PlanError(f"{source} has {len(jobs)} jobs ({', '.join(jobs)}); name one: {source}:{next(iter(jobs))}")
    return next(iter(jobs.values())), code


def _from_module(name: str) -> types.ModuleType:
    sys.path.insert(0, "")
    try:
        module = importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise PlanError(f"no job file or module {name!r} ({error})") from None
        raise in_user_code(error, name) from error
    finally:
        sys.path.remove("")
    if not is_library(name):
        cloudpickle.register_pickle_by_value(module)
    return module


def _from_file(path: Path, home: Path) -> tuple[types.ModuleType, str]:
    if not path.is_file():
        raise PlanError(f"no job file {path}")
    path = path.resolve()
    if "." in path.stem:  # to import it would ask for a module in a package
        raise PlanError(f"{path.name} cannot be imported: a module's name has no dot; rename the file")
    code = snapshot.take(snapshot.sources_of(path), home)
    snapshot.activate(home, code)
    try:
        return importlib.import_module(path.stem), code
    except Exception as error:
        raise in_user_code(error, str(path)) from error
