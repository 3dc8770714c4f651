"""`near_duplicates` against the Jaccard similarity of every pair, in plain Python, and on a real crawl."""

from __future__ import annotations

import random
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import mr
from jobs.near_duplicates import components, near_duplicates, shingles


def sets_of(text: str, unit: str, size: int) -> set[tuple[str, ...]]:
    units = re.findall(r"[^\W_]+", text.lower()) if unit == "words" else list(text.lower())
    return {tuple(units[i : i + size]) for i in range(max(len(units) - size, 0) + 1)} if units else set()


def jaccard(a: set[Any], b: set[Any]) -> float:
    return len(a & b) / len(a | b)


def corpus(seed: int) -> dict[str, str]:
    """Texts, some of them copies with a few words changed, two equal, some short or empty."""
    chosen = random.Random(seed)
    words = [f"w{i}" for i in range(60)]
    texts = {f"{i:02d}.txt": " ".join(chosen.choices(words, k=chosen.randrange(1, 120))) for i in range(20)}
    for name, text in list(texts.items())[:12]:
        copy = text.split()
        for _ in range(chosen.randrange(3)):
            copy[chosen.randrange(len(copy))] = "Straße"
        texts[f"copy-{name}"] = " ".join(copy)
    return texts | {"empty.txt": "", "blank.txt": " \n", "one.txt": "w1", "same.txt": texts["19.txt"].upper() + "."}


def write(folder: Path, texts: dict[str, str]) -> str:
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text)
    return str(folder)


@pytest.mark.parametrize(("unit", "size", "threshold"), [("words", 3, 0.5), ("characters", 6, 0.7)])
def test_all_pairs_above_the_threshold_are_found(
    unit: Any, size: int, threshold: float, tmp_path: Path, rows: Any
) -> None:
    texts = corpus(size)
    folder, out = write(tmp_path / "in", texts), tmp_path / "out"
    # so many bands of one row that a pair at the threshold is missed once in 10**19 times
    near_duplicates([folder], str(out), unit=unit, size=size, threshold=threshold, bands=64, rows=1, partitions=2)
    sets = {name: sets_of(text, unit, size) for name, text in texts.items() if sets_of(text, unit, size)}
    least = {name: min(other for other in sets if sets[other] == sets[name]) for name in sets}
    expected = {
        (a, b): jaccard(sets[a], sets[b])
        for a, b in combinations(sorted(sets), 2)
        if jaccard(sets[a], sets[b]) >= threshold and (least[b] == a or (least[a], least[b]) == (a, b))
    }
    found = {(Path(row["a"]).name, Path(row["b"]).name): row["jaccard"] for row in rows(out / "pairs")}
    assert found == pytest.approx(expected)
    assert any(similarity < 1 for similarity in found.values())
    assert any(similarity == 1 for similarity in found.values())
    assert {Path(row["path"]).name for row in rows(out / "clusters")} == {name for pair in found for name in pair}


def test_the_shingles_of_texts_are_those_of_plain_python() -> None:
    texts = ["", "a", "a b", "A b a b a b", "c, a b? c a b!", "", "x y z"]
    for size in (1, 2, 3, 5):
        hashes, counts = shingles(pl.Series(texts), "words", size)
        assert counts.tolist() == [len(sets_of(text, "words", size)) for text in texts]
        of = {text: set(hashes[sum(counts[:i]) : sum(counts[: i + 1])].tolist()) for i, text in enumerate(texts)}
        for one, other in combinations(set(texts), 2):
            assert len(of[one] & of[other]) == len(sets_of(one, "words", size) & sets_of(other, "words", size))


def test_clusters_are_the_connected_components() -> None:
    chain = [(f"{i:02d}", f"{i + 1:02d}") for i in range(5)]
    links = mr.from_items([*chain, ("x", "z"), ("y", "z")], names={"a": str, "b": str})
    found = components(links, 2).sort("cluster", "path").take_all()
    assert found == [*(("00", f"{i:02d}") for i in range(6)), ("x", "x"), ("x", "y"), ("x", "z")]
    assert components(links.filter(pl.col("a") == ""), 2).count() == 0


@pytest.mark.slow
def test_the_duplicates_of_a_real_site(data: Path, tmp_path: Path, rows: Any) -> None:
    near_duplicates([str(data / "crawl" / "sqlite3.html.tar.zst")], str(tmp_path / "out"), pages=True)
    pairs = rows(tmp_path / "out" / "pairs")
    assert sum(row["jaccard"] == 1 for row in pairs) == 2
    assert all(row["jaccard"] >= 0.8 and row["a"] < row["b"] for row in pairs)
    named = {(Path(row["a"]).name, Path(row["b"]).name): row["jaccard"] for row in pairs}
    assert named["fileformat.html", "fileformat2.html"] == 1
