"""Inputs of the benchmarks: generated from a seed, once, and kept in `benchmarks/.work`.

Each is written under another name and renamed when it is whole, so an interrupted run leaves none that looks finished.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from examples.generate_log import day_lines, make_site

WORK = Path(__file__).parent / ".work"
BLOCK_WORDS = 2_000_000
LINE_WORDS_MAX = 19
BLOCK_ROWS = 1_000_000
RECORD_BYTES = 100
LOG_BLOCK_LINES = 250_000
LOG_URLS, LOG_HOSTS = 20_000, 100_000
SEGMENTS = 1_000
KNOWN_KEYS_OF_101 = 100  # so many of 101 keys of the facts have a dimension
HOT_OF_100 = 99


def _written(name: str, write: Callable[[BinaryIO], None]) -> Path:
    """The file `name` in WORK; `write` fills it if it is not there."""
    path = WORK / name
    if not path.exists():
        WORK.mkdir(exist_ok=True)
        unfinished = path.with_name(name + ".unfinished")
        with unfinished.open("wb") as out:
            write(out)
        os.replace(unfinished, path)
    return path


def _parquet(name: str, batches: Callable[[], Iterable[pa.RecordBatch]]) -> Path:
    """The Parquet file `name` in WORK, a row group a batch."""

    def write(out: BinaryIO) -> None:
        writer = None
        for batch in batches():
            writer = writer or pq.ParquetWriter(out, batch.schema)
            writer.write_batch(batch)
        if writer is not None:
            writer.close()

    return _written(name, write)


def _blocks(rows: int, block: int) -> Iterator[tuple[int, int]]:
    return ((first, min(block, rows - first)) for first in range(0, rows, block))


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

    def write(out: BinaryIO) -> None:
        rng = np.random.default_rng(seed)
        known = vocabulary(rng, words)
        weights = np.cumsum(np.arange(1, words + 1) ** -exponent)
        while out.tell() < size_bytes:
            lines = _lines(rng, known, weights)
            out.write(lines[: lines.find(b"\n", size_bytes - out.tell()) + 1] or lines)

    return _written(f"zipf-{size_bytes}-{seed}-{words}-{exponent}.txt", write)


def _lines(rng: np.random.Generator, known: pa.Array, weights: np.ndarray) -> bytes:
    drawn = np.searchsorted(weights, rng.random(BLOCK_WORDS) * weights[-1])
    ends = np.cumsum(rng.integers(1, LINE_WORDS_MAX + 1, size=BLOCK_WORDS // 5))
    ends = ends[ends <= BLOCK_WORDS]
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    lines = pc.binary_join(pa.ListArray.from_arrays(offsets, known.take(pa.array(drawn))), " ")
    whole = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(lines)], pa.int32()), lines), "\n")
    return bytes(whole[0].as_buffer()) + b"\n"


def records(lines: int, seed: int = 1) -> Path:
    """`lines` lines of 100 bytes: 99 random printable ones and a newline; the path of the file."""

    def write(out: BinaryIO) -> None:
        rng = np.random.default_rng(seed)
        for _, rows in _blocks(lines, BLOCK_ROWS):
            block = rng.integers(33, 127, size=(rows, RECORD_BYTES), dtype=np.uint8)
            block[:, -1] = ord("\n")
            out.write(block)

    return _written(f"records-{lines}-{seed}.txt", write)


def access_log(size_bytes: int, seed: int = 1) -> Path:
    """A combined log of about `size_bytes`, as `examples/generate_log.py` makes it; the path of the file."""

    def write(out: BinaryIO) -> None:
        site = make_site(seed, LOG_URLS, LOG_HOSTS)
        day = 0
        while out.tell() < size_bytes:
            text = ("\n".join(day_lines(site, seed, day, LOG_BLOCK_LINES)) + "\n").encode()
            out.write(text[: text.find(b"\n", size_bytes - out.tell()) + 1] or text)
            day += 1

    return _written(f"access-{size_bytes}-{seed}.log", write)


def _customers(numbers: npt.NDArray[np.int64]) -> pa.Array:
    """Keys as text: "customer-" and the number in eight digits."""
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width=8, padding="0")
    return pc.binary_join_element_wise("customer-", digits, "")


def dimension(rows: int, seed: int = 1) -> Path:
    """A Parquet file of `rows` rows (customer: str, distinct; segment: str), in random order."""

    def batches() -> Iterator[pa.RecordBatch]:
        rng = np.random.default_rng([seed, 1])
        customers = rng.permutation(rows)
        names = pa.array([f"segment-{number:03}" for number in range(SEGMENTS)])
        for first, count in _blocks(rows, BLOCK_ROWS):
            segments = names.take(pa.array(rng.integers(0, SEGMENTS, size=count)))
            yield pa.record_batch({"customer": _customers(customers[first : first + count]), "segment": segments})

    return _parquet(f"dimension-{rows}-{seed}.parquet", batches)


def facts(rows: int, customers: int, seed: int = 1, exponent: float = 1.0) -> Path:
    """A Parquet file of `rows` rows (customer: str, by Zipf's law; amount: int64).

    One in a hundred of the customers, whatever their rank, is not in `dimension(customers)`.
    """

    def batches() -> Iterator[pa.RecordBatch]:
        rng = np.random.default_rng([seed, 2])
        keys = customers * (KNOWN_KEYS_OF_101 + 1) // KNOWN_KEYS_OF_101
        by_rank = rng.permutation(keys)
        weights = np.cumsum(np.arange(1, keys + 1) ** -exponent)
        for _, count in _blocks(rows, BLOCK_ROWS):
            drawn = np.searchsorted(weights, rng.random(count) * weights[-1])
            amounts = pa.array(rng.integers(1, 10_000, size=count))
            yield pa.record_batch({"customer": _customers(by_rank[drawn]), "amount": amounts})

    return _parquet(f"facts-{rows}-{customers}-{seed}-{exponent}.parquet", batches)


def distinct_keys(rows: int) -> Path:
    """A Parquet file of `rows` rows (customer: str, no two alike, in no order; amount: int64, 0 to 9)."""

    def batches() -> Iterator[pa.RecordBatch]:
        for first, count in _blocks(rows, BLOCK_ROWS):
            numbers = np.arange(first, first + count)
            mixed = numbers * 40_503_401 % 100_000_007  # a prime above `rows`: a permutation of the numbers below it
            yield pa.record_batch({"customer": _customers(mixed), "amount": pa.array(numbers % 10)})

    if rows > 100_000_000:
        raise ValueError("at most 100,000,000 distinct keys")
    return _parquet(f"distinct-{rows}.parquet", batches)


def hot_key(rows: int, seed: int = 1) -> Path:
    """A Parquet file of `rows` rows (customer: str; amount: int64): customer 0 in 99 % of the rows, others rarely."""

    def batches() -> Iterator[pa.RecordBatch]:
        rng = np.random.default_rng([seed, 3])
        for _, count in _blocks(rows, BLOCK_ROWS):
            cold = rng.integers(1, max(2, rows // 100), size=count)
            customers = np.where(rng.integers(0, 100, size=count) < HOT_OF_100, 0, cold)
            yield pa.record_batch({"customer": _customers(customers), "amount": pa.array(cold % 10)})

    return _parquet(f"hot-{rows}-{seed}.parquet", batches)
