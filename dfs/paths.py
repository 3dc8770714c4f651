"""Rules for paths in the store. Pure; applied before any I/O, so a bad path never reaches SQL or a file system."""

from __future__ import annotations

from collections.abc import Iterator

from dfs.errors import InvalidPath
from dfs.options import NAME_BYTES_MAX, PATH_BYTES_MAX

SCHEME = "dfs://"


def normalise(path: str) -> str:
    """The one spelling of a path: no scheme, no leading or trailing slash; the root is "".

    Raises InvalidPath for `.`, `..`, an empty component, NUL, text that is not valid Unicode (lone surrogates), a
    component over 255 bytes or a path over 4,096 bytes. All else (blanks, newlines, backslashes, any script) is kept
    exactly.

    >>> normalise("dfs://logs/2026/a.log"), normalise("/logs/"), normalise("/")
    ('logs/2026/a.log', 'logs', '')
    """
    text = path.removeprefix(SCHEME)
    text = text.removeprefix("/").removesuffix("/")
    if text == "":
        return ""
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise InvalidPath(f"path {path!r} is not valid Unicode text (lone surrogate at {error.start})") from None
    if size > PATH_BYTES_MAX:
        raise InvalidPath(f"path {path[:60]!r}... has {size} bytes; at most {PATH_BYTES_MAX} are allowed")
    for name in text.split("/"):
        check_name(name, path)
    return text


def check_name(name: str, path: str) -> None:
    """Raise InvalidPath unless `name` can be one component of `path`."""
    if name == "":
        raise InvalidPath(f"path {path!r} has an empty component")
    if name in (".", ".."):
        raise InvalidPath(f"path {path!r} has the component {name!r}; give the path without it")
    if "\0" in name:
        raise InvalidPath(f"path {path!r} holds a NUL character")
    if len(name.encode("utf-8", "surrogatepass")) > NAME_BYTES_MAX:
        raise InvalidPath(f"component {name[:40]!r}... of a path has more than {NAME_BYTES_MAX} bytes")


def join(folder: str, name: str) -> str:
    """`name` below `folder`, both already normalised.

    >>> join("", "a"), join("a", "b/c")
    ('a', 'a/b/c')
    """
    return f"{folder}/{name}" if folder and name else folder or name


def parents(path: str) -> Iterator[str]:
    """The folders that a normalised path is in, nearest first, without the root.

    >>> list(parents("a/b/c"))
    ['a/b', 'a']
    """
    while (path := path.rpartition("/")[0]) != "":
        yield path
