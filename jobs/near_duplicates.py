"""Documents that say nearly the same: pairs by the Jaccard similarity of their shingles, and clusters of them.

Input: text files, one a document; with `--pages` HTML pages as the web jobs read them. Output, a folder of
    pairs/     a, b (str: paths, a < b), jaccard (float), by a and b
    clusters/  cluster (str: the least path in it), path, of all documents that are in a pair, by both

    mr submit jobs/near_duplicates.py --input site.tar.zst --pages --output duplicates

A shingle is `--size` words (or characters) in a row. MinHash in bands (Broder 1997; Leskovec, Rajaraman, Ullman: Mining
of Massive Datasets, ch. 3) finds candidates: a pair of similarity s with probability 1 - (1 - s**rows)**bands. Each is
checked by its shingles' 64-bit hashes. Of documents with equal shingles the least path stands for the others.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import xxhash

import mr
from jobs import page_text
from jobs.charset import decode
from jobs.pages import read_pages

Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
WORD = r"[\p{L}\p{N}]+"
HASHES = pa.large_list(pa.uint64())
SIGNED = {"path": str, "digest": pa.uint64(), "shingles": HASHES, "bands": HASHES}


class Document(NamedTuple):
    """A text and where it is from."""

    path: str
    text: str


def mixed(x: Words) -> Words:
    """The 64 bits of each number well mixed (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


def shingles(texts: pl.Series, unit: str, size: int) -> tuple[Words, Ints]:
    """The hashes of the distinct shingles of all texts, ascending in each, and how many each text has."""
    units = texts.str.to_lowercase().str.extract_all(WORD if unit == "words" else r"(?s).")
    lengths = units.list.len().to_numpy().astype(np.int64)
    coded = units.explode(empty_as_null=False).to_arrow().dictionary_encode()
    known = [xxhash.xxh3_64_intdigest(word.encode()) for word in coded.dictionary.to_pylist()]
    hashes = np.array(known, np.uint64)[coded.indices.to_numpy()] if known else np.zeros(0, np.uint64)
    text = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(hashes))
    left = (np.cumsum(lengths)[text] - place) if len(text) else place  # units from here to the end of the text
    rolled = np.zeros(len(hashes), np.uint64)
    for ahead in range(size):
        there = np.where(left > ahead, hashes[np.minimum(place + ahead, len(hashes) - 1)], 0) if len(hashes) else rolled
        rolled = rolled * np.uint64(0x9E3779B97F4A7C15) + there
    whole = (left >= size) | ((left == lengths[text]) & (left < size))  # a short text is one shingle
    text, found = text[whole], mixed(rolled[whole])
    order = np.lexsort((found, text))
    text, found = text[order], found[order]
    fresh = np.ones(len(found), bool)
    fresh[1:] = (found[1:] != found[:-1]) | (text[1:] != text[:-1])
    return found[fresh], np.bincount(text[fresh], minlength=len(lengths))


def signed(documents: pl.DataFrame, unit: str, size: int, bands: int, rows: int) -> pa.Table:
    """Shingles and band hashes of each document (path, text) that has a shingle."""
    found, counts = shingles(documents["text"], unit, size)
    kept = documents["path"].filter(pl.Series(counts > 0))
    counts = counts[counts > 0]
    ends = np.cumsum(counts)
    starts = ends - counts
    made = np.zeros((len(kept), bands), np.uint64)
    for i in range(bands * rows if len(kept) else 0):
        seed = mixed(np.array([i + 1], np.uint64))
        least = np.minimum.reduceat(mixed(found ^ seed), starts)
        made[:, i // rows] = mixed(made[:, i // rows] + least + seed)
    digests = [xxhash.xxh3_64_intdigest(found[a:b].tobytes()) for a, b in zip(starts, ends, strict=True)]
    lists = pa.LargeListArray.from_arrays(pa.array(np.concatenate([[0], ends]), pa.int64()), pa.array(found))
    places = pa.array(np.arange(len(kept) + 1) * bands, pa.int64())
    bucketed = pa.LargeListArray.from_arrays(places, pa.array(made.ravel()))
    return pa.table([kept.to_arrow(), pa.array(digests, pa.uint64()), lists, bucketed], names=list(SIGNED))


def page_of(page: Any) -> Document:
    """The document in an HTML page (url, content_type, body)."""
    return Document(page.url, page_text.parse(decode(page.body, page.content_type)).text)


def components(links: mr.Dataset, partitions: int) -> mr.Dataset:
    """Rows (cluster, path) of all nodes of undirected `links` (a, b): a cluster is called by its least path."""
    both = links.select("a", "b").union(links.select(a="b", b="a"))
    ways = both.repartition(partitions, by="b").materialize()
    nodes = ways.select(path="b").distinct("path", num_partitions=partitions)
    labels = nodes.with_columns(cluster=pl.col("path")).materialize()
    while True:
        heard = ways.join(labels, left_on="b", right_on="path").select(path="a", heard="cluster")
        least = heard.group_by("path", num_partitions=partitions).agg(heard=mr.min("heard")).materialize()
        told = {"cluster": pl.min_horizontal("cluster", "heard"), "changed": pl.col("heard") < pl.col("cluster")}
        labels = labels.join(least, on="path").select("path", **told).materialize()
        if labels.filter(pl.col("changed")).count() == 0:
            return labels.select("cluster", "path")


@mr.job
def near_duplicates(
    input: list[str],
    output: str,
    *,
    pages: bool = False,
    unit: Literal["words", "characters"] = "words",
    size: int = 5,
    threshold: float = 0.8,
    bands: int = 32,
    rows: int = 4,
    partitions: int = 8,
) -> Any:
    """Find documents that say nearly the same, down to the similarity `--threshold`."""
    documents = mr.read_text_files(input) if not pages else read_pages(input).map(page_of)
    sign = partial(signed, unit=unit, size=size, bands=bands, rows=rows)
    marked = documents.map_batches(sign, batch_size=256, names=SIGNED).materialize()
    same = marked.group_by("digest").agg(first=mr.min("path"))
    known = marked.select("path", "digest").join(same, on="digest")
    copies = known.filter(pl.col("path") != pl.col("first")).select(a="first", b="path", jaccard=pl.lit(1.0))
    chosen = marked.join(same.select(path="first"), on="path", how="semi").materialize()
    banded = chosen.select("path", band="bands").explode("band")
    agree = banded.join(banded, on="band", strategy="sort_merge").filter(pl.col("path") < pl.col("path_right"))
    sets = chosen.select("path", "shingles")
    candidates = agree.select(a="path", b="path_right").distinct()
    held = candidates.join(sets, left_on="a", right_on="path").join(sets, left_on="b", right_on="path")
    common = pl.col("shingles").list.set_intersection("shingles_right").list.len()
    total = pl.col("shingles").list.len() + pl.col("shingles_right").list.len() - common
    near = held.select("a", "b", jaccard=common / total).filter(pl.col("jaccard") >= threshold)
    pairs = copies.union(near).materialize()
    return {
        "pairs": pairs.sort("a", "b").write_parquet(f"{output}/pairs"),
        "clusters": components(pairs, partitions).sort("cluster", "path").write_parquet(f"{output}/clusters"),
    }


if __name__ == "__main__":
    near_duplicates.main()
