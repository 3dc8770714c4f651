"""What a trivial job costs from the command to its end: start of Python, engine and workers, publication.

    python -m benchmarks.start_up [ROUNDS]

The aim: within a second on `local`.
"""

from __future__ import annotations

import sys

from benchmarks.generate import WORK
from benchmarks.harness import JOBS, Contestant, compare, own_command, report

JOB = JOBS / "generator_word_count.py"


def main(rounds: int = 7) -> None:
    """Time the job on each executor that starts by itself, and report."""
    WORK.mkdir(exist_ok=True)
    text = WORK / "trivial.txt"
    text.write_text("to be or not to be\n")
    contestants = []
    for executor in ("local", "inline"):
        output = WORK / f"start_up-{executor}"
        command = [own_command("mr"), "submit", str(JOB), "--no-reuse", "--overwrite", "--on", executor]
        command += ["--input", str(text), "--output", str(output)]
        environment = {"MR_HOME": str(WORK / "home")}
        contestants.append(Contestant(executor, command, (output / "_SUCCESS").exists, environment))
    report("A trivial job", compare(contestants, rounds))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
