"""Every limit of the engine: its default, its unit in its name, why it is so, and whether it reaches a byte of data.

Limits that reach data (`affects_bytes`) are constants of the format: they are part of every fingerprint and cannot be
set by a user. The others may change between two runs of the same job without changing its output.
"""

from __future__ import annotations

from typing import Final

MIB: Final = 1 << 20

# --- affects bytes: changing one is a new engine version -------------------------------------------------------------
BUCKETS: Final = 256
"""Hash buckets of a shuffle. A constant, so that the cluster's size never reaches data ..."""

BUCKET_CLASSES: Final = ((-1, BUCKETS), (64 << 30, 4096), (4 << 40, 65_536))
"""... but for inputs of more bytes than the first number, which get so many: a reduce task shall have about 32 MiB."""

PINNED: Final = {
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""The environment that a Python needs from its start to run tasks: order of sets, sums of kernel libraries, and large
pages for large blocks, which are touched for the first time in fewer steps."""

COMBINE_BLOCK_ROWS: Final = 262_144
"""Rows that one partial aggregate covers, counted from the split's start: float sums depend on it."""

WORDS_HELD_BYTES_MAX: Final = 8 * MIB
"""Words that a count holds one by one, having no room for them in its tables, before it writes what it has counted."""

REDUCE_RANGE_BYTES_MAX: Final = 32 * MIB
"""A reduce task covers an aligned range of buckets of at most this many real bytes, or one bucket ..."""

REDUCE_ALONE_BYTES_MAX: Final = 8 * MIB
"""... and all buckets only if they have at most so many: what follows a large map stage does not run on one core."""

RUN_BYTES_MAX: Final = 64 * MIB
"""A map task sorts and appends a run after this many bytes of rows, counted from the split's start ..."""

RUN_ROWS_MAX: Final = 1 << 20
"""... or after so many: finding their order takes 80 bytes a row, however narrow they are, and their groups 200."""

RECOMBINE_SHARE_MAX: Final = 0.5
"""Blocks of a run are combined with each other where each left at most this share of its rows: else there is little to
gain, and reducing is the reduce tasks' work anyway."""

ROW_GROUP_ROWS: Final = 262_144
"""Rows of every Parquet row group but the last ..."""

ROW_GROUP_BYTES_MAX: Final = 64 * MIB
"""... unless it has so many bytes before: a group is held in memory while it is written."""

PART_BYTES_MAX: Final = 128 * 1000 * 1000
"""A task begins a new part of an output after so many bytes of uncompressed rows, if the user does not say ..."""

PART_BLOCK_ROWS: Final = 8192
"""... looked at behind every so many rows, so that how rows came in batches never moves the cut."""

DICTIONARY_SAMPLE_ROWS: Final = 65_536
"""A Parquet column gets a dictionary if at most half of so many of its first values are different."""

GZIP_LEVEL: Final = 6
"""That of the gzip command: the library's 9 takes three times as long for a per cent less."""

COMPRESSED_BLOCK_BYTES: Final = 1 * MIB
"""Compressors of text outputs are given blocks of this size: where writes end must not reach their bytes."""

ARROW_BATCH_ROWS: Final = 65_536
"""Rows of every record batch of an Arrow file but the last."""

FREQUENT_KEYS_MAX: Final = 64
"""A map task of a join reports at most so many of its frequent keys ..."""

FREQUENT_ROWS_MIN: Final = 1024
"""... each with at least so many rows: two such keys on both sides match a million times."""

HOT_JOIN_ROWS: Final = 4 * 1024 * 1024
"""A join splits a key that has more matches into tasks of about so many, or of REDUCE_RANGE_BYTES_MAX of left rows."""

SORT_BLOCK_BYTES: Final = 64 * 1024
"""Sorted runs are indexed (first key, position) every so many bytes: a range reads that much of a run in vain ..."""

SORT_BLOCK_ROWS_MIN: Final = 256
"""... and at least every so many rows, so that the index of long keys stays small beside the rows."""

PAGE_BYTES: Final = 256 * 1024
"""Runs are checked page by page: a task reads a part of each, and checks no more than it reads."""

LOCAL_SPLIT_BYTES: Final = 16 * MIB
"""A splittable local file is cut about every so many bytes, then forward to the next record end ..."""

LARGE_FILE_BYTES: Final = 512 * MIB
"""... and one of so many bytes into splits of lines twice as long: it has enough of them for every core, and a task
counts on its own, so that half as many leave fewer counts to be merged."""

PACK_BYTES_MAX: Final = 64 * MIB
"""Small files are packed into one split up to this many bytes ..."""

PACK_CLOSE_BITS: Final = 6
"""... or until a file whose content id ends in this many zero bits: where a pack ends depends on content alone."""

PACKED_FILE_BYTES_MAX: Final = 4 * MIB
"""Files up to this size are packed with their neighbours."""

READ_BLOCK_BYTES: Final = 4 * MIB
"""Readers turn about so many bytes into one batch."""

MERGE_BLOCK_BYTES: Final = 256 * 1024
"""Batches in which rows of a run are read where they are merged: what a bounded merge holds of each run."""

PYTHON_BATCH_ROWS: Final = 8192
"""Rows handed to a user's Python function at a time: small enough to stay in cache, large enough to amortise."""

SAMPLE_ROWS: Final = 16_384
"""By so many rows of a block it is judged whether its keys repeat, else combining it would be in vain."""

GROUP_BATCH_ROWS: Final = 65_536
"""A batch of `group_by(...).map_batches` ends with the group that has its row of this number."""

RECORD_BYTES_MAX: Final = 64 * MIB
"""A longer record is an error or a reject (a file without line ends is usually not text)."""

REJECT_RAW_BYTES_MAX: Final = 1000
"""So many bytes of such a record are shown in its reject."""

RESULT_ROWS: Final = 65_536
"""Results of aggregates are made for so many groups at a time: a histogram of each may be larger than its states."""

# --- does not affect bytes -------------------------------------------------------------------------------------------
FILE_RECORD_BYTES_MAX: Final = 512 * MIB
"""A file that is one record (read_text_files, read_binary_files) may be larger than a line, but must fit a worker."""

DECOMPRESSED_BYTES_MAX: Final = 64 * 1024 * MIB
"""A compressed file that yields more is refused as a decompression bomb ..."""

DECOMPRESSED_RATIO_MAX: Final = 1000
"""... and so is one that yields more than so many times its size (gzip's most is 1,032:1, real logs reach 30:1) ..."""

DECOMPRESSED_FREE_BYTES: Final = 1024 * MIB
"""... once so much has come out: small files may compress absurdly well."""

XZ_MEMORY_BYTES_MAX: Final = 128 * MIB
"""Of one decoder of .xz: `xz -9` needs 65 MiB, a hostile header may ask for 4 GiB."""

ARROW_DECODED_BYTES_MAX: Final = 256 * MIB
"""Of a compressed record batch of an Arrow file; a larger one may not be over DECOMPRESSED_RATIO_MAX times its size."""

PARQUET_PAGES_BYTES_MAX: Final = 256 * MIB
"""Of the decompressed pages that the columns of a row group hold at once: files in use have pages of 1 to 8 MiB."""

PARQUET_DECODED_BYTES_MAX: Final = 32 * MIB
"""Rows of a Parquet file are decoded so many at a time that a column's are no larger, if all were its longest value."""

PARQUET_GROUP_BYTES_MAX: Final = 64 * MIB
"""Column chunks of larger row groups are read a piece at a time instead of whole ..."""

PARQUET_READ_BYTES: Final = 1 * MIB
"""... of so many bytes."""

PARTITIONS_PER_TASK_MAX: Final = 10_000
"""A task that would write more folders is refused: `partition_by=` names a column that is nearly unique."""

ATTEMPTS_MAX: Final = 4
"""A task whose code failed so often fails the job."""

LOST_MAX: Final = 20
"""A task whose worker died so often fails the job: it probably kills its workers."""

NO_PROGRESS_SECONDS: Final = 600.0
"""An attempt that reports nothing for so long is killed and counted as failed."""

SHARED_KEPT: Final = 16
"""Broadcast values and resources that a worker keeps; the least recently used goes first."""

BROADCAST_BYTES_MAX: Final = 10 * 1000 * 1000
"""`join(strategy="auto")` broadcasts a right side up to this size."""

JOIN_BLOCK_BYTES: Final = 4 * MIB
"""Joined rows are gathered about so many bytes at a time: one key may have more matches than fit memory."""

MASTER_MEMORY_BYTES: Final = 96 * MIB
"""Of `--memory`: what the master and the process that workers are forked from hold (75 MB idle, measured) ..."""

WORKER_MEMORY_BYTES: Final = 56 * MIB
"""... and what a worker holds between attempts (21 MB at first; modules and freed memory that it touches add to it)."""

ATTEMPT_MEMORY_BYTES_MIN: Final = 256 * MIB
"""An attempt is not run with less: a run of `RUN_ROWS_MAX` rows, its sorted copy and finding the order need it."""

KEPT_MEMORY_BYTES_MAX: Final = 256 * MIB
"""Freed memory that a worker keeps for its next batch. Counts against the budget of its attempts."""

BUCKETS_BYTES_MAX: Final = 64 * MIB
"""Buckets are sorted together while that takes no more: memory that a task touches first takes longer than sorting."""

RUNS_MAPPED_MAX: Final = 1024
"""Run files that a worker keeps mapped for its next tasks; one that is deleted keeps its place on the disk."""
