"""Where the jobs' tests find the real data."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real input data; the test is skipped where it is absent, as in a plain checkout."""
    if not DATA.is_dir():
        pytest.skip(f"the real data of {DATA} is not here")
    return DATA
