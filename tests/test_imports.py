"""Imports go down only, heavy libraries are imported where they are used, and nothing below the views prints."""

from __future__ import annotations

import ast

import pytest

from tests.house import HEAVY, LONGEST, MAY_BE_HEAVY, MAY_DRAW, MAY_PRINT, ROOMS, VIEWS_MAY, House, house, imported, room


@pytest.fixture(scope="module")
def built() -> House:
    return house()


def made(**sources: str) -> House:
    """A house of the given modules; __ stands for the dot."""
    trees = {name.replace("__", "."): ast.parse(source) for name, source in sources.items()}
    return House(trees, dict.fromkeys(trees, 1))


def test_imports_go_down_only(built: House) -> None:
    assert not set(built.rooms()) - set(ROOMS), "a new room needs its place in tests/house.py"
    assert built.upward() == []


def test_nothing_imports_in_a_circle(built: House) -> None:
    assert built.circles() == [] and built.module_circles() == []


def test_views_know_records_and_events_only(built: House) -> None:
    views = [module for module in built.trees if room(module) == "views"]
    found = {(module, other) for module in views for other in built.imports(module) if room(other) not in VIEWS_MAY | {"views"}}
    assert found == set()
    drawn = {(m, other) for m in built.trees if room(m) not in MAY_DRAW for other in built.imports(m) if room(other) == "views"}
    assert drawn == set(), "whoever works announces; doors draw"


def test_heavy_libraries_are_imported_where_they_are_used(built: House) -> None:
    light = [module for module in built.trees if room(module) not in MAY_BE_HEAVY or module == "backends.base"]
    found = {module: heavy for module in light if (heavy := {n.split(".")[0] for n in imported(built.trees[module], top=True)} & HEAVY)}
    assert found == {}


def test_a_run_without_servers_imports_no_client_of_theirs(built: House) -> None:
    needed, found = ["talk.cast"], set[str]()
    while needed:
        found.add(module := needed.pop())
        needed += [other for other in built.imports(module, top=True) if other in built.trees and other not in found]
    assert "backends.served.terms" in found and not found & {"backends.served.client", "backends.served.embedder"}


def test_nothing_below_the_views_prints(built: House) -> None:
    found = []
    for module in (module for module in built.trees if room(module) not in MAY_PRINT | {"world"}):
        calls = (node for node in ast.walk(built.trees[module]) if isinstance(node, ast.Call))
        found += [f"{module}:{call.lineno}" for call in calls if ast.unparse(call.func) == "print"]
        found += [module for name in imported(built.trees[module]) if name.split(".")[0] == "rich"]
    assert found == []


def test_no_file_is_long(built: House) -> None:
    assert {module: lines for module, lines in built.lines.items() if lines > LONGEST} == {}


# -- the checks themselves: each of these faults stood in the house before it had rooms -----------------------------------------------


def test_an_import_that_goes_up_is_found() -> None:
    faulty = made(experts__base="from expertchat.judging import rating", judging__rating="x = 1", text__words="")
    assert faulty.upward() == [("experts.base", "judging.rating")]


def test_an_import_inside_a_function_counts() -> None:
    faulty = made(folder__lock="def f():\n    from expertchat.slurm.here import job_id", slurm__here="")
    assert faulty.upward() == [("folder.lock", "slurm.here")]


def test_circles_are_found_over_any_number_of_corners() -> None:
    faulty = made(
        views__frame="from expertchat.views.screen import a", views__screen="from expertchat.views.frame import b",
        talk__x="from expertchat.judging.y import c", judging__y="from expertchat.plan.z import d",
        plan__z="from expertchat.talk.x import e",
    )  # fmt: skip
    assert faulty.module_circles() == [["judging.y", "plan.z", "talk.x"], ["views.frame", "views.screen"]]
    assert faulty.circles() == [["judging", "plan", "talk"]]


def test_imports_for_type_checkers_alone_do_not_count() -> None:
    assert made(folder__a="if TYPE_CHECKING:\n    from expertchat.runs.b import c", runs__b="c = 1").upward() == []


def test_walk_sees_what_it_should() -> None:
    source = ast.parse(
        "import a\nif TYPE_CHECKING:\n    import b\ntry:\n    import c\nexcept E:\n    pass\ndef f():\n    import d\nclass G:\n"
        "    import e\n    def h(self):\n        if 1:\n            from i import j\n"
    )
    assert imported(source) == {"a", "c", "d", "e", "i.j"}
    assert imported(source, top=True) == {"a", "c", "e"}
