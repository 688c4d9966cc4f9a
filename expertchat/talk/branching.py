"""A dialogue that goes on from a turn of another run: with other models, personas or seeds, or after an edited turn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError, TopicsConfig, near
from expertchat.folder.embedded import both, other_id
from expertchat.folder.reader import RunReader
from expertchat.folder.without import without_dialogues
from expertchat.records import Transcript, Turn
from expertchat.talk.config import BranchConfig, ConverseConfig
from expertchat.talk.table import changed

TALKS = "converse"  # the command whose runs have branches
REMEDY = "name another run"
BRANCH = b"\nbranch:\n"  # in a config.yaml; of a run that is no branch "branch: null" stands there


def parent_of(branch: BranchConfig | None) -> Transcript | None:
    """The dialogue that a branch goes on from; None where it is none. Raises ConfigError for one that is not there."""
    if branch is None:
        return None
    found = dialogue_of(RunReader(Path(branch.run).expanduser(), REMEDY), branch.dialogue)
    if branch.turns > len(found.turns):
        raise ConfigError(f"branch.turns={branch.turns}: {branch.dialogue} of {branch.run} has {len(found.turns)} turns")
    return found


def dialogue_of(run: RunReader, name: str) -> Transcript:
    """A dialogue of a run of converse. Raises ConfigError."""
    if not run.begun:
        raise ConfigError(f"{run.folder}: is no run's folder; name one that holds config.yaml and transcripts.jsonl")
    if problem := without_dialogues(run):
        raise ConfigError(problem)
    if run.kind != TALKS:
        raise ConfigError(f"{run.folder}: is a run of {run.kind}, and what spoke in it went on learning; {REMEDY} of {TALKS}")
    there = {one.id: one for one in run.transcripts()}
    if name not in there:
        known = near(name, there) or (f"; there are {', '.join(list(there)[:3])}" if there else "; there is no finished dialogue yet")
        raise ConfigError(f"{run.folder}: has no finished dialogue {name}{known}")
    return there[name]


def place_of(word: str) -> tuple[str, int]:
    """ "c0001/3" -> dialogue and index of the last turn that is kept. Raises ConfigError."""
    name, _, place = word.rpartition("/")
    found = re.fullmatch(r"t?(\d{1,6})", place)
    if not name or found is None:
        raise ConfigError(f"{word}: names no turn; write DIALOGUE/NUMBER, as c0001/3 (the first turn is 0)")
    return name, int(found[1])


def branch_config(parent: ConverseConfig, transcript: Transcript, branch: BranchConfig, folder: str | None) -> ConverseConfig:
    """The config of a run that goes on with one dialogue of the `parent`'s. Raises ConfigError for turns of somebody who is not there."""
    if lost := sorted({turn.speaker for turn in transcript.turns[: branch.turns]} - set(parent.experts.seats)):
        raise ConfigError(f"experts: {', '.join(lost)} spoke in {branch.dialogue}, and no expert of the branch is called so")
    conversation = parent.conversation.model_copy(update={"opener": transcript.turns[0].speaker, "part": None})
    topics = TopicsConfig(source="list", list=[transcript.topic])
    run = parent.run.model_copy(update={"dir": folder})
    return parent.model_copy(update={"conversation": conversation, "topics": topics, "run": run, "branch": branch})


def kept_turns(parent: Transcript, branch: BranchConfig) -> list[Turn]:
    """The turns that a branch begins with."""
    *before, last = parent.turns[: branch.turns]
    return [*before, last if branch.edited is None else changed(last, branch.edited)]


def branched(branch: BranchConfig | None) -> list[str]:
    """Where a run comes from, in words."""
    if branch is None:
        return []
    edited = ", which is edited" if branch.edited is not None else ""
    notes = [f"a branch of {branch.run}: {branch.dialogue} goes on after its turn {branch.turns - 1}{edited}"]
    then = other_id(Path(branch.run).expanduser())
    return notes if then is None else [*notes, f"{branch.run} was begun with {both(then)}: these say something else"]


# -- the family -------------------------------------------------------------------------------------------------------------


def branch_of(run: RunReader) -> Mapping[str, Any] | None:
    """What a run's config says of where it goes on from; None too where it cannot be read."""
    try:
        found = run.config.get("branch")
    except ConfigError:
        return None
    return found if isinstance(found, Mapping) else None


def run_above(branch: Mapping[str, Any]) -> Path:
    """The run that a branch (`branch_of`) goes on from."""
    return Path(str(branch.get("run"))).expanduser().resolve()


def family_of(folder: Path) -> list[dict[str, Any]]:
    """The tree that a run belongs to, from its root on, in the order in which it is drawn: each run with its `depth`, where it goes on from
    and what it says of itself. Runs are looked for beside those that are known."""
    root, seen = folder.expanduser().resolve(), set[Path]()
    while root not in seen and (above := branch_of(RunReader(root, REMEDY))) is not None:
        seen.add(root)
        parent = run_above(above)
        if not (parent / "config.yaml").is_file():
            break
        root = parent
    known = {place.resolve(): branch_of(RunReader(place, REMEDY)) for place in _beside({root, folder.expanduser().resolve()})}

    def below(place: Path, depth: int) -> list[dict[str, Any]]:
        rows = [{"folder": str(place), "depth": depth, "branch": dict(known.get(place) or {}), **_about(RunReader(place, REMEDY))}]
        children = [one for one, branch in known.items() if branch and run_above(branch) == place]
        return rows + [row for child in sorted(children) if child != place and depth < 100 for row in below(child, depth + 1)]

    return below(root, 0)


def families_beside(folders: Iterable[Path]) -> list[list[dict[str, Any]]]:
    """The trees (`family_of`) of more than one run that these runs belong to, each once. Who has none is quickly told: they may be
    hundreds."""
    seen, found, related = set[str](), list[list[dict[str, Any]]](), dict[Path, set[Path]]()
    for folder in (folder.expanduser().resolve() for folder in folders):
        if folder.parent not in related:
            related[folder.parent] = _related(folder.parent)
        if folder in related[folder.parent] and str(folder) not in seen:
            rows = family_of(folder)
            seen |= {str(row["folder"]) for row in rows}
            found += [rows] if len(rows) > 1 else []
    return found


def _related(place: Path) -> set[Path]:
    """The branches that lie in a folder, and the runs that they go on from."""
    branches = {config.parent: branch_of(RunReader(config.parent, REMEDY)) for config in place.glob("*/config.yaml") if _has_branch(config)}
    return {one.resolve() for folder, branch in branches.items() if branch is not None for one in (folder, run_above(branch))}


def _beside(places: set[Path]) -> list[Path]:
    """The branches that lie beside these runs, and these."""
    configs = {config for place in places for config in place.parent.glob("*/config.yaml")}
    return sorted({config.parent for config in configs if _has_branch(config)} | places)


def _has_branch(config: Path) -> bool:
    """Whether a run's config may name where it goes on from: quickly said, for a folder may hold hundreds of runs."""
    try:
        return BRANCH in config.read_bytes()
    except OSError:
        return False


def _about(run: RunReader) -> dict[str, Any]:
    """How far a run is, and its models."""
    try:
        experts = run.config.get("experts") or {}
    except ConfigError:
        experts = {}
    named = {seat: one for seat, one in experts.items() if isinstance(one, Mapping)}
    models = {seat: "a person" if one.get("backend") == "human" else str(one.get("path")) for seat, one in named.items()}
    return {"done": run.done, "turns": run.summary.get("turns"), "models": models, "seed": run.seed}
