"""PageRank: how important each node of a directed graph is, by the importance of those that point to it.

Input: edges src, dst as Parquet (as `link_graph` writes them), CSV with a header, or text (two words a line, `#` begins
a comment line). Output: rows of node, rank (float, all ranks sum to 1), highest rank first, equal ranks by node.

    mr submit jobs/pagerank.py --input graph/edges --output ranks

A surfer follows an edge of the node with the probability `damping` and jumps to any node otherwise; from a node without
edges (a dangling one) always to any node (Page, Brin, Motwani, Winograd: The PageRank Citation Ranking, 1998). Several
edges from one node to another count once. Links and ranks stay partitioned by node, so the join in the loop moves
nothing; only the ranks that flow along edges are shuffled, summed up for each target before.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, Literal

import polars as pl

import mr

Format = Literal["parquet", "csv", "text"]


def pair(line: str) -> tuple[str, str]:
    """The two words of a line.

    >>> pair("a b")
    ('a', 'b')
    """
    src, dst = line.split()
    return src, dst


def read_edges(input: list[str], format: Format | None) -> mr.Dataset:
    """The edges in `input`, each once; the format is told by the extension of the first if it is not given."""
    if format is None:
        suffix = PurePath(input[0]).suffix
        format = "csv" if suffix == ".csv" else "text" if suffix in (".txt", ".tsv") else "parquet"
    if format == "text":
        lines = mr.read_text(input).filter(~pl.col("value").str.contains(r"^\s*(#|$)"))
        edges = lines.map(pair, names={"src": str, "dst": str})
    else:
        edges = mr.read_csv(input) if format == "csv" else mr.read_parquet(input)
    return edges.select("src", "dst").distinct()


def step(ranks: mr.Dataset, links: mr.Dataset, lost: float, n: int, damping: float, partitions: int) -> mr.Dataset:
    """The ranks (node, degree, rank) after one more step, with the rank `before` it. `lost`: that of dangling nodes."""
    flow = links.join(ranks, left_on="src", right_on="node").select(
        node=pl.col("dst"), share=pl.col("rank") / pl.col("degree")
    )
    inflow = flow.group_by("node", num_partitions=partitions).agg(inflow=mr.sum("share")).materialize()
    arrived = pl.col("inflow").fill_null(0.0) + lost / n
    return (
        ranks.select("node", "degree", before=pl.col("rank"))
        .join(inflow, on="node", how="left")
        .select("node", "degree", "before", rank=(1 - damping) / n + damping * arrived)
        .materialize()
    )


@mr.job
def pagerank(
    input: list[str],
    output: str,
    *,
    damping: float = 0.85,
    tolerance: float = 1e-6,
    max_iter: int = 100,
    partitions: int = 16,
    format: Format | None = None,
) -> Any:
    """Rank the nodes of a graph.

    Stops when the ranks change by less than `--tolerance` altogether (the sum of absolute differences), or after
    `--max-iter` steps.
    """
    edges = read_edges(input, format)
    links = edges.repartition(partitions, by="src").materialize()
    ends = links.select(node="src", out=pl.lit(1)).union(links.select(node="dst", out=pl.lit(0)))
    nodes = ends.group_by("node", num_partitions=partitions).agg(degree=mr.sum("out")).materialize()
    n = nodes.count()
    ranks = nodes.with_columns(rank=pl.lit(1 / max(n, 1)))
    lost = ranks.filter(pl.col("degree") == 0).agg(rank=mr.sum("rank")).first().rank or 0.0
    for _ in range(max_iter if n else 0):
        ranks = step(ranks, links, lost, n, damping, partitions)
        moved = ranks.with_columns(
            change=(pl.col("rank") - pl.col("before")).abs(),
            lost=pl.when(pl.col("degree") == 0).then(pl.col("rank")).otherwise(0.0),
        )
        change, lost = moved.agg(change=mr.sum("change"), lost=mr.sum("lost")).first()
        if change < tolerance:
            break
    return ranks.select("node", "rank").sort("rank", "node", descending=[True, False]).write_parquet(output)


if __name__ == "__main__":
    pagerank.main()
