"""Identity: a canonical encoding of plain values, functions and expressions, hashed with BLAKE3.

A function is identified by what it does: its bytecode and constants (not its file, line numbers or comments), its
defaults, what it closes over and the globals it names, followed into functions, classes and modules of the user's own
code; code of installed libraries counts by name and version. What has no canonical encoding makes a task run always,
and `Unfingerprintable` says why.

Encoding: every value is a tag, a length and its bytes, so two different values never encode alike. Sets are sorted by
encoding. A value met again while it is being encoded (a recursive function) is encoded by the order of its first visit.
"""

from __future__ import annotations

import copyreg
import dis
import enum
import functools
import importlib.util
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import blake3
import cloudpickle
import numpy as np
import polars as pl
import polars_hash
import pyarrow as pa
import xxhash
from msgspec import Struct

from mr.errors import MillraceError
from mr.operators.python import name_of
from mr.program import Program

LIBRARIES = (blake3, cloudpickle, np, pa, pl, polars_hash)


class Unfingerprintable(MillraceError):
    """A value has no canonical encoding; the task that depends on it always runs."""


def digest(*values: object) -> str:
    """BLAKE3 (hex) of the canonical encoding of `values`. Raises Unfingerprintable.

    >>> digest(1, "a") == digest(1, "a") != digest("1", "a")
    True
    """
    try:
        return str(blake3.blake3(_Encoder().encode(values)).hexdigest())
    except RecursionError:
        raise Unfingerprintable("a value contains itself, or is nested too deeply") from None


class Identity(Struct, frozen=True):
    """A digest and the named parts it was made of, kept so that a miss can be explained."""

    digest: str
    parts: tuple[tuple[str, str], ...]


def combine(parts: Iterable[tuple[str, str]]) -> Identity:
    """One identity from named digests."""
    kept = tuple(parts)
    return Identity(digest(*kept), kept)


def program_identity(program: Program) -> Identity:
    """The identity of what a stage runs, one part for each operator. Raises Unfingerprintable naming the operator."""
    makers: list[tuple[str, object, Any]] = [
        (f"head {type(program.head).__name__}", program.head, getattr(program.head, "op", None))
    ]
    makers += [(f"step {i} {step.op.label}", step, step.op) for i, step in enumerate(program.steps)]
    parts = [("engine", engine_digest())]
    for name, maker, op in makers:
        if getattr(op, "pure", True) is False:
            raise Unfingerprintable(f"{name} is declared pure=False")
        policy = getattr(op, "on_error", None)
        told = name_of(op.fn) if policy is not None and policy.on_error == "quarantine" else ""  # rejects name it
        try:
            parts.append((name, digest(maker, told)))
        except Unfingerprintable as error:
            raise Unfingerprintable(f"{name}: {error}") from None
    for i, outlet in enumerate(program.outlets):
        if getattr(getattr(outlet.spec, "combiner", None), "pure", True) is False:
            raise Unfingerprintable(f"the combiner of outlet {i} is declared pure=False")
        parts.append((f"outlet {i}", digest(outlet)))
    return combine(parts)


@cache
def engine_digest() -> str:
    """BLAKE3 over the engine's own sources, the Python minor version and the versions of the libraries under it."""
    root = Path(__file__).parent
    hasher = blake3.blake3(f"{sys.version_info[:2]}".encode())
    for name, version in [(m.__name__, m.__version__) for m in LIBRARIES] + [("xxhash", xxhash.VERSION)]:
        hasher.update(f"{name}={version};".encode())
    for path in sorted(root.rglob("*.py")):
        hasher.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return str(hasher.hexdigest())


# --- the encoder -----------------------------------------------------------------------------------------------------


class _Encoder:
    def __init__(self) -> None:
        self._visited: dict[int, int] = {}
        self._alive: list[object] = []  # ids are only unique among living objects

    def encode(self, value: Any) -> bytes:
        plain = _plain(value)
        if plain is not None:
            return plain
        if isinstance(value, (tuple, list)):
            return self._seq(type(value).__name__, value)
        if isinstance(value, Mapping):
            return self._seq("map", [item for pair in value.items() for item in pair])
        if isinstance(value, (set, frozenset)):
            return _frame("set", b"".join(sorted(self.encode(item) for item in value)))
        if isinstance(value, (types.FunctionType, types.ModuleType, type)):
            seen = self._visited.get(id(value))
            if seen is not None:
                return _frame("seen", str(seen).encode())
            self._visited[id(value)] = len(self._visited)
            self._alive.append(value)
        return self._object(value)

    def _seq(self, tag: str, values: Iterable[Any]) -> bytes:
        return _frame(tag, b"".join(map(self.encode, values)))

    def _object(self, value: Any) -> bytes:
        told = getattr(type(value), "__fingerprint__", None)
        if told is not None and not isinstance(value, type):  # a value that says itself what of it counts
            return self._seq("told", told(value))
        if isinstance(value, pl.Expr):
            return _frame("expr", value.meta.serialize())
        if isinstance(value, (pa.DataType, pa.Schema)):
            schema = value if isinstance(value, pa.Schema) else pa.schema([("", value)])
            return _frame("schema", schema.serialize().to_pybytes())
        if isinstance(value, functools.partial):
            return self._seq("partial", (value.func, value.args, value.keywords))
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return self._seq("method", (value.__self__, value.__func__))
        if isinstance(value, types.ModuleType):
            return self._module(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.CodeType):
            return self._code(value)
        if isinstance(value, enum.Enum):
            return self._seq("enum", (type(value).__qualname__, value.name, value.value))
        if isinstance(value, (property, staticmethod, classmethod, functools.cached_property)):
            return self._seq(
                type(value).__name__, [getattr(value, n, None) for n in ("fget", "fset", "__func__", "func")]
            )
        if isinstance(value, functools._lru_cache_wrapper):  # which pickles as its name alone
            return self._seq("cached", (value.__wrapped__,))
        if inspect.isroutine(value):
            owner = getattr(value, "__self__", None)  # of a bound method: `table.get` depends on the table
            bound = None if isinstance(owner, types.ModuleType) else owner
            return self._seq("builtin", (getattr(value, "__module__", ""), value.__qualname__, bound))
        if isinstance(value, Struct) or is_dataclass(value):
            names = value.__struct_fields__ if isinstance(value, Struct) else [f.name for f in fields(value)]
            kept = [item for name in names for item in (name, getattr(value, name))]
            return self._seq("record", (type(value), *kept))
        return self._reduced(value)

    def _function(self, fn: types.FunctionType) -> bytes:
        cells = []
        for cell in fn.__closure__ or ():
            try:
                cells.append(cell.cell_contents)
            except ValueError:
                cells.append("empty cell")
        library = _library_of(fn.__module__)
        if library is not None:  # a closure that a library made may hold the user's functions
            return self._seq("library function", (library, fn.__module__, fn.__qualname__, cells))
        used = sorted(_names(fn.__code__) & fn.__globals__.keys())
        reached = [item for name in used for item in (name, fn.__globals__[name])]
        for module in (v for v in reached if isinstance(v, types.ModuleType) and not is_library(v.__name__)):
            data = _names(fn.__code__) & vars(module).keys()  # what the module computed when it was imported
            reached = [*reached, *(item for name in sorted(data) for item in (name, vars(module)[name]))]
        late = _late_imports(fn.__code__, fn.__globals__.get("__package__") or "")
        reached += [item for name, module in late for item in (name, module)]
        return self._seq("function", (fn.__code__, fn.__defaults__, fn.__kwdefaults__, cells, reached))

    def _code(self, code: types.CodeType) -> bytes:
        # the bytecode without caches and line tables: moving a function or commenting it changes nothing
        return self._seq(
            "code",
            (
                code.co_code,
                (None, *code.co_consts[1:]) if _has_docstring(code) else code.co_consts,
                code.co_names,
                code.co_varnames,
                code.co_freevars,
                code.co_cellvars,
                code.co_flags & ~_CO_HAS_DOCSTRING,
                code.co_argcount,
                code.co_kwonlyargcount,
                code.co_posonlyargcount,
                code.co_exceptiontable,
            ),
        )

    def _class(self, cls: type) -> bytes:
        library = _library_of(cls.__module__)
        if library is not None:
            return self._seq("library class", (library, cls.__module__, cls.__qualname__))
        kept = [item for name, item in sorted(vars(cls).items()) if name not in _CLASS_NOISE for item in (name, item)]
        return self._seq("class", (cls.__qualname__, cls.__bases__, kept))

    def _module(self, module: types.ModuleType) -> bytes:
        library = _library_of(module.__name__)
        if library is not None:
            return self._seq("library", (library, module.__name__))
        code = (types.ModuleType, types.FunctionType, type)
        reached = [value for value in vars(module).values() if isinstance(value, code)]
        return self._seq("module", (module.__name__, inspect.getsource(module), reached))

    def _reduced(self, value: Any) -> bytes:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        try:
            reducer = copyreg.dispatch_table.get(type(value))  # how compiled patterns are pickled, for one
            reduced = reducer(value) if reducer is not None else value.__reduce_ex__(4)
        except Exception as error:
            raise Unfingerprintable(f"a value of type {kind} has no stable identity ({error})") from None
        if isinstance(reduced, str):
            return self._seq("global", (kind, reduced))
        return self._seq("reduced", [list(p) if isinstance(p, types.GeneratorType) else p for p in reduced])


_CO_HAS_DOCSTRING = 0x4000000  # set by Python 3.13 and later

_CLASS_NOISE = frozenset(
    {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__firstlineno__", "__static_attributes__"}
    | {"__annotate__", "__annotate_func__", "__annotations_cache__", "__abstractmethods__", "_abc_impl"}
)


def _frame(tag: str, body: bytes) -> bytes:
    return f"{tag}:{len(body)}:".encode() + body


def _plain(value: Any) -> bytes | None:
    """The encoding of a value without parts; None for anything else."""
    if value is None or value is Ellipsis or isinstance(value, bool):
        return _frame("const", repr(value).encode())
    if type(value) in (int, float, complex):
        return _frame(type(value).__name__, repr(value).encode())
    if type(value) is str:
        return _frame("str", value.encode("utf-8", "surrogatepass"))
    if type(value) in (bytes, bytearray):
        return _frame("bytes", bytes(value))
    if isinstance(value, pa.RecordBatch):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_batch(value)
        return _frame("batch", sink.getvalue().to_pybytes())
    return None


def _has_docstring(code: types.CodeType) -> bool:
    if code.co_name.startswith("<"):  # lambdas and comprehensions have none, whatever their first constant is
        return False
    if sys.version_info >= (3, 13):
        return bool(code.co_flags & _CO_HAS_DOCSTRING)
    return bool(code.co_flags & inspect.CO_OPTIMIZED and code.co_consts and isinstance(code.co_consts[0], str))


def _names(code: types.CodeType) -> set[str]:
    """All global and attribute names in a code object and those nested in it."""
    names = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names |= _names(const)
    return names


def _late_imports(code: types.CodeType, package: str) -> list[tuple[str, types.ModuleType]]:
    """The user's modules that a function imports only when it runs. Imports them."""
    loads: list[Any] = []
    names: set[str] = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            level, members = loads[-2:]
            base = importlib.util.resolve_name("." * level + instruction.argval, package)
            names |= {base, *(f"{base}.{member}" for member in members or ())}
        elif instruction.opname.startswith("LOAD"):
            loads.append(instruction.argval)
    found = []
    for name in sorted(names):
        with suppress(Exception):  # not a module, or one that the job will fail to import
            spec = importlib.util.find_spec(name.partition(".")[0])
            if not is_library(name) and spec and not str(spec.origin).startswith(library_roots()):
                found.append((name, importlib.import_module(name)))
    nested = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return found + [item for inner in nested for item in _late_imports(inner, package)]


def is_library(module_name: str) -> bool:
    """Whether a module is installed (or built in), not the user's own code.

    >>> is_library("json"), is_library("__main__")
    (True, False)
    """
    return _library_of(module_name) is not None


@cache
def library_roots() -> tuple[str, ...]:
    """The folders that the interpreter and installed libraries lie in.

    >>> any(types.__file__.startswith(root) for root in library_roots())
    True
    """
    paths = sysconfig.get_paths()
    found = [Path(paths[key]) for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple({str(path) for path in (*found, *(path.resolve() for path in found))})


@cache
def _library_of(module_name: str | None) -> str | None:
    """ "name==version" when a module is installed or built in, None for the user's own code."""
    if module_name is None:
        return None
    top = module_name.partition(".")[0]
    if top == __name__.partition(".")[0]:
        return "engine"
    file = getattr(sys.modules.get(top), "__file__", None)
    ours = file is not None and not str(Path(file).resolve()).startswith(library_roots())
    if ours or top == "__main__":  # also where a user's file is called like a module of Python's own
        return None
    if top in sys.stdlib_module_names:
        return f"python=={sys.version_info[0]}.{sys.version_info[1]}"
    if file is None:
        return None
    module = sys.modules[top]
    version = getattr(module, "__version__", None) or _distribution_version(top)
    return f"{top}=={version}"


def _distribution_version(top: str) -> str:
    """The version of the distribution that an import name comes from; their names may differ."""
    try:
        return metadata.version(top)
    except metadata.PackageNotFoundError:
        names = metadata.packages_distributions().get(top, [])
        return ",".join(f"{name}=={metadata.version(name)}" for name in sorted(set(names))) or "unknown"
