"""fsspec's own suite for file systems, all of it, on `dfs://`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import fsspec
import pytest
from fsspec.tests import abstract

import dfs
from dfs.filesystem import DfsFileSystem


class Fixtures(abstract.AbstractFixtures):  # type: ignore[misc]
    """A store with one node; `test` is a folder in it, so that no path is at the top by accident."""

    @pytest.fixture(scope="class")
    @classmethod
    def fs(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DfsFileSystem]:
        path = tmp_path_factory.mktemp("suite") / "store"
        dfs.init_store(path, durability="none").close()
        made = fsspec.filesystem("dfs", store=str(path))
        yield made
        made.store.close()

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return lambda *parts: "/".join(parts)

    @pytest.fixture
    def fs_path(self) -> str:
        return "test"


class TestCopy(abstract.AbstractCopyTests, Fixtures):  # type: ignore[misc]
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):  # type: ignore[misc]
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):  # type: ignore[misc]
    pass


class TestOpen(abstract.AbstractOpenTests, Fixtures):  # type: ignore[misc]
    pass


class TestPipe(abstract.AbstractPipeTests, Fixtures):  # type: ignore[misc]
    pass


class TopLevel(Fixtures):
    """The same below the root itself: names without a slash are where prefixes go wrong."""

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return lambda *parts: "/".join(part for part in parts if part)

    @pytest.fixture
    def fs_path(self) -> str:
        return ""


class TestCopyAtTheTop(abstract.AbstractCopyTests, TopLevel):  # type: ignore[misc]
    pass
