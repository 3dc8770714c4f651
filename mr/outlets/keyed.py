"""Rows that are grouped by keys: combined by blocks, their keys canonical; in buckets (`hashed`) or in order (here)."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from mr.aggregates.sums import Count
from mr.batch import Batch, CodedBatch, decoded
from mr.kernels.gather import taken
from mr.kernels.keys import normalise_keys
from mr.kernels.sort import order
from mr.kernels.tokens import WordCounts
from mr.operators.base import Combiner
from mr.operators.grouped import AggregateStates
from mr.operators.text import WordBatch
from mr.options import WORDS_HELD_BYTES_MAX
from mr.outlets.base import RunOutlet
from mr.program import RangeOutlet
from mr.shuffle.writer import RunWriter
from mr.tasks import Output


def _counts_rows(combiner: Combiner | None) -> bool:
    """Whether all that is wanted of each key is how many rows have it."""
    if not isinstance(combiner, AggregateStates):
        return False
    return all(isinstance(count, Count) and count.column is None for _, count in combiner.aggregates)


class KeyedRun(RunOutlet):
    """Base of the outlets whose rows are grouped by `keys` where they are read."""

    def __init__(
        self,
        index: int,
        path: Path,
        attempt: str,
        settled: pa.Schema | None,
        keys: tuple[str, ...],
        combiner: Combiner | None,
        memory_bytes: int,
    ) -> None:
        super().__init__(index, path, attempt, settled, combiner, memory_bytes)
        self._keys = keys
        self._word_counts = WordCounts()

    def take(self, batch: Batch) -> None:
        combiner = self._combiner
        if isinstance(batch, CodedBatch) and isinstance(combiner, AggregateStates):
            self.write(decoded(batch.coded, combiner.keys))
            return
        if not isinstance(batch, WordBatch) or not _counts_rows(combiner):
            super().take(batch)
            return
        self._exact = True
        self._fed += len(batch.starts)
        self._word_counts.add(batch.text, batch.starts, batch.lengths)
        if self._word_counts.held_bytes >= WORDS_HELD_BYTES_MAX:
            self._add_words()

    def _add_words(self) -> None:
        assert isinstance(self._combiner, AggregateStates)
        words, numbers = self._word_counts.take()
        if len(words):
            names = [f"{out}.{part}" for out, count in self._combiner.aggregates for part in count.parts]
            columns = [words.view(pa.large_string()), *(pa.array(numbers) for _ in names)]
            self._add(pa.RecordBatch.from_arrays(columns, [*self._combiner.keys, *names]))

    def finish(self) -> Output:
        if _counts_rows(self._combiner):
            self._add_words()
        return super().finish()

    def ready(self, data: pa.RecordBatch) -> pa.RecordBatch:
        coded = {field.name for field in data.schema if pa.types.is_dictionary(field.type)}
        return normalise_keys(data, [key for key in self._keys if key not in coded])


class GroupedRangeRun(KeyedRun):
    """Runs of combined rows sorted by their keys as a whole, for a grouping whose result is sorted by them."""

    def __init__(
        self, index: int, path: Path, attempt: str, settled: pa.Schema | None, spec: RangeOutlet, memory_bytes: int
    ) -> None:
        super().__init__(index, path, attempt, settled, spec.by, spec.combiner, memory_bytes)
        self._spec = spec

    def append(self, writer: RunWriter, data: pa.RecordBatch) -> None:
        writer.append_sorted_run(taken(data, order(data, self._spec.by, self._spec.descending)), self._spec.by)
