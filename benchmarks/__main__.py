"""`python -m benchmarks`: run all benchmarks, one after the other; what fails is told at the end."""

import sys

from benchmarks import executors, join, log_analytics, memory, namespace, scaling, sort, start_up, store, word_count
from benchmarks.harness import BenchmarkFailed

failures = []
for benchmark in (start_up, word_count, sort, log_analytics, join, executors, scaling, memory, store, namespace):
    print(f"--- {benchmark.__name__}", file=sys.stderr)
    try:
        benchmark.main()
    except BenchmarkFailed as failure:
        failures.append(f"{benchmark.__name__}: {failure}")
sys.exit("\n".join(failures) or 0)
