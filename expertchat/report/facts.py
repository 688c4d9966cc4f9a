"""What was run: models, sizes, seeds, versions, commit, hours, machine; and the counts of the first screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expertchat.command.compose import load
from expertchat.command.table import COMMANDS
from expertchat.config import ConfigError
from expertchat.folder.jsonl import as_number
from expertchat.folder.reader import RunReader
from expertchat.folder.run_folder import differences
from expertchat.folder.summary import seconds_of
from expertchat.report.parts import Cell, Shown
from expertchat.report.subject import Subject
from expertchat.report.words import counted
from expertchat.text.in_words import age
from expertchat.text.sentences import shown_path

MOST = 4  # runs beside each other; of more, what all have is told once, and what differs in a table of runs
FEW_LETTERS = 90  # of a fact that differs among many runs
DIFFERENCES = 40  # keys of a config that are told
Facts = dict[str, str | int | float | None]


def facts_of(run: RunReader) -> Facts:
    """What is known of a run, in words. What is not known is None."""
    said = run.provenance
    packages = said.get("packages") if isinstance(said.get("packages"), Mapping) else {}
    git = said.get("git") if isinstance(said.get("git"), Mapping) else None
    seconds = seconds_of(run.folder)
    facts: Facts = {
        "command": " ".join(run.command_line) or run.kind or None,
        "state": state(run),
        "models": _models(run),
        "seed": _seeds(run),
        "size": _size(run),
        "judge": _judge(run),
        "time at work": age(seconds) if seconds else None,
        "begun": str(said["date"])[:16].replace("T", " ") if said.get("date") else None,
        "machine": ", ".join(str(said[key]) for key in ("host", "platform") if said.get(key))
        + (f", {said['cpus']} processors" if said.get("cpus") else "")
        or None,
        "job": _job(said.get("slurm")),
        "commit": None if git is None else f"{str(git.get('commit'))[:12]}{', with changes' if git.get('changed') else ''}",
        "versions": ", ".join(f"{name} {version}" for name, version in (packages or {}).items() if version) or None,
    }
    return facts


def state(run: RunReader) -> str:
    """done, failed and why, or how far it is."""
    if run.failure is not None:
        return f"at its end, failed: {run.failure}"
    if run.done:
        return "done"
    alive = run.heartbeat().silence() < 120
    return "going on" if alive else "not at its end; nobody writes it"


def _models(run: RunReader) -> str | None:
    config = _config(run)
    found = []
    experts = config.get("experts")
    named = dict(experts) if isinstance(experts, Mapping) else {}
    for key in ("model", "base", "judge_model", "third"):
        if isinstance(config.get(key), Mapping):
            named[key] = config[key]
    for who, model in named.items():
        if isinstance(model, Mapping) and model.get("path"):
            more = [str(model[key]) for key in ("quantization", "dtype", "trained") if model.get(key) not in (None, "none", "auto")]
            found.append(f"{who}: {shown_path(str(model['path']))}" + (f" ({', '.join(more)})" if more else ""))
    return "\n".join(found) or None


def _config(run: RunReader) -> Mapping[str, Any]:
    try:
        return run.config
    except ConfigError:
        return {}


def _seeds(run: RunReader) -> str | int | None:
    try:
        if run.seed is not None:
            return run.seed
    except ConfigError:
        return None
    own = _config(run).get("run")
    seeds = own.get("seeds") if isinstance(own, Mapping) else None  # of a run that was merged of several
    return f"{', '.join(map(str, seeds))}: merged of {len(seeds)} runs" if isinstance(seeds, list) else None


def _size(run: RunReader) -> str | None:
    """How much of what there is."""
    summary, parts = run.summary, []
    for name, key in (("dialogues", "conversations"), ("turns", "turns"), ("tokens", "tokens"), ("rounds", "rounds"), ("pairs", "pairs"),
                      ("groups", "groups"), ("steps", "steps"), ("prompts", "prompts"), ("candidates", "candidates"), ("items", "items"),
                      ("opinions", "opinions"), ("rows held out", "held_out")):  # fmt: skip
        if isinstance(value := summary.get(key), int):
            parts.append(f"{value:,} {name[:-1] if value == 1 and name.endswith('s') else name}")
    rows = summary.get("rows")
    if isinstance(rows, Mapping):
        parts.append(", ".join(f"{counted(count, 'row')} of {part}" for part, count in rows.items() if isinstance(count, int)))
    elif isinstance(rows, int):
        parts.append(counted(rows, "row"))
    if not run.done and run.last_round:
        parts.append(f"{counted(run.last_round, 'round')} so far")
    return ", ".join(parts) or None


def _judge(run: RunReader) -> str | None:
    config = _config(run)
    judges, judging = config.get("judges"), config.get("judging")
    if isinstance(judges, Mapping):  # of what is there already, by names of its own; nobody of judging.judge is asked
        return ", ".join(map(str, judges)) or None
    if isinstance(judging, Mapping):
        return f"{judging.get('judge')}, {judging.get('form')}; categories {', '.join(judging.get('categories') or ())}"
    return None


def _job(slurm: object) -> str | None:
    if not isinstance(slurm, Mapping):
        return None
    return ", ".join(f"{key} {value}" for key, value in slurm.items() if value) or None


def changed(run: RunReader) -> str | None:
    """The keys of the config that are not as the command has them by itself, a line each; None where that cannot be told."""
    entry = COMMANDS.get(run.kind)
    if entry is None or entry.root is None or not _config(run):
        return None
    try:
        found = differences(load(run.kind).model_dump(mode="json"), _config(run))
    except ConfigError:
        return None
    lines = [line.replace(": was ", ": by default ", 1).replace(", is ", ", here ", 1) for line in found]
    lines = [line if len(line) <= 200 else f"{line[:200]} ..." for line in lines]
    more = [f"and {len(lines) - DIFFERENCES} more"] if len(lines) > DIFFERENCES else []
    return "\n".join([*lines[:DIFFERENCES], *more]) or "nothing"


def facts(subject: Subject) -> Shown:
    """The facts of all runs: a column each, or of many a column of what they have in common and one of how they differ."""
    all_facts = {subject.name(run): {**facts_of(run), "not as by default": changed(run)} for run in subject.runs[:MOST]}
    if len(subject.runs) > MOST:
        return _of_many(subject)
    names = list(dict.fromkeys(key for known in all_facts.values() for key in known))
    rows = {
        name: [Cell(known[name]) for known in all_facts.values()]
        for name in names
        if any(known[name] is not None for known in all_facts.values())
    }
    worded = {name: [_worded(cell) for cell in cells] for name, cells in rows.items()}
    return Shown("Models, seeds, versions, machine", list(all_facts), worded)


def _worded(cell: Cell) -> Cell:
    return Cell(None if cell.value is None else str(cell.value))


def _of_many(subject: Subject) -> Shown:
    known = [facts_of(run) for run in subject.runs]
    rows = {}
    for name in known[0]:
        values = list(dict.fromkeys(str(one[name]) for one in known if one[name] is not None))
        if len(values) == 1:
            rows[name] = [Cell(values[0])]
        elif values:
            few = [value if len(value) <= FEW_LETTERS else f"{value[:FEW_LETTERS].rstrip()} ..." for value in values[:3]]
            rows[name] = [Cell(f"{len(values)} different: {'; '.join(few)}{' ...' if len(values) > 3 else ''}")]
    return Shown(f"What the {len(known)} runs have in common", ["all of them"], rows, note="Run by run: the section Runs.")


def tiles(subject: Subject) -> list[tuple[str, str, str]]:
    """The counts of the first screen."""
    summaries = [run.summary for run in subject.runs]

    def total(key: str) -> int:
        return int(sum(as_number(one.get(key)) for one in summaries))

    found = [("runs", str(len(subject.runs)), _states(subject))] if len(subject.runs) > 1 else []
    dialogues = sum(_count(run, "transcripts") for run in subject.runs if not run.chooses)
    for name, value, note in (
        ("dialogues", dialogues, f"{total('turns'):,} turns" if total("turns") else ""),
        ("rounds", sum(max(run.last_round, 0) for run in subject.trained), ""),
        ("pairs", sum(_count(run, "pairs") for run in subject.runs), ""),
        ("prompts", total("prompts"), f"{total('candidates'):,} candidates" if total("candidates") else ""),
        ("items judged", total("items"), f"{total('opinions'):,} opinions" if total("opinions") else ""),
    ):
        if value:
            found.append((name, f"{value:,}", note))
    asked = sum(_count(run, "ratings") for run in subject.runs)
    if asked:
        null = sum(1 for run in subject.runs for line in run.lines("ratings") if line.get("expected") is None and line.get("value") is None)
        found.append(("ratings", f"{asked:,}", f"{100 * null / asked:.1f} % could not be read" if null else "all could be read"))
    if (hours := sum(seconds_of(run.folder) for run in subject.runs)) >= 1:
        found.append(("time at work", age(hours), ""))
    return found[:6]


def _count(run: RunReader, name: str) -> int:
    """Whole lines of a file, counted without reading them."""
    try:
        with run.path(name).open("rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    except OSError:
        return 0


def _states(subject: Subject) -> str:
    done = sum(run.done and run.failure is None for run in subject.runs)
    return "all done" if done == len(subject.runs) else f"{done} done"
