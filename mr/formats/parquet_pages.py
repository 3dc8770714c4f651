"""What a Parquet file would take in memory, seen in the heads of its pages before Arrow makes room for them.

A page names its size when decompressed, up to 2 GiB, and Arrow believes it. A dictionary holds each value once: a few
stored kilobytes can become gigabytes of rows. `PageWatch` stands between Arrow and the file and looks at what is read.
"""

from __future__ import annotations

from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mr.errors import CorruptInput
from mr.formats.thrift import fields
from mr.options import PARQUET_DECODED_BYTES_MAX, PARQUET_PAGES_BYTES_MAX

_HEAD_BYTES_MAX: Final = 1 << 20
_DICTIONARY_BYTES_MIN: Final = 1 << 16
_DICTIONARY_VALUES_MAX: Final = 1 << 14
_VALUE_BYTES_MIN: Final = 16
"""Dictionaries of many or of short values, as most are, are not looked into: it takes as long as reading their rows."""

_PROBE_ROWS: Final = 256
_UNCOMPRESSED, _COMPRESSED, _DICTIONARY = 2, 3, 7  # fields of a page's head
_VALUES: Final = 1  # of a dictionary's


class LongValues(Exception):
    """A dictionary has long values: rows may take far more memory than they take in the file. `bytes` is its size."""

    def __init__(self, bytes_: int) -> None:
        super().__init__(bytes_)
        self.bytes = bytes_


class PageWatch:
    """A Parquet file that Arrow reads a column chunk at a time, from its beginning, in one or many reads.

    While a group is read (`begin`): raises `CorruptInput` where the pages that its columns hold at once are larger
    than PARQUET_PAGES_BYTES_MAX, and, if `careful`, `LongValues` where a dictionary has long values.
    """

    closed = False

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self._path = path
        self._watching = self._careful = False
        self._read_bytes = 0
        self._held_bytes = 0
        self._chunks: dict[int, _Chunk] = {}  # by the place where the next read of each begins

    def begin(self, careful: bool, read_bytes: int) -> None:
        """From now on one group is read, from its beginning; `read_bytes` at a time (0: each column chunk at once)."""
        self._watching, self._careful, self._read_bytes = True, careful, read_bytes
        self._held_bytes, self._chunks = 0, {}

    def read(self, size: int = -1) -> bytes:
        """The next bytes, looked at. Raises as the class says."""
        at = self._file.tell()
        data = self._file.read(size)
        if self._watching and data:
            chunk = self._chunks.pop(at, None) or _Chunk()
            before = chunk.page_bytes
            long_bytes = chunk.feed(data)
            if 0 < self._read_bytes <= size:  # a shorter read is a chunk's last
                self._chunks[at + len(data)] = chunk
            self._held_bytes += chunk.page_bytes - before
            if self._held_bytes > PARQUET_PAGES_BYTES_MAX:
                most = f"decompressed pages of more than {PARQUET_PAGES_BYTES_MAX:,} bytes at once"
                cure = "is it a decompression bomb? Else write it in smaller pages"
                raise CorruptInput(self._path, at, f"{most}; {cure}")
            if self._careful and long_bytes:
                raise LongValues(long_bytes)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of any file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of any file."""
        return self._file.tell()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def writable(self) -> bool:
        """It is not."""
        return False

    def close(self) -> None:
        """Whoever opened the file closes it."""


class _Chunk:
    """The pages of one column chunk, as far as it was read."""

    def __init__(self) -> None:
        self.page_bytes = 0  # of the largest page, decompressed
        self._skip = 0  # bytes until the next head
        self._rest = b""  # of a head that is not there as a whole
        self._lost = False  # something that is no head was met: Arrow will say so, too

    def feed(self, data: bytes) -> int:
        """Look at the next bytes; the size of a dictionary with long values that begins in them, 0 if none does."""
        data, self._rest, at, found = self._rest + data, b"", self._skip, 0
        while at < len(data) and not self._lost:
            try:
                head, end = fields(data, at)
            except IndexError:
                self._rest = data[at:]
                self._lost = len(self._rest) > _HEAD_BYTES_MAX
                at = len(data)
                break
            except ValueError:
                self._lost = True
                break
            size, stored = head.get(_UNCOMPRESSED, -1), head.get(_COMPRESSED, -1)
            if not isinstance(size, int) or not isinstance(stored, int) or size < 0 or stored < 0:
                self._lost = True
                break
            self.page_bytes = max(self.page_bytes, size)
            found = max(found, size if _has_long_values(head.get(_DICTIONARY), size) else 0)
            at = end + stored
        self._skip = at - len(data)
        return found


def _has_long_values(dictionary: Any, size: int) -> bool:
    """Whether the values of a dictionary page of `size` bytes are few and long on average."""
    values = dictionary.get(_VALUES) if isinstance(dictionary, dict) else None
    if not isinstance(values, int) or size < _DICTIONARY_BYTES_MIN:
        return False
    return 0 < values <= _DICTIONARY_VALUES_MAX and size > _VALUE_BYTES_MIN * values


def rows_of_long_values(
    file: pq.ParquetFile, watch: PageWatch, group: int, columns: list[str], dictionary_bytes: int
) -> int:
    """How many rows of a group may be decoded at a time, by the longest value of its dictionaries.

    `dictionary_bytes` stands for it where the first rows show no dictionary.
    """
    leaves = [file.schema.column(i) for i in range(len(file.schema))]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.path.split(".")[0] in columns]
    watch.begin(careful=False, read_bytes=0)
    found = pq.ParquetFile(watch, metadata=file.metadata, read_dictionary=texts, pre_buffer=False)
    batches = found.iter_batches(_PROBE_ROWS, row_groups=[group], columns=columns, use_threads=False)
    longest = max((_longest(column) for column in next(batches).columns), default=0)
    return int(max(1, PARQUET_DECODED_BYTES_MAX // (longest or dictionary_bytes)))


def _longest(array: pa.Array) -> int:
    """The length of the longest value in the dictionaries of an array."""
    type_ = array.type
    if pa.types.is_dictionary(type_):
        return pc.max(pc.binary_length(array.dictionary)).as_py() or 0
    if pa.types.is_struct(type_):
        children = [array.field(i) for i in range(type_.num_fields)]
    elif pa.types.is_map(type_):
        children = [array.keys, array.items]
    else:
        children = [array.values] if type_.num_fields else []
    return max(map(_longest, children), default=0)
