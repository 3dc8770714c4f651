"""`python -m benchmarks`: run all benchmarks, one after the other."""

import sys

from benchmarks import namespace, start_up, store, word_count
from benchmarks.harness import BenchmarkFailed

try:
    start_up.main()
    word_count.main()
    store.main()
    namespace.main()
except BenchmarkFailed as failure:
    sys.exit(f"benchmark failed: {failure}")
