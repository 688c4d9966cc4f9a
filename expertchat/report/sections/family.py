"""Branches: which dialogues go on from turns of which others, as a tree of lines along the turns and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expertchat.folder.reader import RunReader
from expertchat.report.drawing import COLOURS, FAINT, INK
from expertchat.report.parts import Cell, Figure, Section, Shown
from expertchat.report.subject import Subject
from expertchat.talk.branching import TALKS, families_beside, run_above
from expertchat.text.in_words import line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 40  # lines of a drawing
STEP = "·\u00a0"  # before the name of a run in the table, once for each step down
LONGEST = 28  # letters of a name that stands at a line


@dataclass(frozen=True)
class Member:
    """A run of a family: `row` as `talk.branching.family_of` gives it."""

    row: Mapping[str, Any]
    name: str

    @property
    def folder(self) -> str:
        return str(self.row["folder"])

    @property
    def branch(self) -> Mapping[str, Any]:
        """Where it goes on from; nothing where that is no other run."""
        found: Mapping[str, Any] = self.row["branch"]
        return found

    @property
    def above(self) -> tuple[str, str]:
        """The run and the dialogue that it goes on from."""
        return str(run_above(self.branch)), str(self.branch.get("dialogue"))

    @cached_property
    def turns(self) -> dict[str, int]:
        """How many turns each of its dialogues has."""
        return {str(one.get("id")): len(one.get("turns") or ()) for one in RunReader(Path(self.folder)).lines("transcripts")}


def family(subject: Subject) -> Section | None:
    """The section of all runs that are branches, or of which some go on; a run that lies beside them counts though it was not named."""
    talks = [run.folder for run in subject.runs if run.kind == TALKS]
    names = {str(run.folder.resolve()): subject.name(run) for run in subject.runs}
    trees = [[Member(row, line(names.get(str(row["folder"]), Path(str(row["folder"])).name))) for row in rows]
             for rows in families_beside(talks)]  # fmt: skip
    if not trees:
        return None
    parts: list[Figure | Shown] = []
    for i, members in enumerate(trees):
        of = f" of {members[0].name}" if len(trees) > 1 else ""
        if (figure := _figure(members, f"family-{i}" if i else "family", of)) is not None:
            parts.append(figure)
        parts.append(_table(members, names, of))
    return Section("family", "Where dialogues go on", [_said(members) for members in trees], parts)


def _said(members: Sequence[Member]) -> str:
    branches = [one for one in members if one.branch]
    edited = sum(one.branch.get("edited") is not None for one in branches)
    after = f", {edited} of them after an edited turn" if edited else ""
    return f"From {members[0].name} {len(branches)} other run{'s go' if len(branches) != 1 else ' goes'} on{after}."


def _table(members: Sequence[Member], names: Mapping[str, str], of: str) -> Shown:
    rows = {}
    for one in members:
        branch = one.branch
        came = f"{branch.get('dialogue')}, after turn {int(branch.get('turns') or 0) - 1}" if branch else None
        models = "\n".join(f"{seat}: {line(model)}" for seat, model in one.row["models"].items())
        rows[f"{STEP * int(one.row['depth'])}{one.name}"] = [
            Cell(came and line(came)), Cell("yes" if branch.get("edited") is not None else None), Cell(models or None),
            Cell(str(one.row["seed"])), Cell(one.row["turns"]), Cell("done" if one.row["done"] else "not at its end"),
        ]  # fmt: skip
    others = [one.name for one in members if one.folder not in names]
    note = "A dot for each step down from the run that all of it comes from; the first turn is 0."
    note += f" Not in this report: {', '.join(others)}." if others else ""
    return Shown(f"The family{of}", ["goes on from", "that turn edited", "models", "seed", "turns", "state"], rows, note=note)


def _figure(members: Sequence[Member], name: str, of: str) -> Figure | None:
    """Turns along, a line for each dialogue: that which goes on begins at the turn at which it leaves the other."""
    lines = _lines(members)
    if len(lines) < 2 or len(lines) > MOST:
        return None
    rows = [[one.name, dialogue, first, last, "no" if one.branch.get("edited") is None else "yes"]
            for one, dialogue, first, last in lines]  # fmt: skip
    place = {(one.folder, dialogue): i for i, (one, dialogue, _, _) in enumerate(lines)}

    def draw(axes: Axes) -> None:
        for i, (one, dialogue, first, last) in enumerate(lines):
            colour = COLOURS[int(one.row["depth"]) % len(COLOURS)]
            if (from_ := place.get(one.above) if one.branch else None) is not None:
                axes.plot([first, first], [from_, i], color=FAINT, linewidth=1.2, zorder=1)
            axes.plot([first, last], [i, i], color=colour, linewidth=3, solid_capstyle="round", zorder=2)
            edited = one.branch.get("edited") is not None
            axes.plot([first], [i], "D" if edited else "o", color=colour, markersize=6, fillstyle="none" if edited else "full", zorder=3,
                      markeredgewidth=1.5)  # fmt: skip
            title = f"{one.name[:LONGEST]}, {dialogue}" if len(one.turns) > 1 else one.name[:LONGEST]
            axes.text(first + 0.12, i - 0.18, title, fontsize=9, color=INK, va="bottom")
        axes.set_xlim(-0.3, max(last for *_, last in lines) + 0.5)
        axes.set_ylim(len(lines) - 0.4, -0.9)
        axes.set_yticks([])
        axes.set_xlabel("turns that were spoken")
        axes.grid(axis="x")

    said = "; ".join(f"{one.name} leaves {Path(one.above[0]).name} after {first} turns and has {last}"
                     for one, _, first, last in lines[1:] if one.branch)  # fmt: skip
    return Figure(name, f"Which dialogue goes on from which{of}", f"A tree of {len(lines)} dialogues: {said}.",
                  ["run", "dialogue", "first turn of its own", "turns", "edited"], rows, draw,
                  "A hollow mark: the turn before it was edited.", (6.0, 0.8 + 0.42 * len(lines)))  # fmt: skip


def _lines(members: Sequence[Member]) -> list[tuple[Member, str, int, int]]:
    """(run, dialogue, turns that are another's, turns) of all that is drawn: of a root the dialogues from which something goes on, each
    followed by what goes on from it."""
    children: dict[tuple[str, str], list[Member]] = {}
    for one in members:
        if one.branch:
            children.setdefault(one.above, []).append(one)

    def below(one: Member, dialogue: str, first: int) -> list[tuple[Member, str, int, int]]:
        found = [(one, dialogue, first, max(first, one.turns.get(dialogue, first)))]
        for child in children.get((one.folder, dialogue), ()):
            found += below(child, dialogue, int(child.branch.get("turns") or 0))
        return found

    root = members[0]
    begun = [dialogue for dialogue in root.turns if (root.folder, dialogue) in children]
    return [row for dialogue in begun for row in below(root, dialogue, int(root.branch.get("turns") or 0))]
