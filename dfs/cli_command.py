"""What every verb of `dfs` is made of: the options that all have, the open store, error lines and exit codes."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dfs.errors import DfsError, UsageProblem

if TYPE_CHECKING:
    from dfs.changes import Change
    from dfs.render import Output
    from dfs.store import Store

PARTIAL = 3
UNDO_PATHS_MAX = 8  # a hint stays readable

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Context:
    """What the options say that every verb has."""

    def __init__(self, store: str | None, as_json: bool, verbosity: int) -> None:
        from dfs.render import Output

        self.store = store
        self.out: Output = Output(as_json, verbosity)

    def open(self) -> Store:
        """The store; closed when the command ends."""
        from dfs.store import open_store

        return click.get_current_context().with_resource(open_store(self.store))

    def each(self, store: Store, patterns: Sequence[str], at: int, do: Callable[[str], int | None]) -> int:
        """Do it for every path that the patterns name, and go on after an error. The exit code: 0; the error's when
        none went well; else 3."""
        from dfs.globs import expand

        tally = Tally()
        for pattern in patterns:
            with tally.part():
                paths = expand(store, pattern, at)
                for path in paths:
                    with tally.part():
                        tally.note(do(path) or 0)
        return tally.code

    def paths(self, store: Store, patterns: Sequence[str], at: int) -> list[str]:
        """All paths that the patterns name, each once. Raises NotFound."""
        from dfs.globs import expand

        return list(dict.fromkeys(path for pattern in patterns for path in expand(store, pattern, at)))

    def publish(self, store: Store, changes: Sequence[Change], done: str) -> int:
        """Make the changes in one transaction, and say so to programs; returns its number."""
        import uuid

        txn = store.publish(changes, request_id=uuid.uuid4().hex)
        if self.out.as_json:
            self.out.line("", "result", done=done, count=len(changes), txn=txn)
        self.out.detail(f"{done} {len(changes)} in transaction {txn}")
        return txn

    def planned(self, action: str, path: str, **values: Any) -> None:
        """One line of a dry run."""
        from dfs.render import visible

        to = f" -> dfs://{visible(values['to'])}" if "to" in values else ""
        self.out.line(f"would {action} dfs://{visible(path)}{to}", "planned", action=action, path=path, **values)

    def undo(self, paths: Sequence[str], txn: int) -> None:
        """Tell people how to get back what was there before transaction `txn`."""
        import shlex

        from dfs.render import visible

        named = " ".join(visible(shlex.quote(path or "/")) for path in paths[:UNDO_PATHS_MAX])
        more = " ..." if len(paths) > UNDO_PATHS_MAX else ""
        self.out.hint(f"undo with: dfs restore --at {txn - 1} {named}{more}")

    def confirm(self, what: str, yes: bool) -> None:
        """Ask before something that cannot be undone. Raises UsageProblem where nobody can answer."""
        if yes:
            return
        if not _can_answer():
            raise UsageProblem(f"{what}, which cannot be undone; give -y if you want that")
        if not click.confirm(f"{what}, which cannot be undone. Go on?", err=True):
            raise click.Abort


def _can_answer() -> bool:
    return sys.stdin.isatty()


class Tally:
    """The exit code of several things of which some may fail."""

    def __init__(self) -> None:
        self._codes: list[int] = []

    def note(self, code: int) -> None:
        """One thing ended with this code."""
        self._codes.append(code)

    def part(self) -> _Part:
        """An error in here is printed and noted."""
        return _Part(self)

    @property
    def code(self) -> int:
        """0, the first error's code when nothing went well, else 3."""
        failed = [code for code in self._codes if code]
        if not failed:
            return 0
        return failed[0] if len(failed) == len(self._codes) else PARTIAL


class _Part:
    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, DfsError):
            return False
        complain(error)
        self._tally.note(error.exit_code)
        return True


def complain(error: Exception | str) -> None:
    """One line on stderr."""
    from dfs.render import visible

    click.echo(f"dfs: {visible(' '.join(str(error).split()))}", err=True)


def command(human: bool = False) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a verb of a function: its first argument is a Context. With `human` it takes -h for sizes with units."""

    def decorate(function: Callable[..., int | None]) -> click.Command:
        @click.pass_context
        def run(
            ctx: click.Context, /, store: str | None, as_json: bool, quiet: int, verbose: int, **options: Any
        ) -> int | None:
            above: dict[str, Any] = ctx.obj
            verbosity = above["verbosity"] + verbose - quiet
            _set_logging(verbosity)
            return function(Context(store or above["store"], as_json or above["as_json"], verbosity), **options)

        run.__doc__ = function.__doc__
        run.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        settings = {"help_option_names": ["--help"] if human else ["-h", "--help"]}
        if human:
            run = click.option("--human", "-h", is_flag=True, help="Sizes with units (of 1000), as 1.2 MB.")(run)
        verb = click.command(function.__name__.rstrip("_"), context_settings=settings)
        return verb(everywhere(run))

    return decorate


def everywhere(function: Decorated) -> Decorated:
    """The options that may stand before and after the verb."""
    for option in (
        click.option("--verbose", "-v", count=True, help="Say what is done."),
        click.option("--quiet", "-q", count=True, help="Only data and errors."),
        click.option("--json", "as_json", is_flag=True, help="JSON lines instead of text."),
        click.option("--store", metavar="PATH", help="Instead of $DFS_STORE, or the one under your data folder."),
    ):
        function = option(function)
    return function


class _Once(logging.Filter):
    """Lets each text pass once: a full disk is met by every thread."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = text not in self._told
        self._told.add(text)
        return new


def _set_logging(verbosity: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("dfs: %(levelname)s: %(message)s"))
    handler.addFilter(_Once())
    log = logging.getLogger("dfs")
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.ERROR if verbosity < 0 else logging.WARNING if verbosity == 0 else logging.INFO)


at_option = click.option(
    "--at", metavar="TXN|SNAPSHOT|TIME", help="As it was after that transaction, in that snapshot, or at that time."
)
recursive_option = click.option("--recursive", "-r", "-R", is_flag=True, help="Folders with all that is in them.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def size_bytes(text: str) -> int:
    """A number of bytes, with K, M, G or T (of 1024) or without.

    >>> size_bytes("1M"), size_bytes("64KiB"), size_bytes("4096")
    (1048576, 65536, 4096)
    """
    plain = text.upper().removesuffix("B").removesuffix("I")
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}.get(plain[-1:], 1)
    try:
        size = int(float(plain.rstrip("KMGT")) * factor)
    except (ValueError, OverflowError):
        size = -1
    if size < 0:
        raise click.BadParameter(f"{text!r} is not a size such as 1048576, 1M or 16MiB")
    return size
