"""The `mr` command. Thin: parse, call, render, exit. Heavy imports happen inside the commands."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mr.executors.base import Executor
    from mr.job_function import Job
    from mr.parameters import Parameter
    from mr.plan import Write
    from mr.session import Session

INTERRUPTED = 130


class Failure(click.ClickException):
    """A failure that is shown as one line (and the user's traceback, if there is one) with its exit code.

    `as_json`: stdout gets a line of type result too, for programs that read it.
    """

    def __init__(self, message: str, exit_code: int, detail: str = "", as_json: bool = False) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]
        self.detail = detail
        self.as_json = as_json

    def show(self, file: Any = None) -> None:
        """Print it on stderr."""
        if self.detail:
            click.echo(self.detail, err=True)
        click.echo(f"mr: {self.message}", err=True)
        if self.as_json:
            state = "cancelled" if self.exit_code == INTERRUPTED else "failed"
            click.echo(json.dumps({"type": "result", "state": state, "error": self.message}))


@contextmanager
def failures_shown(as_json: bool = False) -> Iterator[None]:
    """Turn the errors of engine and store into `Failure`s."""
    try:
        yield
    except KeyboardInterrupt:
        message = "interrupted; submit the same job again to resume it"
        raise Failure(message, INTERRUPTED, as_json=as_json) from None
    except click.UsageError as error:
        cure = f"; see {error.ctx.command_path} --help" if error.ctx is not None else ""
        raise Failure(error.format_message().rstrip(".") + cure, error.exit_code, as_json=as_json) from None
    except (click.ClickException, click.exceptions.Exit):
        raise
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if not isinstance(code, int):
            raise
        raise Failure(str(error), code, getattr(error, "detail", "") or "", as_json) from error


class _Group(click.Group):
    """Knows `run` as another name of `submit`; every failure is one line."""

    def invoke(self, ctx: click.Context) -> Any:
        with failures_shown():
            return super().invoke(ctx)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return super().get_command(ctx, {"run": "submit"}.get(name, name))


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="millrace", prog_name="mr")
def cli() -> None:
    """Millrace: batch MapReduce over files, in Python."""


# --- submit and explain: a job and its options -----------------------------------------------------------------------

JOB_CONTEXT = {"ignore_unknown_options": True, "allow_interspersed_args": True, "help_option_names": []}


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every way of running a job has."""
    for option in reversed(
        (
            click.option("--on", type=click.Choice(["inline", "local", "ray"]), default="local", envvar="MR_ON",
                         show_default=True, help="Where tasks run."),
            click.option("--address", envvar="MR_ADDRESS", help="Address of a running Ray cluster."),
            click.option("--workers", type=click.IntRange(1), envvar="MR_WORKERS", help="Tasks at a time [cores]."),
            click.option("--memory", envvar="MR_MEMORY", help="For all processes, as 2GB [half of RAM]."),
            click.option("--no-reuse", is_flag=True, help="Run everything, also what has a recorded result."),
            click.option("--overwrite", is_flag=True, help="Replace outputs."),
            click.option("--append", is_flag=True, help="Add parts to outputs that exist."),
            click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout; the last has type result."),
            click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
            click.argument("words", nargs=-1, type=click.UNPROCESSED),
        )
    ):  # fmt: skip
        command = option(command)
    return command


@cli.command(context_settings=JOB_CONTEXT)
@engine_options
@click.pass_context
def submit(ctx: click.Context, /, words: tuple[str, ...], **options: Any) -> None:
    """Run a job: mr submit FILE|MODULE[:JOB] [OPTIONS] [JOB OPTIONS].

    `mr submit FILE --help` shows the job's own options. After -- everything belongs to the job.
    """
    if not words or words[0] in ("-h", "--help"):
        click.echo(ctx.get_help() if words else ctx.get_usage())
        ctx.exit(0 if words else 2)
    with failures_shown(options["as_json"]), _session(options, words) as session:
        job = _load(words[0], session)
        run(job, words[1:], session, options, ctx.command_path + f" {words[0]}")


@cli.command(context_settings=JOB_CONTEXT)
@engine_options
@click.option("--reuse", "reuse_too", is_flag=True, help="Say which recorded results will be used, and why not.")
@click.option("--analyze", is_flag=True, help="With the figures of its last run with these options.")
@click.pass_context
def explain(ctx: click.Context, /, words: tuple[str, ...], reuse_too: bool, analyze: bool, **options: Any) -> None:
    """Show the stages of a job without running it: mr explain FILE [JOB OPTIONS]."""
    if not words or words[0] in ("-h", "--help"):
        click.echo(ctx.get_help())
        ctx.exit(0 if words else 2)
    from mr.explain import explain_graph, explain_reuse
    from mr.inputs import input_bytes

    with failures_shown(), _session(options) as session:
        job = _load(words[0], session)
        outputs = plan(job, words[1:], ctx.command_path + f" {words[0]}")
        graph = session.compile(tuple(outputs.values()))
        ran = session.figures(outputs) if analyze else None
        if analyze and not ran:
            raise Failure("no finished run of this job with these options and inputs is recorded: submit it first", 4)
        click.echo(explain_graph(graph, input_bytes, ran))
        if reuse_too:
            click.echo(explain_reuse(graph, session.splits(graph), session.journal))


def _load(target: str, session: Session) -> Job[...]:
    from mr.jobfile import load_job

    job, session.code = load_job(target, session.home)
    return job


def _early(options: dict[str, Any], words: tuple[str, ...]) -> Executor | None:
    """The local executor, whose workers get ready while this process imports the rest; None where not needed."""
    if options["on"] != "local" or any(word in ("-h", "--help") for word in words):
        return None
    from mr.executors.base import default_memory_bytes
    from mr.executors.local import LocalExecutor
    from mr.parameters import parse_bytes
    from mr.scratch import scratch_root, sweep

    memory = options["memory"]
    sweep(scratch_root())
    bytes_total = default_memory_bytes() if memory is None else parse_bytes(memory)
    workers = options["workers"] or os.cpu_count() or 1
    return LocalExecutor(scratch_root(), workers, bytes_total, fork=_Entry.pinned)


@contextmanager
def _session(options: dict[str, Any], words: tuple[str, ...] | None = None) -> Iterator[Session]:
    """A session; with the `words` of a job that will run at once, its workers get ready meanwhile."""
    from mr.quick_start import defer_pandas

    if options["overwrite"] and options["append"]:
        raise click.UsageError("--overwrite replaces outputs and --append adds to them: give one of them")
    executor = None if words is None else _early(options, words)
    defer_pandas()
    from mr.session import Session

    display = None
    if not options["quiet"] and not options["as_json"] and sys.stderr.isatty():
        from mr.render import ProgressDisplay

        display = ProgressDisplay()
    session = Session(
        options["on"],
        options["workers"],
        options["memory"],
        options["address"],
        reuse=not options["no_reuse"],
        observe=display.update if display else None,
        executor=executor,
    )
    session.mode = "overwrite" if options["overwrite"] else "append" if options["append"] else "error"
    with session:
        try:
            yield session
        finally:
            if display:
                display.close()


def run(job: Job[...], words: tuple[str, ...], session: Session, options: dict[str, Any], usage: str) -> None:
    """Run a job with the options in `words` and print what it did."""
    from mr.render import print_result

    outputs = plan(job, words, usage)
    result = session.run(outputs, job.name)
    if options["as_json"]:
        from mr.results import report_of

        click.echo(json.dumps({"type": "result", "name": job.name, **report_of(result)}))
    elif not options["quiet"]:
        print_result(job.name, result)


def plan(job: Job[...], words: tuple[str, ...], usage: str) -> dict[str, Write]:
    """The outputs of a job called with `words`. Raises click.UsageError, PlanError, InputError, DfsError."""
    from mr.errors import PlanError, in_user_code

    values = job_values(job.parameters, list(words), usage, job.__doc__ or "")
    try:
        return job.plan(**values)
    except Exception as error:
        if hasattr(error, "exit_code") and not isinstance(error, PlanError):
            raise  # what an input or a store says of itself
        raise in_user_code(error, job.site.file) from error


class _Script(click.Command):
    """A command without a group around it."""

    def make_context(self, *args: Any, **given: Any) -> click.Context:
        with failures_shown():
            return super().make_context(*args, **given)


def run_job(job: Job[...]) -> None:
    """What `job.main()` does: the command line of `python job.py`."""

    @click.command(cls=_Script, context_settings=JOB_CONTEXT)
    @engine_options
    def command(words: tuple[str, ...], **options: Any) -> None:
        with failures_shown(options["as_json"]), _session(options, words) as session:
            run(job, words, session, options, os.path.basename(sys.argv[0]))

    command()


# --- a job's own options ---------------------------------------------------------------------------------------------


def job_values(parameters: tuple[Parameter, ...], words: list[str], usage: str, about: str) -> dict[str, Any]:
    """Values for a job's parameters. Required ones may be positional; a list takes what is left of the positionals.

    Raises click.UsageError in one line: an unknown option, a missing or surplus value, a value of the wrong type.
    """
    options: list[click.Parameter] = [_option(parameter) for parameter in parameters]
    named = " ".join(f"[{p.name.upper()}{'...' if p.many else ''}]" for p in parameters if p.required)
    positional = click.Argument(["positionals"], nargs=-1, metavar=named)
    command = click.Command(
        usage, params=[*options, positional], help=about, context_settings={"help_option_names": ["-h", "--help"]}
    )
    with command.make_context(usage, words, max_content_width=100) as ctx:
        values = dict(ctx.params)
        rest = list(values.pop("positionals"))
        for parameter, count in _shares(parameters, values, len(rest)):
            taken, rest = rest[:count], rest[count:]
            converted = [_convert(parameter, text) for text in taken]
            values[parameter.name] = converted if parameter.many else converted[0]
        if rest:
            expanded = any(map(os.path.exists, ctx.params["positionals"][1:]))  # a shell's glob shifts what follows it
            cure = "; quote the glob or declare list[str]" if expanded else ""
            raise click.UsageError(f"unexpected argument {rest[0]!r}{cure}", ctx)
        missing = [p.option for p in parameters if p.required and values[p.name] in (None, ())]
        if missing:
            raise click.UsageError(f"missing {', '.join(missing)}", ctx)
    return {p.name: _finished(p, values[p.name]) for p in parameters}


def _option(parameter: Parameter) -> click.Option:
    from mr.parameters import text_of

    names = [f"{parameter.option}/--no-{parameter.option[2:]}" if parameter.flag else parameter.option, parameter.name]
    needed = "" if not parameter.required else "required; may be positional"
    default = parameter.default
    text = needed or (f"default: {text_of(default)}" if default not in (None, [], {}) else "")

    def convert(ctx: click.Context, option: click.Parameter, value: Any) -> Any:
        if value is None or parameter.flag:
            return value
        if parameter.many or parameter.pairs:
            return tuple(_pair(parameter, v) if parameter.pairs else _convert(parameter, v) for v in value)
        return _convert(parameter, value)

    return click.Option(
        names,
        type=bool if parameter.flag else str,
        default=None,
        multiple=parameter.many or parameter.pairs,
        metavar=None if parameter.flag else "|".join(parameter.choices) or parameter.type_name.upper(),
        help=text,
        callback=convert,
    )


def _convert(parameter: Parameter, text: str) -> Any:
    try:
        return parameter.convert(text)
    except (ValueError, KeyError):
        wanted = (
            f"one of {', '.join(parameter.choices)}" if parameter.choices else f"a value of type {parameter.type_name}"
        )
        raise click.UsageError(f"{parameter.option}: {text!r} is not {wanted}") from None


def _pair(parameter: Parameter, text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"{parameter.option}: write {text}=VALUE")
    return key, _convert(parameter, value)


def _shares(parameters: tuple[Parameter, ...], values: dict[str, Any], words: int) -> list[tuple[Parameter, int]]:
    """How many positional words each required parameter without a value takes: one, and lists what is left over."""
    wanting = [p for p in parameters if p.required and values[p.name] in (None, ()) and not p.flag and not p.pairs]
    over = words - len(wanting)
    shares = []
    for parameter in wanting[:words] if over < 0 else wanting:
        extra = over if parameter.many and over > 0 else 0
        over -= extra
        shares.append((parameter, 1 + extra))
    return shares


def _finished(parameter: Parameter, value: Any) -> Any:
    if value in (None, ()) and not parameter.required:
        return parameter.default
    if parameter.pairs:
        return dict(value)
    return list(value) if parameter.many else value


# --- entry -----------------------------------------------------------------------------------------------------------


class _Entry:
    """`pinned`: this Python was started for the command, as workers are, and nothing of the user's is in it yet."""

    pinned = False


def main(*, pinned: bool = False) -> None:
    """The `mr` command. `pinned`: see `mr.__main__`, which calls it so."""
    from mr import cli_info  # noqa: F401 - adds its commands

    _Entry.pinned = pinned
    try:
        cli(prog_name="mr")
    except SystemExit as end:
        ray = sys.modules.get("ray")
        connected = ray is not None and ray.is_initialized()  # by the user: ours is closed
        if "polars" not in sys.modules or connected or not isinstance(end.code, int | None):
            raise
        with suppress(BrokenPipeError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(end.code or 0)  # all of ours is closed; taking the libraries down costs 0.1 s, with Ray 0.4
