"""`expertchat arms RUN [RUN ...]`: the runs of several arms as one table with intervals, the seeds of an arm pooled."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError, near
from expertchat.folder.reader import RunReader
from expertchat.folder.run_folder import differences
from expertchat.folder.writing import write_out
from expertchat.records import Speaker
from expertchat.runs.arm import Row, row
from expertchat.runs.learnt import NO_ARM, Run
from expertchat.runs.pooled import Pool, better, held_against, pool_of
from expertchat.text.cells import csv_cell

__all__ = ["NO_ARM", "Row", "Run", "Table", "arms", "arms_of", "bundles", "is_training", "read_run", "run_arms"]
SUFFIXES = (".md", ".csv", ".json", ".svg")
ALIKE = 1.05  # times as many judged replies that are as good as equally many: dialogues end where they end
AGAINST = ("control", "minus_control", "minus_control_low", "minus_control_high", "minus_control_n", "minus_control_least",
           "minus_control_p", "minus_control_holm")  # fmt: skip
FEW_KEYS = 2  # that an arm's name tells, where they tell it from the others
ROWS = "sft"  # a training in which nobody is judged
NOTHING_LEARNT = "random_judge"  # the arm that the others are held against, where there is such


@dataclass
class Table:
    """The rows, one for each arm and learner, and what must be said beside them."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def values(self) -> dict[str, Any]:
        return {"schema": 1, "arms": self.rows, "notes": self.notes}


def run_arms(
    arguments: Sequence[str],
    show: Callable[[Mapping[str, Any]], None],
    markdown: Callable[[Mapping[str, Any]], str],
    picture: Callable[[Sequence[Row]], str],
) -> int:
    """Show the table, and write it where --out says: as Markdown by `markdown`, as a `picture`. Raises ConfigError."""
    import argparse

    parser = argparse.ArgumentParser("expertchat arms", description="Several training runs as one table, the seeds of an arm pooled.")
    parser.add_argument("run", type=Path, nargs="+", metavar="RUN", help="a run folder, or a folder of runs")
    against = f"the arm that the others are held against (default: {NOTHING_LEARNT}, else the first)"
    parser.add_argument("--control", metavar="ARM", help=against)
    written = f"write the table as {', '.join(SUFFIXES[:-1])} too, or truth against reward as {SUFFIXES[-1]}"
    parser.add_argument("--out", type=Path, metavar="FILE", help=written)
    options = parser.parse_args(list(arguments))
    out: Path | None = options.out
    wrong = [f"--out {out}: must end in {', '.join(SUFFIXES)}"] if out is not None and out.suffix not in SUFFIXES else []
    try:
        table = arms(options.run, options.control)
    except ConfigError as error:
        raise ConfigError([*error.problems, *wrong]) from None
    if wrong:
        raise ConfigError(wrong)
    if out is not None:
        text = {".md": lambda: markdown(table.values()), ".csv": lambda: as_csv(table.rows), ".json": lambda: as_json(table),
                ".svg": lambda: picture(table.rows)}[out.suffix]()
        write_out(f"--out {out}", out, text)
    show(table.values())
    return 0


def arms(folders: Sequence[Path], control: str | None = None) -> Table:
    """The table of all runs in `folders`. Raises ConfigError with every folder that holds no run, and for an unknown control."""
    notes: list[str] = []
    return arms_of(_readers(folders, notes), notes, control)


def arms_of(readers: Sequence[RunReader], notes: Sequence[str] = (), control: str | None = None) -> Table:
    """The table of training runs. Raises ConfigError for a file that is damaged, and for a control that is none of the arms."""
    table = Table(notes=list(notes))
    pools: list[Pool] = []
    for name, same in bundles(readers):
        runs = _one_a_seed(name, same, table.notes)
        pool = pool_of(name, runs)
        pools += [pool] if pool is not None else []
        table.rows.append(row(name, runs, pool) | dict.fromkeys((*AGAINST, "better_than")))
    _compare(table, pools, control)
    judges = sorted({str(one["judge"]) for one in table.rows if one["judge"]})
    if len(judges) > 1:
        table.notes.append(f"the arms are not judged alike ({', '.join(judges)}): their win rates cannot be compared")
    seen = sorted({number for one in table.rows for number in (one["judged"], one["judged_max"])})
    if seen and seen[-1] > ALIKE * seen[0] and len({one["method"] for one in table.rows}) > 1:
        table.notes.append(f"not all were trained on equally many judged replies ({seen[0]:,} to {seen[-1]:,})")
    return table


def _compare(table: Table, pools: Sequence[Pool], control: str | None) -> None:
    """What each arm comes to beside the control, and which arms it is better than, where they have histories in common."""
    names = list(dict.fromkeys(str(one["arm"]) for one in table.rows))
    if control is not None and control not in names:
        raise ConfigError(f"--control {control}: is none of the arms{near(control, names)}; they are {', '.join(names)}")
    chosen = control or (NOTHING_LEARNT if NOTHING_LEARNT in names else names[0] if names else None)
    for learner in {pool.learner for pool in pools}:
        own = [pool for pool in pools if pool.learner == learner]
        base = next((pool for pool in own if pool.name == chosen), None)
        held, than = held_against(base, own) if base is not None else {}, better(own)
        for one in table.rows:
            if one["learner"] == learner:
                one |= held.get(one["arm"], {}) | {"better_than": than.get(one["arm"])}
    lost = [str(one["arm"]) for one in table.rows if one["control"] and not one["minus_control_n"]]
    if lost:
        table.notes.append(f"no history in common with {chosen} (other seeds, or another evaluation): {', '.join(lost)}")


def bundles(readers: Sequence[RunReader]) -> list[tuple[str, list[Run]]]:
    """The runs and learners that differ in nothing but their seed, each bundle with its name. Raises ConfigError for damage."""
    groups: dict[tuple[str, Speaker], list[Run]] = {}
    for run in (run for reader in readers for run in read_run(reader)):
        groups.setdefault((run.arm, run.learner), []).append(run)
    return [bundle for group in groups.values() for bundle in _alike(group)]


# -- finding and reading runs -------------------------------------------------------------------------------------------


def _readers(folders: Sequence[Path], notes: list[str]) -> list[RunReader]:
    """The training runs in the folders, each once."""
    found: list[RunReader] = []
    problems = []
    for folder in folders:
        named = RunReader(folder.expanduser())
        if not named.folder.is_dir():
            problems.append(f"{folder}: no such folder; name a training run (online_dpo, rloo, grpo), or a folder of such runs")
        elif named.begun:
            found.append(named)
            if named.kind == ROWS:
                problems.append(f"{folder}: teaches rows ({ROWS}), and nobody is held against the base; leave it out")
            elif not is_training(named):
                problems.append(f"{folder}: is a run, but no training run (online_dpo, rloo, grpo); leave it out")
        else:
            inside = [RunReader(place) for place in _places(named.folder)]
            training = [one for one in inside if is_training(one) and one.kind != ROWS]
            found += training
            if not training:
                problems.append(f"{folder}: holds no training run (online_dpo, rloo, grpo); name a run folder, or the folder of a sweep")
            elif len(training) < len(inside):
                notes.append(f"{folder}: runs of other commands, left out: {len(inside) - len(training)}")
    if problems:
        raise ConfigError(problems)
    return list({one.folder.resolve(): one for one in found}.values())


def _places(folder: Path) -> list[Path]:
    """The run folders below a folder. What lies in a run (a tracker's files) is no run of its own."""
    places = sorted(path.parent for path in folder.rglob("config.yaml") if path.parent.name != "submission")
    return [place for place in places if not any(parent in places for parent in place.parents)]


def is_training(run: RunReader) -> bool:
    """Whether it is a training run, and one alone: those that were merged have no seed. Raises ConfigError where its config is lost."""
    return run.seed is not None and run.trains and bool(run.learners)


def read_run(reader: RunReader) -> list[Run]:
    """A run as one `Run` for each of its learners. Raises ConfigError for a file that is damaged."""
    metrics = {one.id: one for one in reader.metrics()}
    found = []
    for who in reader.learners:
        own = [one for one in metrics.values() if one.learner == who]
        evaluations = [one for one in own if one.kind == "evaluation" and one.round > 0]
        found.append(Run(reader, who, [one for one in own if one.kind == "round"], evaluations[-1] if evaluations else None))
    return found


# -- grouping -----------------------------------------------------------------------------------------------------------


def _alike(group: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """Runs of one arm that differ in nothing but their seed, each such bundle with its name: what differs is named."""
    bundles: list[list[Run]] = []
    for run in group:
        same = next((one for one in bundles if not _differing(one[0], run)), None)
        if same is None:
            bundles.append([run])
        else:
            same.append(run)
    keys = list(dict.fromkeys(key for one in bundles[1:] for key in _differing(bundles[0][0], one[0])))
    values = [[f"{key}={_value(one[0].made_with, key)}" for key in keys] for one in bundles]
    few = FEW_KEYS if len({tuple(own[:FEW_KEYS]) for own in values}) == len(bundles) else len(keys)
    named = []
    for one, own in zip(bundles, values, strict=True):
        shown = [*own[:few], *(["..."] if len(own) > few else [])]
        named.append((one[0].arm + (f" ({', '.join(shown)})" if shown else ""), one))
    return named


def _differing(one: Run, two: Run) -> list[str]:
    return [key for line in differences(one.made_with, two.made_with) if (key := line.split(": was ")[0]) != "run.seed"]


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _one_a_seed(name: str, runs: Sequence[Run], notes: list[str]) -> list[Run]:
    """Each seed once, a finished run before an unfinished one: the same run counted twice would look like more evidence.

    Where some were evaluated at the end, what others came to on the way is left out: it is of other topics, by which weights are chosen,
    and of weights that need not be the result. Of a run in which several experts learn, what concerns it as a whole is noted once.
    """

    def note(said: str) -> None:
        if said not in notes:
            notes.append(said)

    by_seed: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: not run.finished):
        if run.seed in by_seed:
            note(f"{name}: {run.folder} has the seed {run.seed} of {by_seed[run.seed].folder} and is left out")
        else:
            by_seed[run.seed] = run
    ended = any(run.at_the_end for run in by_seed.values())
    kept = {seed: run if run.at_the_end or not ended else replace(run, evaluation=None) for seed, run in by_seed.items()}
    for seed, run in by_seed.items():
        if run.reader.failure is not None:
            note(f"{name}: {run.folder} failed: {run.reader.failure}")
        elif not run.finished:
            lacks = ", not evaluated yet" if run.evaluation is None else ", evaluated on the way alone, which does not count"
            said = f"{len(run.rounds)} of {run.rounds_wanted} rounds" + ("" if kept[seed].evaluation else lacks)
            who = f", expert {run.learner}" if len(run.reader.learners) > 1 else ""
            note(f"{name}{who}: {run.folder} is not finished ({said})")
    return [kept[seed] for seed in sorted(kept)]


# -- files --------------------------------------------------------------------------------------------------------------


def as_csv(rows: Sequence[Row]) -> str:
    """Every figure of every arm; what there is not is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    flat = ({**one, "seeds": " ".join(map(str, one["seeds"]))} for one in rows)
    writer.writerows({name: csv_cell(value) for name, value in one.items()} for one in flat)
    return out.getvalue()


def as_json(table: Table) -> str:
    return json.dumps(table.values(), indent=1, ensure_ascii=False) + "\n"
