"""The `dfs` command: thin over `dfs.store`. Exit codes are those of `dfs.errors`; 3 when only some of several paths
could be done, 130 when interrupted."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

import click

from dfs import cli_care, cli_changes, cli_files, cli_history, cli_nodes, cli_transfer
from dfs.cli_command import complain, everywhere
from dfs.errors import DfsError

INTERRUPTED = 130

TOPICS = {
    "Copying": cli_transfer,
    "Looking": cli_files,
    "Changing": cli_changes,
    "History": cli_history,
    "Care": cli_care,
    "Nodes": cli_nodes,
}


class DfsGroup(click.Group):
    """Turns the store's errors into one line and an exit code, takes `dfs -ls` for `dfs ls`, and lists its verbs by
    topic."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for index, arg in enumerate(args):
            if arg.startswith("-") and arg[1:] in self.commands:
                args = [*args[:index], arg[1:], *args[index + 1 :]]
                break
            if arg in self.commands:
                break
        try:
            return super().parse_args(ctx, args)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            _complain_of_usage(error)
            ctx.exit(2)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for topic, module in TOPICS.items():
            with formatter.section(topic):
                formatter.write_dl([(verb.name or "", verb.get_short_help_str(100)) for verb in _verbs(module)])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            code = super().invoke(ctx)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            _complain_of_usage(error)
            ctx.exit(2)
        except click.Abort:
            complain("nothing was done")
            ctx.exit(1)
        except DfsError as error:
            complain(error)
            ctx.exit(error.exit_code)
        except BrokenPipeError:  # `dfs cat x | head`: not our failure
            _drop_output()
            ctx.exit(0)
        except OSError as error:
            _drop_output()
            complain(error)
            ctx.exit(1)
        except KeyboardInterrupt:
            complain("interrupted")
            ctx.exit(INTERRUPTED)
        if isinstance(code, int) and code:
            ctx.exit(code)
        return None


def _complain_of_usage(error: click.UsageError) -> None:
    where = error.ctx.command_path if error.ctx else "dfs"
    click.echo(f"{where}: {' '.join(error.format_message().split())} (see {where} --help)", err=True)


def _drop_output() -> None:
    """What is still buffered cannot be written; without this the interpreter would complain once more when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group("dfs", cls=DfsGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="millrace", prog_name="dfs")
@everywhere
@click.pass_context
def cli(ctx: click.Context, store: str | None, as_json: bool, quiet: int, verbose: int) -> None:
    """Content-addressed, replicated file store. Paths may be written as dfs://PATH or PATH, with *, ? and [...] for
    parts of names; `dfs -ls` works too."""
    ctx.obj = {"store": store, "as_json": as_json, "verbosity": verbose - quiet}


def _verbs(module: Any) -> list[click.Command]:
    return [value for value in vars(module).values() if isinstance(value, click.Command) and value.name]


for _module in TOPICS.values():
    for _verb in _verbs(_module):
        cli.add_command(_verb)


def main() -> None:
    """Entry point of `dfs`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name in another script must not end the command
    cli(prog_name="dfs")
