"""One-line doors to other libraries: a pyarrow file system and a Polars scan over a store (docs/use-dfs-from.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dfs.errors import NotFound
from dfs.filesystem import DfsFileSystem

if TYPE_CHECKING:
    import polars as pl
    import pyarrow.fs


def arrow_filesystem(store: str | None = None, at: int | str | None = None) -> pyarrow.fs.PyFileSystem:
    """A store as pyarrow sees it: for `filesystem=` of pyarrow.dataset, pyarrow.parquet, pandas and others.

    `store` and `at` as in DfsFileSystem. Paths in it have no scheme. Raises NoStore.

    >>> import tempfile, dfs, pyarrow as pa, pyarrow.dataset as ds
    >>> folder = tempfile.TemporaryDirectory()
    >>> dfs.init_store(folder.name).close()
    >>> files = arrow_filesystem(folder.name)
    >>> ds.write_dataset(pa.table({"n": [1, 2, 3]}), "numbers", filesystem=files, format="parquet")
    >>> ds.dataset("numbers", filesystem=files).to_table(filter=ds.field("n") > 1).to_pydict()
    {'n': [2, 3]}
    >>> folder.cleanup()
    """
    import pyarrow.fs

    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(DfsFileSystem(store, at)))


def scan_parquet(
    path: str | list[str], at: int | str | None = None, *, store: str | None = None, **options: Any
) -> pl.LazyFrame:
    """Parquet files of a store as a Polars LazyFrame that reads the columns and row groups it needs.

    `path`: a file, a folder, a pattern, or a list of files. `at`: a transaction, snapshot or time; without it the
    newest state as of this call, whatever is written before `collect()`. `options` go to `pyarrow.dataset.dataset`
    (`partitioning="hive"`, `schema=...`). Raises NotFound, NoStore.

    >>> import tempfile, dfs, polars as pl
    >>> folder = tempfile.TemporaryDirectory()
    >>> dfs.init_store(folder.name).close()
    >>> with dfs.filesystem.DfsFileSystem(folder.name).open("n.parquet", "wb") as file:
    ...     pl.DataFrame({"n": [1, 2, 3]}).write_parquet(file)
    >>> scan_parquet("n.parquet", store=folder.name).filter(pl.col("n") > 1).collect()["n"].to_list()
    [2, 3]
    >>> folder.cleanup()
    """
    import polars as pl
    import pyarrow.dataset
    import pyarrow.fs

    newest = DfsFileSystem(store)
    files = DfsFileSystem(str(newest.store.path), newest.store.at(at))
    names = files.expand_path(path)
    if not all(map(files.exists, names)):
        raise NotFound(f"no such file or folder: {', '.join(n for n in names if not files.exists(n))}")
    arrow = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(files))
    source = names[0] if len(names) == 1 else names
    return pl.scan_pyarrow_dataset(pyarrow.dataset.dataset(source, filesystem=arrow, format="parquet", **options))
