"""Every limit of the store, with its unit and its reason.

Only `ChunkSizes` and `RECORD_SEARCH_BYTES_MAX` affect the bytes of a chunk (and so its id); the rest change cost alone.
"""

from __future__ import annotations

from msgspec import Struct

from dfs.errors import UsageProblem

KIB = 1 << 10
MIB = 1 << 20

RECORD_SEARCH_BYTES_MAX = (
    8 * MIB
)  # a record longer than this is split over chunks; bounds what a reader must hold. Affects bytes
SMALL_CHUNK_BYTES = 64 * KIB  # as stored; below this a file per chunk costs more (inode, fsync) than a row in SQLite
TRIAL_BYTES = 64 * KIB  # enough to tell text from compressed data; the trial takes 0.2 ms
TRIAL_SAVING_MIN = 0.1  # a smaller saving does not pay for decompression at each read
ZSTD_LEVEL = 1  # a third slower than the disk on two cores; higher levels halve the speed for 5 % of the size
SNIFF_BYTES = 64 * KIB  # what `records="auto"` looks at
CHUNK_BYTES_LIMIT = 1 << 30  # a record header that claims more is refused before memory is allocated
NAME_BYTES_MAX = 255  # what every file system that `get` may write to can hold
PATH_BYTES_MAX = 4096  # PATH_MAX of Linux
BUSY_TIMEOUT_MS = 30_000  # one writer at a time: how long the next one waits before StoreLocked
BATCH_BYTES_MAX = 16 * MIB  # small files are written together up to this: one fsync instead of thousands
BATCH_CHUNKS_MAX = 2048  # and up to this many, so that a failure repeats little work
SMALL_CHECKPOINT_PAGES = 8000  # the -wal of small chunks may grow to 32 MB before its pages are written a second time
READ_BYTES = 4 * MIB  # what is read at once: as much as stays in the processor's cache until it is looked at
NODE_REST_S = 30.0  # a node that failed to write is left alone for so long: a full disk is asked twice a minute
OPLOG_SEGMENT_BYTES_MAX = 256 * KIB  # only the newest segment is read when a store is opened
DECOMPRESSED_BYTES_MAX = 1 << 40  # `put --decompress` refuses to write more than this from one file
DECOMPRESSED_RATIO_MAX = 1_100  # a zip bomb passes this; gzip cannot exceed 1,032:1, real logs reach 30:1
DECOMPRESSED_FREE_BYTES = 256 * MIB  # the ratio is judged from here on only: small files may compress absurdly well
XZ_MEMORY_BYTES_MAX = 128 * MIB  # of one decoder; `xz -9` needs 65 MiB, a hostile header may ask for 4 GiB
KNOWN_FILES_MAX = 8192  # remembered in each of 256 parts: two million files, and a part is read in 30 ms
RACY_NS = 2_000_000_000  # a file younger than this may change again within one tick of its file system's clock
COLLECTION_WAIT_S = 30.0  # how long garbage collection waits for writers to finish the batch they are at
WRITER_WAIT_S = 600.0  # how long a writer waits for a garbage collection: the deletion of millions of files
SCRUB_SAVE_BYTES = 1 << 30  # a scrub that is killed reads up to this again: ten seconds of a disk
COLLECTED_SHARE_MAX = 0.1  # a collection that would delete more of all bytes is a mistake as often as not
DAY_MS = 86_400_000
RETENTION_DAYS = 7  # of history, where a store has no number of its own
LOCK_POLL_S = 0.005  # file locks are asked for again after this: the blocking call has no time limit
CHECKPOINT_LOG_BYTES_MIN = 64 * MIB  # a checkpoint for less log costs more than the log takes to replay (about 1 s)
CHECKPOINT_TXNS = 16  # whether one is due is looked at this often: it costs a look at every segment of the log
CHECKPOINT_COMPRESSED_BYTES_MIN = MIB  # below this, importing the compressor takes longer than writing it raw
COPY_BYTES = MIB  # what a copy of a database holds at once
READ_CACHE_BYTES_MAX = 64 * MIB  # verified chunks that an open dfs:// file keeps: a Parquet reader jumps between few
CHUNK_BYTES_AVG = 16 * MIB
REPLICAS = 3


class ChunkSizes(Struct, frozen=True):
    """Target sizes of chunks in bytes; fixed when a store is made.

    >>> ChunkSizes.of_average(1 << 20)
    ChunkSizes(min=262144, avg=1048576, max=4194304)
    """

    min: int
    avg: int
    max: int

    @classmethod
    def of_average(cls, avg: int) -> ChunkSizes:
        """Sizes avg/4, avg, avg*4. Raises UsageProblem unless avg is between 4 KiB and 64 MiB."""
        if not 4 * KIB <= avg <= 64 * MIB:
            raise UsageProblem(f"average chunk size {avg} bytes is not between 4 KiB and 64 MiB")
        return cls(avg // 4, avg, avg * 4)
