"""The `mr` commands that look at things: show, list, status, doctor; `prune`; and `new`, which writes a job."""

from __future__ import annotations

import importlib.util
import json
import keyword
import os
import sys
from pathlib import Path
from typing import Any

import click

from mr.cli import Failure, cli, failures_shown

LIBRARIES = ("numpy", "pyarrow", "polars", "polars-hash", "apsw", "fsspec", "ray", "cloudpickle", "xxhash", "blake3")


@cli.command()
@click.argument("path")
@click.option("-n", "--rows", default=20, show_default=True, type=click.IntRange(0), help="How many records.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a record.")
def show(path: str, rows: int, as_json: bool) -> None:
    """Print the first records of any dataset, with its schema."""
    with failures_shown():
        from mr.render import open_any
        from mr.session import Session

        with Session(on="inline"):
            dataset = open_any(path)
            if not as_json:
                dataset.show(rows)
                return
            for record in dataset.take(rows):
                value = record._asdict() if hasattr(record, "_asdict") else {"value": record}
                click.echo(json.dumps(value, default=str, ensure_ascii=False))


@cli.command("list")
@click.option("-n", "--jobs", default=20, show_default=True, type=click.IntRange(1), help="How many jobs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a job.")
def list_jobs(jobs: int, as_json: bool) -> None:
    """List the newest jobs."""
    with failures_shown():
        from mr.journal import Journal
        from mr.render import print_jobs
        from mr.scratch import scratch_root

        found = Journal(scratch_root()).jobs(jobs)
        if as_json:
            for job in found:
                line = {"type": "job", "id": job.id, "name": job.name, "state": job.state, "key": job.key}
                click.echo(json.dumps({**line, "started": job.started, "ended": job.ended}))
        else:
            print_jobs(found)


@cli.command()
@click.argument("job", required=False)
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
def status(job: str | None, as_json: bool) -> None:
    """What a job did: stages, counters, troubles. JOB is its number or the beginning of its key (default: the last)."""
    with failures_shown():
        from mr.journal import Journal
        from mr.render import print_status
        from mr.scratch import scratch_root

        journal = Journal(scratch_root())
        rows = journal.jobs(1_000_000 if job else 1)
        numbered = [row for row in rows if job is None or str(row.id) == job]
        found = numbered or [row for row in rows if row.key.startswith(job or "")]  # keys may begin with any number
        if not found:
            raise Failure(f"no job {job}" if job else "no job has run yet", 4)
        if as_json:
            head = {"type": "job", "id": found[0].id, "name": found[0].name, "state": found[0].state}
            click.echo(json.dumps({**found[0].report, **head}))
        else:
            print_status(found[0], journal.history(found[0].id))


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(as_json: bool) -> None:
    """Effective settings, versions and the health of store and journal. Exits with 1 if something is wrong."""
    facts, problems = _facts()
    if as_json:
        click.echo(json.dumps({"type": "doctor", **facts, "problems": problems}))
    else:
        for name, value in facts.items():
            click.echo(f"{name:<18} {value}")
        for problem in problems:
            click.echo(f"problem: {problem}", err=True)
    sys.exit(1 if problems else 0)


def _facts() -> tuple[dict[str, Any], list[str]]:
    from importlib import metadata

    from mr.executors.base import default_memory_bytes
    from mr.scratch import scratch_root
    from mr.storage import store_health

    home = scratch_root()
    problems: list[str] = []
    facts: dict[str, Any] = {
        "millrace": metadata.version("millrace"),
        "python": sys.version.split()[0],
        **{name: metadata.version(name) for name in LIBRARIES},
        "cores": os.cpu_count(),
        "memory": f"{default_memory_bytes() >> 20} MiB for a job",
        "MR_HOME": str(home),
    }
    try:
        from mr.journal import Journal

        journal = Journal(home)
        facts["journal"] = f"{len(journal.jobs(1_000_000))} jobs, {journal.count_results()} recorded results"
        runs = [p.stat().st_size for p in (home / "runs").glob("*")] if (home / "runs").exists() else []
        facts["run files"] = f"{len(runs)} files, {sum(runs) >> 20} MiB"
    except Exception as error:
        problems.append(f"journal: {error}")
    state, wrong = store_health()
    facts["store"] = state
    return facts, problems + wrong


@cli.command()
@click.option("--keep", default="0", show_default=True, help="How much of the newest to keep, as 10GB.")
def prune(keep: str) -> None:
    """Remove task results, the longest unused first, but what running jobs use; jobs compute again what they need."""
    with failures_shown():
        from mr.parameters import parse_bytes
        from mr.scratch import prune as prune_runs
        from mr.scratch import scratch_root

        files, size = prune_runs(scratch_root(), parse_bytes(keep))
        click.echo(f"removed {files} files, {size / 1e6:,.1f} MB, from {scratch_root()}")


@cli.command()
@click.argument("name")
def new(name: str) -> None:
    """Write NAME.py, a job to start from, and test_NAME.py."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise click.UsageError(f"{name!r} is not a name for a Python module")
    files = {f"{name}.py": JOB.format(name=name), f"test_{name}.py": TEST.format(name=name)}
    for file in files:
        if os.path.exists(file):
            raise Failure(f"{file} exists already", 1)
    if name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None:
        raise click.UsageError(
            f"{name}.py would hide Python's module {name} from whatever runs here; choose another name"
        )
    for file, text in files.items():
        Path(file).write_text(text)
        click.echo(f"wrote {file}")
    click.echo(f"try: mr submit {name}.py --input TEXTFILE --output counts.csv")


JOB = '''"""{name}: lines of text -> how often each word occurs."""

import mr


@mr.job
def {name}(input: list[str], output: str, *, min_count: int = 1):
    """Count words."""
    return (
        mr.read_text(input)
        .flat_map(str.split, names={{"word": str}})
        .group_by("word")
        .agg(n=mr.count())
        .filter(lambda row: row.n >= min_count)
        .sort("n", "word", descending=[True, False])
        .write_csv(output)
    )


if __name__ == "__main__":
    {name}.main()
'''

TEST = '''"""Tests of {name}, in this process, without a cluster."""

from mr.testing import run_inline

from {name} import {name}


def test_counts(tmp_path):
    (tmp_path / "a.txt").write_text("b a\\nb\\n")
    rows, result = run_inline({name}, input=[str(tmp_path / "a.txt")], output="not written")
    assert rows == [("b", 2), ("a", 1)]
    assert result.tasks_run > 0
'''
