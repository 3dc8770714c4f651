"""The `mr` command, in a Python started as workers are: with the hash seed and threads that reach no byte.

Inline tasks run in this very process, and workers are forked from it. It replaces itself before it imports anything.
"""

from __future__ import annotations

import os
import sys

from mr.options import PINNED


def main() -> None:
    """The entry of the command."""
    if not PINNED.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **PINNED})
    from mr import cli

    cli.main(pinned=True)


if __name__ == "__main__":
    main()
