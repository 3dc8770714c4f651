"""The rules of the house, checked on the source text (docs/ARCHITECTURE.md). Directions of imports: pyproject.toml.

Nothing here runs the engine. A rule that code breaks is fixed in the code; an allowance is listed beside its rule, with
the reason.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = ("mr", "dfs", "jobs")

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 400
JOB_LINES_MAX = 150
EXAMPLE_LINES_MAX = 60
DECISION_LINES_MAX = 40

# What `make demo` runs, and the generator of its input: tools that lie beside the examples, not examples.
EXAMPLE_LINES_ALLOWED = {"examples/demo.py", "examples/generate_log.py"}

PURE = (
    *("mr/errors.py", "mr/options.py", "mr/tasks.py", "mr/events.py", "mr/batch.py", "mr/program.py", "mr/plan.py"),
    *(
        "mr/stages.py",
        "mr/graph.py",
        "mr/drafting.py",
        "mr/sizing.py",
        "mr/joining.py",
        "mr/ordering.py",
        "mr/assignment.py",
        "mr/scheduler.py",
        "mr/progress.py",
        "mr/analysis.py",
        "mr/settling.py",
        "mr/fingerprint.py",
        "mr/explain.py",
    ),
    *("mr/parameters.py", "mr/dataset/arguments.py", "mr/aggregates/*.py", "mr/kernels/*.py", "mr/operators/*.py"),
    *("mr/formats/*.py", "mr/shuffle/run_file.py", "mr/shuffle/source.py", "mr/shuffle/ranges.py"),
    *("dfs/errors.py", "dfs/options.py", "dfs/ids.py", "dfs/paths.py", "dfs/chunking.py", "dfs/codec.py"),
    *("dfs/changes.py", "dfs/chains.py", "dfs/placement.py", "dfs/chunk_store.py"),
    *("jobs/bm25.py", "jobs/charset.py", "jobs/urls.py"),
)
IMPURE_MODULES = {"os", "time", "threading", "asyncio", "random", "subprocess"}

# Who may import what, beyond the standard library and what everybody uses.
ONLY_IN = {
    "ray": ("mr/executors/ray.py",),
    "click": ("mr/cli*.py", "mr/render*.py", "dfs/cli*.py", "dfs/render*.py"),
    "rich": ("mr/cli*.py", "mr/render*.py", "dfs/cli*.py", "dfs/render*.py"),
    # dfs/stores/node.py names apsw's connection type only; it opens its database through dfs/database.py.
    "apsw": ("mr/journal.py", "dfs/database.py", "dfs/stores/*.py"),
    "sqlite3": (),
}

# What `kernels` may know of the engine: values.
KERNELS_MAY_IMPORT = ("mr.errors", "mr.options", "mr.batch", "mr.kernels")

FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}


class Module(NamedTuple):
    """A source file: its path from the root, its text and its tree."""

    path: str
    text: str
    tree: ast.Module

    def matches(self, *patterns: str) -> bool:
        return any(Path(self.path).match(pattern) for pattern in patterns)


@cache
def modules(*folders: str) -> tuple[Module, ...]:
    found = []
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            path = file.relative_to(ROOT)
            if not any(part.startswith(".") for part in path.parts):
                found.append(Module(path.as_posix(), text := file.read_text(), ast.parse(text, str(file))))
    return tuple(found)


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything a module imports, also inside functions; `from a import b` gives a.b."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.path}:{node.lineno}: relative import; write the whole name"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def in_package(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def none(violations: list[str]) -> None:
    assert not violations, "\n" + "\n".join(violations)


# --- size, names, docstrings -----------------------------------------------------------------------------------------


def test_functions_are_short() -> None:
    none(
        [
            f"{module.path}:{node.lineno}: {node.name} has {length} lines, more than {FUNCTION_LINES_MAX}"
            for module in modules(*PRODUCT)
            for node in ast.walk(module.tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
        ]
    )


def test_modules_are_short() -> None:
    limits = [(module, MODULE_LINES_MAX) for module in modules("mr", "dfs")]
    limits += [(module, JOB_LINES_MAX) for module in modules("jobs")]
    limits += [(m, EXAMPLE_LINES_MAX) for m in modules("examples") if m.path not in EXAMPLE_LINES_ALLOWED]
    none(
        [
            f"{module.path}: {lines} lines, more than {most}"
            for module, most in limits
            if (lines := len(module.text.splitlines())) > most
        ]
    )


def test_no_room_without_a_purpose() -> None:
    none([m.path for m in modules(*PRODUCT, "benchmarks", "examples") if Path(m.path).stem in FORBIDDEN_NAMES])


def test_every_module_says_what_it_is_for() -> None:
    none([m.path for m in modules(*PRODUCT, "benchmarks", "examples") if not ast.get_docstring(m.tree)])


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Classes:
    """All classes of the product by name, to tell whether a base documents a method."""

    # Bases from elsewhere that document what our classes override.
    ELSEWHERE = frozenset(
        {"AbstractFileSystem", "AbstractBufferedFile", "Transaction", "RawIOBase", "BufferedReader", "BufferedIOBase"}
        | {"MetaPathFinder", "InspectLoader", "Group", "Command", "ParamType"}
    )

    def __init__(self, found: tuple[Module, ...]) -> None:
        nodes = [node for module in found for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
        self._by_name = {node.name: node for node in nodes}
        self._protocols = {node.name for node in nodes if "Protocol" in self._bases(node)}

    def _bases(self, node: ast.ClassDef) -> set[str]:
        plain = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
        return {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in plain}

    def documented_above(self, node: ast.ClassDef, method: str) -> bool:
        """Whether a base documents the method; a protocol that the class's docstring names counts as a base."""
        named = set(re.findall(r"`(?:\w+\.)*(\w+)`", ast.get_docstring(node) or ""))
        bases = self._bases(node) | (self._protocols & named)
        return any(
            base in self.ELSEWHERE
            or (base in self._by_name and base != node.name and self._documents(self._by_name[base], method))
            for base in bases
        )

    def _documents(self, node: ast.ClassDef, method: str) -> bool:
        own = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == method]
        return any(map(ast.get_docstring, own)) or self.documented_above(node, method)


def undocumented(body: list[ast.stmt], classes: Classes, owner: ast.ClassDef | None = None) -> Iterator[Definition]:
    """Public functions, classes and methods without a docstring.

    Not wanted: for a method that a base documents, and for a property of one statement, which its class describes.
    """
    for node in body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        decorators = " ".join(map(ast.unparse, node.decorator_list))
        if "overload" in decorators or ".setter" in decorators or ("property" in decorators and len(node.body) == 1):
            continue
        if not ast.get_docstring(node) and not (owner is not None and classes.documented_above(owner, node.name)):
            yield node
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, classes, node)


def test_public_names_are_documented() -> None:
    classes = Classes(modules(*PRODUCT))
    none(
        [
            f"{module.path}:{node.lineno}: {node.name} has no docstring"
            for module in modules(*PRODUCT)
            for node in undocumented(module.tree.body, classes)
        ]
    )


# --- who imports what ------------------------------------------------------------------------------------------------


def test_pure_modules_touch_neither_clock_nor_system() -> None:
    pure = [module for module in modules(*PRODUCT) if module.matches(*PURE)]
    found = [
        f"{module.path}:{line}: a pure module imports {name}"
        for module in pure
        for line, name in imports(module)
        if name.partition(".")[0] in IMPURE_MODULES
    ]
    opens = [
        f"{module.path}:{node.lineno}: a pure module opens a file"
        for module in pure
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("open", "print", "input")
    ]
    missing = [pattern for pattern in PURE if not any(module.matches(pattern) for module in pure)]
    none(found + opens + [f"{pattern}: no such module; correct the list" for pattern in missing])


@pytest.mark.parametrize("package", ONLY_IN)
def test_special_packages_stay_in_their_rooms(package: str) -> None:
    none(
        [
            f"{module.path}:{line}: imports {name}; only {', '.join(ONLY_IN[package]) or 'nobody'} may"
            for module in modules(*PRODUCT)
            for line, name in imports(module)
            if in_package(name, package) and not module.matches(*ONLY_IN[package])
        ]
    )


def test_packages_point_one_way() -> None:
    """jobs -> mr -> dfs; mr knows dfs in one room; nothing knows what tests it."""
    wrong = []
    for module in modules(*PRODUCT):
        own = module.path.partition("/")[0]
        for line, name in imports(module):
            where = f"{module.path}:{line}: imports {name}"
            if own == "dfs" and (in_package(name, "mr") or in_package(name, "jobs")):
                wrong.append(f"{where}; the store knows nothing above it")
            if own == "mr" and in_package(name, "jobs"):
                wrong.append(f"{where}; the engine knows no job")
            if own == "mr" and in_package(name, "dfs") and module.path != "mr/storage.py":
                wrong.append(f"{where}; only mr/storage.py may")
            if own == "jobs" and in_package(name, "dfs"):
                wrong.append(f"{where}; a job reads and writes through mr")
            kits = [
                f"{package}.testing" for package in ("mr", "dfs") if not module.path.startswith(f"{package}/testing")
            ]
            if any(in_package(name, kit) for kit in [*kits, "tests"]):
                wrong.append(f"{where}; product code never imports its test kit")
    none(wrong)


def test_every_room_has_its_place_in_the_contracts() -> None:
    """import-linter says nothing of a module that no layer names."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [re.sub(r"[()\s]", "", layer) for c in contracts if c["type"] == "layers" for layer in c["layers"]]
    placed = {room for layer in layers for room in re.split(r"[:|]", layer) if "." in room}
    names = [m.path.removesuffix(".py").replace("/", ".") for m in modules("mr", "dfs") if "__init__" not in m.path]
    none([f"{name}: no layer names it" for name in names if not any(in_package(name, room) for room in placed)])


def test_kernels_know_values_only() -> None:
    none(
        [
            f"{module.path}:{line}: imports {name}"
            for module in modules("mr/kernels")
            for line, name in imports(module)
            if in_package(name, "mr") and not any(in_package(name, allowed) for allowed in KERNELS_MAY_IMPORT)
        ]
    )


def test_nothing_is_hashed_with_the_seeded_hash() -> None:
    """`hash()` differs between processes; data is hashed with XXH3, content with BLAKE3. `__hash__` may."""
    allowed = {
        id(node)
        for module in modules(*PRODUCT)
        for method in ast.walk(module.tree)
        if isinstance(method, ast.FunctionDef) and method.name == "__hash__"
        for node in ast.walk(method)
    }
    none(
        [
            f"{module.path}:{node.lineno}: calls hash()"
            for module in modules(*PRODUCT)
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hash"
            if id(node) not in allowed
        ]
    )


# --- public names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ["mr", "dfs"])
def test_public_names_resolve(package: str) -> None:
    module = __import__(package)
    assert module.__all__ == sorted(module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


def test_no_module_hides_a_public_name() -> None:
    """Importing a submodule sets it on its package: `mr.job` would stop being the decorator."""
    import dfs
    import mr

    for package in (mr, dfs):
        rooms = {path.stem for path in (ROOT / package.__name__).iterdir()}
        assert not rooms & set(package.__all__)


# --- texts -----------------------------------------------------------------------------------------------------------

MACHINE_PATH = re.compile(r"(?<![\w.:/$}!-])/(?:work|tmp|home|root|usr|var|mnt|opt|Users)/[\w.]")


def test_no_path_of_a_machine() -> None:
    texts = [file for folder in PRODUCT for file in (ROOT / folder).rglob("*") if file.suffix in (".py", ".sql")]
    texts += [*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    texts += [ROOT / name for name in ("README.md", "CHANGELOG.md", "Makefile", "pyproject.toml")]
    none(
        [
            f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
            for file in texts
            for number, line in enumerate(file.read_text().splitlines(), 1)
            if MACHINE_PATH.search(line)
        ]
    )


def test_decisions_are_numbered_and_short() -> None:
    files = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [file.name[:5] for file in files] == [f"{number:04}-" for number in range(1, len(files) + 1)]
    none([f"{f.name}: {n} lines" for f in files if (n := len(f.read_text().splitlines())) > DECISION_LINES_MAX])
    for file in files:
        parts = [line for line in file.read_text().splitlines() if line.startswith("## ")]
        assert parts[:3] == ["## Context", "## Decision", "## Consequences"], file.name


def test_what_the_docs_point_to_exists() -> None:
    wrong = []
    for file in (ROOT / "docs").rglob("*.md"):
        text = file.read_text()
        links = [file.parent / link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
        names = [ROOT / name for name in re.findall(r"`((?:mr|dfs|jobs|tests|docs)/[\w/.-]+\.(?:py|md|sql))`", text)]
        wrong += [f"{file.relative_to(ROOT)}: {target}" for target in (*links, *names) if not target.exists()]
    none(wrong)
