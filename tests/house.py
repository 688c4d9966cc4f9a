"""The rooms of the house: what stands in each, which way imports go, and what goes the wrong way. `python -m tests.house` prints it.

A room is a package of expertchat/, or a module that stands at its top. An import goes up where its room stands above the importing one in
ROOMS; a circle is a set of rooms, or of modules, each of which imports the others, over however many corners.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "expertchat"

# The rooms, lowest first: each may import those before it.
ROOMS = (
    "text", "records", "events", "config", "folder", "trackers", "backends", "experts", "judging", "plan", "serving", "talk",
    "preferences", "world", "evaluation",
    "sources", "lab", "labels", "metrics", "audit", "training", "reward_models", "building", "prompting",
    "choosing", "posts", "picking", "bench", "views", "command", "slurm", "runs", "report", "studies", "doors", "cli",
)  # fmt: skip
# Views know what is kept and what happens, and nothing of how it came about.
VIEWS_MAY = {"records", "events", "text", "config", "folder"}
# Who may ask for something to be drawn.
MAY_DRAW = {"views", "doors", "cli"}
HEAVY = {"torch", "transformers", "sentence_transformers", "accelerate", "peft", "trl", "datasets", "bitsandbytes", "tokenizers"}
MAY_BE_HEAVY = {"backends", "training", "reward_models", "world"}
MAY_PRINT = {"cli", "doors", "views"}
LONGEST = 400  # lines of a file


@dataclass(frozen=True)
class House:
    """Modules of a package (dotted, without its name) -> their sources, parsed."""

    trees: Mapping[str, ast.Module]
    lines: Mapping[str, int]
    name: str = "expertchat"
    _known: dict[tuple[str, bool], set[str]] = field(default_factory=dict)  # what each imports; it is asked for again and again

    def imports(self, module: str, top: bool = False) -> set[str]:
        """The package's own modules that a module imports; with `top`, those that it needs to be imported itself."""
        if (known := self._known.get((module, top))) is not None:
            return known
        found = set()
        for name in imported(self.trees[module], top):
            if name.startswith(f"{self.name}."):
                inner = name.removeprefix(f"{self.name}.")
                found.add(inner if inner in self.trees else inner.rpartition(".")[0])
        return self._known.setdefault((module, top), found - {""})

    def rooms(self) -> list[str]:
        return sorted({room(module) for module in self.trees})

    def arrows(self) -> dict[tuple[str, str], list[tuple[str, str]]]:
        """(importing room, imported room) -> the modules' imports."""
        found: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for module in sorted(self.trees):
            for other in sorted(self.imports(module)):
                if room(module) != room(other):
                    found.setdefault((room(module), room(other)), []).append((module, other))
        return found

    def upward(self, order: tuple[str, ...] = ROOMS) -> list[tuple[str, str]]:
        """Imports of modules that go up, between rooms that have a place in the order."""
        place = {name: i for i, name in enumerate(order)}
        known = {rooms: imports for rooms, imports in self.arrows().items() if place.keys() >= set(rooms)}
        return [pair for (low, high), imports in known.items() if place[high] > place[low] for pair in imports]

    def circles(self) -> list[list[str]]:
        """Rooms that import each other."""
        graph: dict[str, set[str]] = {name: set() for name in self.rooms()}
        for low, high in self.arrows():
            graph[low].add(high)
        return circles(graph)

    def module_circles(self) -> list[list[str]]:
        """Modules that import each other, wherever the import stands."""
        return circles({module: self.imports(module) for module in self.trees})


def room(module: str) -> str:
    return module.split(".")[0]


def house(package: Path = PACKAGE) -> House:
    """The house as it stands."""
    trees, lines = {}, {}
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        source = path.read_text("utf-8")
        if name and not (path.name == "__init__.py" and not source.strip()):
            trees[name], lines[name] = ast.parse(source), source.count("\n")
    return House(trees, lines, package.name)


def imported(source: ast.Module, top: bool = False) -> set[str]:
    """Dotted names of what a module imports; `from x import y` gives x.y."""
    names = set()
    for node in walk(source, top):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def walk(node: ast.AST, top: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports, or with `top` those that run when the module is imported; imports for type checkers alone are left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        elif not (top and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from walk(child, top)


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Strongly connected parts of more than one node, and nodes that point at themselves (Tarjan 1972), sorted."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in graph:
                continue
            if other not in number:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], number[other])
        if low[node] == number[node]:
            at = stack.index(node)
            part, stack[at:] = stack[at:], []
            if len(part) > 1 or node in graph[node]:
                found.append(sorted(part))

    for node in sorted(graph):
        if node not in number:
            visit(node)
    return sorted(found)


def show(found: House) -> Iterator[str]:
    """The house in lines: rooms from the top down with their files and lines of code, and what goes the wrong way."""
    arrows = found.arrows()
    unknown = [name for name in found.rooms() if name not in ROOMS]
    yield f"{'room':<14}{'files':>6}{'lines':>8}  imports"
    for name in [*reversed(ROOMS), *unknown]:
        inside = [module for module in found.trees if room(module) == name]
        if inside:
            below = ", ".join(sorted(high for low, high in arrows if low == name))
            yield f"{name:<14}{len(inside):>6}{sum(found.lines[module] for module in inside):>8,}  {below}"
    loose = [module for module in found.trees if "." not in module and not (PACKAGE / module).is_dir()]
    up = found.upward()
    yield ""
    yield f"{len(found.trees)} modules, {sum(found.lines.values()):,} lines; {len(loose)} modules at the top ({', '.join(loose)})"
    yield f"{len(found.rooms())} rooms, {len(arrows)} arrows between them"
    if unknown:
        yield f"{len(unknown)} rooms have no place in the order: {', '.join(unknown)}"
    yield from [f"{len(up)} imports go up", *(f"  {low} -> {high}" for low, high in up)]
    rooms, modules = found.circles(), found.module_circles()
    yield from [f"{len(rooms)} circles of rooms", *(f"  {' <-> '.join(names)}" for names in rooms)]
    yield from [f"{len(modules)} circles of modules", *(f"  {' <-> '.join(names)}" for names in modules)]
    long = sorted((n, module) for module, n in found.lines.items() if n > LONGEST)
    yield from [f"{len(long)} files of more than {LONGEST} lines", *(f"  {module}: {n}" for n, module in long)]


if __name__ == "__main__":
    print("\n".join(show(house(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE))))
