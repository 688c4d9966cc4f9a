"""Imports go down only, heavy libraries are imported where they are used, and nothing below the views prints."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "expertchat"

# The floors of the house, lowest first; the longest name that fits a module counts. A module imports its own floor and those below.
FLOORS: list[set[str]] = [
    {"records", "text", "likeness", "experts.prompts", "bench.shapes"},
    {"events", "config", "backends.base", "judging.view"},
    {"backends", "judging.faults", "judging.nothing", "judging.rating", "judging.reading", "judging.wim", "memory"},
    {"experts"},
    {
        "conversation", "ending", "scheduler", "judging", "preferences", "topics", "folder", "store", "jsonl", "lock", "provenance", "run",
        "summary", "needed", "slurm.here",
    },
    {"plan", "models"},
    {"cast", "world"},
    {
        "converse", "arms", "bench", "plan.measure", "plan.run", "training", "evaluation", "views", "runs", "merge_runs", "merged",
        "slurm.config", "slurm.queue",
    },
    {"compose", "frozen", "launch"},
    {"slurm"},
    {"cli", "usage"},
]
# Views know what is kept and what happens, and nothing of how it came about.
VIEWS_MAY = {"records", "events", "text", "config", "views"}
HEAVY = {"torch", "transformers", "sentence_transformers", "accelerate", "peft", "trl", "datasets", "bitsandbytes", "tokenizers"}
HEAVY_FLOORS = {"backends", "training", "world"}
MAY_PRINT = {"cli", "views", "world"}


def modules() -> list[str]:
    return sorted(
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".") for path in PACKAGE.rglob("*.py")
    )


def tree(module: str) -> ast.Module:
    path = PACKAGE / Path(*module.split("."))
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8"))


def walk(node: ast.AST, top: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports, or with `top` those that run when the module is imported; imports for type checkers alone are left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        elif not (top and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from walk(child, top)


def imported(source: ast.Module, top: bool = False) -> set[str]:
    """Dotted names of what a module imports; `from x import y` gives x.y."""
    names = set()
    for node in walk(source, top):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, "relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor(module: str) -> int:
    fits = [(len(name), i) for i, names in enumerate(FLOORS) for name in names if module == name or module.startswith(name + ".")]
    assert fits, f"expertchat.{module} stands on no floor: give it one in FLOORS"
    return max(fits)[1]


def inside(names: set[str]) -> set[str]:
    """The package's own modules among dotted names, without the package."""
    known = set(modules())
    found = set()
    for name in names:
        if name.startswith("expertchat."):
            inner = name.removeprefix("expertchat.")
            found.add(inner if inner in known else inner.rpartition(".")[0])
    return found - {""}


def test_walk_sees_what_it_should() -> None:
    source = ast.parse(
        "import a\nif TYPE_CHECKING:\n    import b\ntry:\n    import c\nexcept E:\n    pass\ndef f():\n    import d\nclass G:\n"
        "    import e\n    def h(self):\n        if 1:\n            from i import j\n"
    )
    assert imported(source) == {"a", "c", "d", "e", "i.j"}
    assert imported(source, top=True) == {"a", "c", "e"}


@pytest.mark.parametrize("module", [m for m in modules() if m and not m.endswith("__init__")])
def test_imports_go_down_only(module: str) -> None:
    if module in ("backends", "experts", "judging", "views", "world", "preferences", "training", "evaluation", "bench", "slurm"):
        assert not imported(tree(module)), "a package's __init__ imports nothing, so that its modules can be imported one by one"
        return
    up = sorted(name for name in inside(imported(tree(module))) if floor(name) > floor(module))
    assert not up, f"expertchat.{module} imports {up}, which stand above it"


@pytest.mark.parametrize("module", [m for m in modules() if m.startswith("views")])
def test_views_know_records_and_events_only(module: str) -> None:
    assert {name.split(".")[0] for name in inside(imported(tree(module)))} <= VIEWS_MAY


@pytest.mark.parametrize("module", modules())
def test_heavy_libraries_are_imported_where_they_are_used(module: str) -> None:
    if module.split(".")[0] not in HEAVY_FLOORS or module == "backends.base":
        heavy = {name.split(".")[0] for name in imported(tree(module), top=True)} & HEAVY
        assert not heavy, f"expertchat.{module} imports {heavy} at its top"


@pytest.mark.parametrize("module", [m for m in modules() if m.split(".")[0] not in MAY_PRINT])
def test_nothing_below_the_views_prints(module: str) -> None:
    source = tree(module)
    calls = [node.lineno for node in ast.walk(source) if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"]
    assert not calls, f"expertchat.{module} prints in lines {calls}"
    assert not any(name.split(".")[0] == "rich" for name in imported(source))
