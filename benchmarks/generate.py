"""Inputs of the benchmarks: generated from a seed, once, and kept in `benchmarks/.work`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

WORK = Path(__file__).parent / ".work"
BLOCK_WORDS = 2_000_000
LINE_WORDS_MAX = 19


def vocabulary(rng: np.random.Generator, words: int) -> pa.Array:
    """`words` different words, as long as English ones are: the frequent ones, which come first, are short."""
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgk", dtype="S1")
    found: dict[bytes, None] = {}
    while len(found) < words:
        for word in rng.choice(letters, size=(words, 9)).view("S9").ravel().tolist():
            length = 1 + (len(found) + 1).bit_length() * 2 // 5 + word[-1] % 3
            found[word[:length]] = None
            if len(found) == words:
                break
    return pa.array(list(found), pa.binary()).cast(pa.string())


def zipf_text(size_bytes: int, seed: int = 1, words: int = 100_000, exponent: float = 1.0) -> Path:
    """A text of about `size_bytes` whose words follow Zipf's law, in lines of 1 to 19 words; the path of the file."""
    path = WORK / f"zipf-{size_bytes}-{seed}-{words}-{exponent}.txt"
    if path.exists():
        return path
    WORK.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    known = vocabulary(rng, words)
    weights = np.cumsum(np.arange(1, words + 1) ** -exponent)
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as out:
        while out.tell() < size_bytes:
            lines = _lines(rng, known, weights)
            out.write(lines[: lines.find(b"\n", size_bytes - out.tell()) + 1] or lines)
    os.replace(unfinished, path)
    return path


def _lines(rng: np.random.Generator, known: pa.Array, weights: np.ndarray) -> bytes:
    drawn = np.searchsorted(weights, rng.random(BLOCK_WORDS) * weights[-1])
    ends = np.cumsum(rng.integers(1, LINE_WORDS_MAX + 1, size=BLOCK_WORDS // 5))
    ends = ends[ends <= BLOCK_WORDS]
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    lines = pc.binary_join(pa.ListArray.from_arrays(offsets, known.take(pa.array(drawn))), " ")
    whole = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(lines)], pa.int32()), lines), "\n")
    return bytes(whole[0].as_buffer()) + b"\n"
