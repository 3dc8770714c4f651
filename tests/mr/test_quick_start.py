"""A process does not import pandas before somebody uses it, and then pyarrow knows its types as ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mr

SCRIPT = """
import sys
from pathlib import Path
import pyarrow as pa
from mr.quick_start import defer_pandas
defer_pandas()
import polars
defer_pandas()
assert pa.array([1, 2]).to_pylist() == [1, 2]
assert pa.scalar("x").as_py() == "x"
assert "pandas" not in sys.modules, "pyarrow imported it"
{use}
"""

USES = {
    "the user imports it": """
import pandas as pd
assert pa.array(pd.Series([1.0, float("nan")])).null_count == 1, "as pyarrow takes a pandas series"
assert pd.DataFrame({"x": [1]}).shape == (1, 1)
""",
    "pyarrow needs it": "assert pa.table({'x': [1]}).to_pandas()['x'].tolist() == [1]",
    "polars needs it": "assert polars.Series([1, 2]).to_pandas().tolist() == [1, 2]",
    "nobody does": "",
}


@pytest.mark.parametrize("use", USES)
def test_pandas_comes_when_it_is_used(use: str) -> None:
    pytest.importorskip("pandas")
    run = subprocess.run([sys.executable, "-c", SCRIPT.format(use=USES[use])], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_workers_do_not_import_pandas(tmp_path: Path) -> None:
    with mr.Session(on="local", workers=1, home=tmp_path):
        found = mr.from_items([1]).map(lambda one: (one, "pandas" in sys.modules), names={"one": int, "there": bool})
        assert found.sort("one").take_all() == [(1, False)]
