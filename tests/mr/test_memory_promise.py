"""`--memory` is for the whole process tree: how it is shared, and that what holds rows keeps to its share."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mr.errors import ExecutorError
from mr.executors.base import attempt_memory_bytes, slots_within
from mr.options import ATTEMPT_MEMORY_BYTES_MIN, MASTER_MEMORY_BYTES, MIB, WORKER_MEMORY_BYTES

# --- shares ----------------------------------------------------------------------------------------------------------


@given(memory=st.integers(200 * MIB, 64 << 30), workers=st.integers(1, 256))
@settings(max_examples=100, deadline=None)
def test_all_processes_together_stay_within_the_budget(memory: int, workers: int) -> None:
    slots, share = slots_within(memory, workers), attempt_memory_bytes(memory, workers)
    assert 1 <= slots <= workers
    assert share >= ATTEMPT_MEMORY_BYTES_MIN
    assert MASTER_MEMORY_BYTES + slots * (WORKER_MEMORY_BYTES + share) <= memory
    if slots < workers:
        assert MASTER_MEMORY_BYTES + (slots + 1) * (WORKER_MEMORY_BYTES + ATTEMPT_MEMORY_BYTES_MIN) > memory


def test_a_budget_too_small_for_one_worker_names_the_least() -> None:
    with pytest.raises(ExecutorError, match="give --memory 200MiB or more"):
        attempt_memory_bytes(199 * MIB, 2)
    assert attempt_memory_bytes(200 * MIB, 2) == ATTEMPT_MEMORY_BYTES_MIN
