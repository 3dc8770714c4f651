"""`pagerank` against a dense power iteration and a graph whose ranks are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mr
from jobs.link_graph import link_graph
from jobs.pagerank import pagerank

EDGES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12)), min_size=1, max_size=30)
FEW = settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def dense(edges: set[tuple[Any, Any]], damping: float, steps: int) -> dict[Any, float]:
    """Ranks by a power iteration over a full matrix."""
    nodes = sorted({node for edge in edges for node in edge})
    at = {node: i for i, node in enumerate(nodes)}
    moves = np.zeros((len(nodes), len(nodes)))
    for src, dst in edges:
        moves[at[dst], at[src]] = 1
    degrees = moves.sum(0)
    moves = np.where(degrees > 0, moves / np.maximum(degrees, 1), 1 / len(nodes))
    ranks = np.full(len(nodes), 1 / len(nodes))
    for _ in range(steps):
        ranks = (1 - damping) / len(nodes) + damping * (moves @ ranks)
    return dict(zip(nodes, ranks.tolist(), strict=True))


@FEW
@given(edges=EDGES, steps=st.integers(0, 3), partitions=st.integers(1, 3))
def test_ranks_are_those_of_the_power_iteration(
    edges: list[tuple[int, int]], steps: int, partitions: int, tmp_path: Path, rows: Any
) -> None:
    pq.write_table(pa.table({"src": [a for a, _ in edges], "dst": [b for _, b in edges]}), tmp_path / "e.parquet")
    out = tmp_path / "out"
    with mr.Session(on="inline") as session:
        session.mode = "overwrite"
        pagerank([str(tmp_path / "e.parquet")], str(out), tolerance=0, max_iter=steps, partitions=partitions)
    found = {row["node"]: row["rank"] for row in rows(out)}
    assert found == pytest.approx(dense(set(edges), 0.85, steps), rel=1e-9)
    assert [row["rank"] for row in rows(out)] == sorted(found.values(), reverse=True)


def test_a_known_graph_of_text_pairs(tmp_path: Path, rows: Any) -> None:
    (tmp_path / "star.txt").write_text("# to the hub\na hub\nb hub\n\nc hub\na hub\n")
    result = pagerank([str(tmp_path / "star.txt")], str(tmp_path / "out"), tolerance=1e-2, partitions=2)
    found = {row["node"]: row["rank"] for row in rows(tmp_path / "out")}
    leaf = 1 / (4 + 3 * 0.85)  # leaf = 0.15/4 + 0.85 hub/4, hub = leaf + 0.85 * 3 leaf, all together 1
    assert found == pytest.approx({"hub": leaf * (1 + 3 * 0.85), "a": leaf, "b": leaf, "c": leaf}, abs=1e-2)
    assert [row["node"] for row in rows(tmp_path / "out")] == ["hub", "a", "b", "c"]
    assert result.tasks_run > 50  # what the loop ran is told, too
    again = pagerank([str(tmp_path / "star.txt")], str(tmp_path / "out"), tolerance=1e-2, partitions=2)
    assert (again.state, again.tasks_run) == ("up to date", 0)


def test_it_stops_when_ranks_settle_and_takes_no_edges_at_all(tmp_path: Path, rows: Any) -> None:
    (tmp_path / "ring.csv").write_text("src,dst\n1,2\n2,3\n3,1\n")
    pagerank([str(tmp_path / "ring.csv")], str(tmp_path / "ring"), partitions=1)
    assert [tuple(row.values()) for row in rows(tmp_path / "ring")] == [(n, pytest.approx(1 / 3)) for n in (1, 2, 3)]
    pq.write_table(
        pa.table({"src": pa.array([], pa.string()), "dst": pa.array([], pa.string())}), tmp_path / "0.parquet"
    )
    pagerank([str(tmp_path / "0.parquet")], str(tmp_path / "none"), partitions=1)
    assert rows(tmp_path / "none") == []


@pytest.mark.slow
def test_the_links_of_a_real_site(data: Path, tmp_path: Path, rows: Any) -> None:
    link_graph(input=[str(data / "crawl" / "sqlite3.html.tar.zst")], output=str(tmp_path / "graph"))
    pagerank([str(tmp_path / "graph" / "edges")], str(tmp_path / "ranks"), tolerance=1e-9, partitions=2)
    edges = {(row["src"], row["dst"]) for row in rows(tmp_path / "graph" / "edges")}
    found = {row["node"]: row["rank"] for row in rows(tmp_path / "ranks")}
    assert found == pytest.approx(dense(edges, 0.85, 150), abs=1e-9)
    assert sum(found.values()) == pytest.approx(1)
