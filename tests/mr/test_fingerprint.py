"""Identity of values, functions and programs: sensitive to what changes a result, and to nothing else."""

from __future__ import annotations

import enum
import functools
import importlib
import operator
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import mr
from mr.fingerprint import Unfingerprintable, combine, digest, program_identity
from mr.stages import compile_plan


def made(source: str, file: str = "job.py", line: int = 1, **names: Any) -> Any:
    """`f` of a source, as if it stood in `file` from `line` on; `names` are globals."""
    space: dict[str, Any] = {"__name__": "usersjob", **names}
    exec(compile("\n" * (line - 1) + dedent(source), file, "exec", dont_inherit=True), space)
    return space["f"]


BASE = """
def f(line, low=2, *, unit="a"):
    '''Says nothing.'''
    table = {"x": 1}
    return [word for word in line.split() if len(word) > low + LIMIT and helper(word) not in table]
"""


def base(source: str = BASE, limit: int = 3, helper: Callable[..., Any] = str.lower, **place: Any) -> str:
    return digest(made(source, LIMIT=limit, helper=helper, **place))


@pytest.mark.parametrize(
    "other",
    [
        BASE.replace("'''Says nothing.'''", "'''Says something else.'''"),
        BASE.replace("    return", "\n    # why\n\n    return"),
        BASE.replace("def f(line, low", "def f(\n    line,\n    low"),
        BASE.replace("line, low", "line: str, low"),
        "# at the top\n" + BASE + "\nunrelated = 1\n",
    ],
    ids=["docstring", "blank lines", "line breaks", "annotation", "around"],
)
def test_what_does_not_change_a_function(other: str) -> None:
    assert base(other) == base()


def test_where_a_function_stands_does_not_matter() -> None:
    assert base(file="elsewhere.py", line=99) == base()
    assert base(unused_global=1) == base()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [
        BASE.replace("low + LIMIT", "low - LIMIT"),
        BASE.replace("low=2", "low=3"),
        BASE.replace('unit="a"', 'unit="b"'),
        BASE.replace('"x": 1', '"x": 2'),
        BASE.replace('"x": 1', '"y": 1'),
        BASE.replace("split()", "split(None)"),
        BASE.replace("1}", "True}"),
        BASE.replace("> low", ">= low"),
        BASE.replace(".split()", ".strip()"),
    ],
    ids=["code", "default", "keyword default", "constant", "string", "argument", "type of a constant", ">=", "name"],
)
def test_what_changes_a_function(other: str) -> None:
    assert base(other) != base()


def test_globals_and_what_they_reach_count() -> None:
    assert base(limit=4) != base()
    helpers = [made(f"def f(word):\n    return word + {tail!r}") for tail in ("a", "b")]
    assert base(helper=helpers[0]) != base(helper=helpers[1])
    deeper = [made("def f(word):\n    return g(word)", g=helper) for helper in helpers]
    assert base(helper=deeper[0]) != base(helper=deeper[1]), "followed into functions that functions call"
    nested = "def f(x):\n    def inner(y):\n        return (lambda z: z + LIMIT)(y)\n    return inner(x)"
    assert digest(made(nested, LIMIT=1)) != digest(made(nested, LIMIT=2)), "a global that only a nested function names"


def test_closures_count() -> None:
    def adder(n: Any) -> Callable[[Any], Any]:
        return lambda x: x + n

    assert digest(adder(1)) == digest(adder(1)) != digest(adder(2))
    assert digest(adder(adder(1))) != digest(adder(adder(2)))


def test_a_lambda_that_begins_with_a_string_has_no_docstring() -> None:
    assert digest(lambda x: "a" + x) != digest(lambda x: "b" + x)
    assert digest(made('f = lambda: "a"')) != digest(made('f = lambda: "b"'))
    quoted = 'def f(x):\n    return ["a" for _ in x]'
    assert digest(made(quoted)) != digest(made(quoted.replace('"a"', '"b"')))


def test_recursion_ends_and_still_tells_apart() -> None:
    factorial = "def f(n):\n    return 1 if n < 2 else n * f(n - 1)"
    assert digest(made(factorial)) == digest(made(factorial, line=7)) != digest(made(factorial.replace("2", "3")))
    mutual = "def g(n):\n    return n and f(n - 1)\ndef f(n):\n    return n and g(n - 1)"
    assert (
        digest(made(mutual))
        == digest(made(mutual))
        != digest(made(mutual.replace("def g(n):\n    return n and", "def g(n):\n    return n or")))
    )
    node = "class Node:\n    def next(self):\n        return Node()\nf = Node"
    assert digest(made(node)) != digest(made(node.replace("Node()", "Node(), 1")))
    looped: list[Any] = []
    looped.append(looped)
    with pytest.raises(Unfingerprintable, match="contains itself"):
        digest(looped)


CLASS = """
class Base:
    scale = 2
class f(Base):
    '''Doubles.'''
    unit: int = 1
    def __call__(self, x):
        return x * self.scale + self.offset
    @property
    def offset(self):
        return 1
    @staticmethod
    def s():
        return 1
    @classmethod
    def c(cls):
        return 1
"""


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("Doubles.", "Triples.", True),
        ("unit: int = 1", "unit: int = 2", False),
        ("scale = 2", "scale = 3", False),
        ("x * self", "x + self", False),
        ("def offset(self):\n        return 1", "def offset(self):\n        return 2", False),
        ("def s():\n        return 1", "def s():\n        return 2", False),
        ("def c(cls):\n        return 1", "def c(cls):\n        return 2", False),
    ],
)
def test_classes(old: str, new: str, same: bool) -> None:
    assert (digest(made(CLASS)) == digest(made(CLASS.replace(old, new)))) is same


class Point(NamedTuple):
    x: int
    y: int = 0


@dataclass(frozen=True)
class Frozen:
    a: int
    b: tuple[int, ...] = ()


@dataclass(slots=True)
class Slotted:
    a: int


class Plain:
    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        self.n = n

    def add(self, x: int) -> int:
        return x + self.n


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Cached:
    @functools.cached_property
    def value(self) -> int:
        return 1


@pytest.mark.parametrize("cls", [Point, Frozen, Slotted, Plain, Color, Cached], ids=lambda cls: cls.__name__)
def test_classes_of_every_kind_have_an_identity(cls: type) -> None:
    assert digest(cls) == digest(cls)
    assert digest(made("def f():\n    return C", C=cls)) == digest(made("def f():\n    return C", C=cls))


def test_instances_count_with_their_state() -> None:
    assert digest(Frozen(1)) == digest(Frozen(1)) != digest(Frozen(2))
    assert digest(Slotted(1)) != digest(Slotted(2))
    assert digest(Plain(1)) == digest(Plain(1)) != digest(Plain(2))
    assert digest(Plain(1).add) == digest(Plain(1).add) != digest(Plain(2).add), "bound methods"
    assert digest(Color.RED) != digest(Color.BLUE)
    assert digest(Point(1)) != digest((1, 0))


def test_partials_and_tools_of_the_standard_library() -> None:
    assert digest(functools.partial(pow, 2)) == digest(functools.partial(pow, 2)) != digest(functools.partial(pow, 3))
    assert digest(functools.partial(int, base=2)) != digest(functools.partial(int, base=8))
    assert digest(operator.itemgetter("a")) != digest(operator.itemgetter("b"))
    assert digest(re.compile("a")) == digest(re.compile("a")) != digest(re.compile("a", re.IGNORECASE))
    assert digest(str.split) != digest(str.strip)
    assert digest(len) != digest(max)
    assert digest({"a": 1}.get) == digest({"a": 1}.get) != digest({"a": 2}.get), "methods of built-in objects"
    assert digest(re.compile("a").findall) != digest(re.compile("b").findall)
    assert digest("a".join) != digest("b".join)
    assert digest(os.path) != digest(os)


def test_wrapped_functions_are_looked_into() -> None:
    plain = ["def f(x):\n    return x + 1", "def f(x):\n    return x + 2"]
    for wrap in (functools.lru_cache, functools.cache, functools.singledispatch):
        one, same, two = (wrap(made(source)) for source in (plain[0], plain[0], plain[1]))
        assert digest(one) == digest(same) != digest(two), wrap.__name__


def test_values_of_different_types_never_meet() -> None:
    values: list[Any] = [
        *(0, 1, -1, True, False, None, ..., 0.0, -0.0, 1.0, float("nan"), 1j, "", "1", "True", b"", b"1"),
        *((), [], {}, set(), (1,), [1], {1}, (1, 2), ((1,), 2), (1, (2,)), ("ab", "c"), ("a", "bc"), {"a": 1}),
        *({1: "a"}, {"a": 1, "b": 2}, {"b": 2, "a": 1}, frozenset({1, 2}), range(3), slice(1), Ellipsis.__class__),
    ]
    digests = [digest(value) for value in values]
    assert len(set(digests)) == len(values)
    assert digests == [digest(value) for value in values]
    assert digest({3, 1, 2}) == digest({2, 3, 1})
    assert digest(1, 2) != digest((1, 2))


def test_columns_expressions_and_types() -> None:
    assert digest(pl.col("x") + 1) == digest(pl.col("x") + 1) != digest(pl.col("x") + 2)
    assert digest(pa.int64()) != digest(pa.int32())
    assert digest(pa.schema([("a", pa.int64())])) != digest(pa.schema([("b", pa.int64())]))
    one, two = (pa.RecordBatch.from_pydict({"a": [n]}) for n in (1, 2))
    assert digest(one) != digest(two)
    assert digest(np.arange(3)) == digest(np.arange(3)) != digest(np.arange(4))


@pytest.mark.parametrize(
    ("value", "kind"),
    [(threading.Lock(), "lock"), ((n for n in ()), "generator"), (open(os.devnull), "TextIOWrapper")],  # noqa: SIM115
)
def test_what_has_no_identity_is_named(value: Any, kind: str) -> None:
    with pytest.raises(Unfingerprintable, match=kind):
        digest(value)
    with pytest.raises(Unfingerprintable, match=kind):
        digest(made("def f():\n    return value", value=value))


def test_a_program_names_the_operator_without_identity(own_state: None) -> None:
    lock = threading.Lock()
    with mr.Session(on="inline") as session:
        unsure = mr.from_items([1]).map(str).map(lambda x: (lock.locked(), x)[1])
        with pytest.raises(Unfingerprintable, match=r"step 1 map: .*lock"):
            program_identity(session.compile((collected(unsure),)).stages[0].program)
        declared = mr.from_items([1]).map(str, pure=False)
        with pytest.raises(Unfingerprintable, match="step 0 map is declared pure=False"):
            program_identity(session.compile((collected(declared),)).stages[0].program)


def collected(dataset: Any) -> Any:
    from mr.plan import Collect

    return Collect(None, dataset._node)


def test_the_parts_of_a_program_say_what_changed() -> None:
    def parts(k: int, name: str) -> dict[str, str]:
        dataset = mr.from_items([("a", 1)]).filter(lambda row: row.value > k).select(pl.col("key").alias(name))
        graph = compile_plan((collected(dataset),), lambda read: None, lambda path: None)
        return dict(program_identity(graph.stages[0].program).parts)

    one, two, three = parts(1, "a"), parts(2, "a"), parts(1, "b")
    assert [name for name in one if one[name] != two[name]] == ["step 0 filter"]
    assert [name for name in one if one[name] != three[name]] == ["step 1 select"]
    assert list(one)[:2] == ["engine", "head ItemsHead"]


def test_an_identity_is_that_of_its_parts() -> None:
    parts = [("a", "1"), ("b", "2")]
    assert combine(parts) == combine(list(parts))
    assert combine(parts).digest != combine([("a", "1"), ("b", "3")]).digest
    assert dict(combine(parts).parts)["b"] == "2"


def test_the_hash_seed_does_not_matter(tmp_path: Path) -> None:  # F49
    script = tmp_path / "script.py"
    script.write_text(
        dedent("""
        import polars as pl
        from mr.fingerprint import digest
        WORDS = {"one", "two", "three", "four"}
        class Keep:
            kinds = frozenset({"x", "y", "z"})
            def __call__(self, word):
                return word in WORDS or word in {"a", "b", "c"} or word in self.kinds
        print(digest(Keep(), lambda line: line in {"p", "q", "r"}, pl.col("x").is_in(["a"]), {"k": {1, "1", 2.5}}))
        """)
    )
    seen = {
        subprocess.run(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(seen) == 1


def test_modules_of_the_user_count_with_what_they_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(helper: str, deeper: str, use: str = "g(x)") -> str:
        (tmp_path / "fp_helper.py").write_text(helper)
        (tmp_path / "fp_deeper.py").write_text(deeper)
        for name in ("fp_helper", "fp_deeper"):
            sys.modules.pop(name, None)
        space: dict[str, Any] = {"__name__": "usersjob"}
        importlib.invalidate_caches()
        exec(f"import fp_helper\ndef f(x):\n    return fp_helper.{use}", space)
        return digest(space["f"])

    helper, deeper = "import fp_deeper\ndef g(x):\n    return fp_deeper.h(x)\n", "def h(x):\n    return x\n"
    assert load(helper, deeper) == load(helper, deeper)
    assert load(helper, deeper) != load(helper.replace("h(x)", "h(x) + 1"), deeper)
    assert load(helper, deeper) != load(helper, deeper.replace("return x", "return -x"))
    imported = "from fp_deeper import h\ndef g(x):\n    return h(x)\n"
    assert load(imported, deeper) != load(imported, deeper.replace("return x", "return -x"))
    aware = "import os\nTABLE = os.environ.get('FP_TABLE')\ndef g(x):\n    return TABLE\n"
    for use in ("g(x)", "TABLE"):
        monkeypatch.setenv("FP_TABLE", "1")
        one = load(aware, deeper, use)
        assert load(aware, deeper, use) == one
        monkeypatch.setenv("FP_TABLE", "2")
        assert load(aware, deeper, use) != one, "values that a module computes when it is imported"
