"""Arms side by side: what each training came to against the base, the seeds of an arm pooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expertchat.report.against_reward import names_of, truth_against_reward
from expertchat.report.parts import Cell, Figure, Section, Shown
from expertchat.report.shapes import Axis, Row, cell_of, forest
from expertchat.report.subject import Subject
from expertchat.runs.arms import arms_of, is_training
from expertchat.text.in_words import line

Arm = Mapping[str, Any]
WON = Axis("replies that win against the base's, %", True, 0.5, 0.0, 1.0)
NOTE = (
    "Lines: 95 % interval, whole topics drawn over the replies of all seeds, a tie is half a win; ticks below: the lowest and the highest "
    "seed alone. How far the seeds lie apart is not in the interval."
)
ALONE = "Lines: Wilson's 95 % interval, which takes each reply for itself: the runs keep none, so their topics are not known."
COLUMNS = (
    ("method", "method"), ("judged replies", "judged"), ("replies", "n"), ("win rate, %", "win_rate"), ("seed, lowest, %", "win_rate_min"),
    ("seed, highest, %", "win_rate_max"), ("of about the same length, %", "win_rate_length_matched"), ("topics", "topics"),
    ("more than the control, %", "minus_control"), ("the control", "control"), ("p, corrected", "minus_control_holm"),
    ("facts, times the base's", "distinct_ratio"), ("truth, policy less base", "truth_difference"),
    ("reward, policy less base", "reward_difference"), ("reward gained in training", "reward_gain"),
    ("tokens", "tokens_policy"), ("the base's", "tokens_base"), ("wrong facts", "wrong_policy"), ("the base's wrong", "wrong_base"),
    ("repeats, policy less base", "repeats_difference"), ("repeats of all claims, policy less base, %", "repeat_rate_difference"),
    ("questions, policy less base", "questions_difference"),
    ("agreements, policy less base", "agreements_difference"),
    ("ties in training, %", "tie_rate"),
    ("nulls, %", "null_rate"), ("margin/sd", "margin_scaled"), ("KL, last round", "kl"), ("rounds", "rounds"),
)  # fmt: skip


def arms(subject: Subject) -> Section | None:
    """The table and the forest of two training runs and more."""
    readers = [run for run in subject.trained if is_training(run)]
    if len(readers) < 2:
        return None
    table = arms_of(readers)
    names = names_of(table.rows)
    lead = [f"{len(readers)} training runs, {len(table.rows)} arms.", *map(line, table.notes)]
    drawn = truth_against_reward(table.rows, names)
    figures = [*forests(table.rows, names), *([] if drawn is None else [drawn])]
    return Section("arms", "Arms side by side", lead, [*figures, _table(table.rows, names)])


def forests(rows: Sequence[Arm], names: Sequence[str], before: str = "arms") -> list[Figure]:
    """Win rates; those among replies of like length; what lies between them and the control; facts against the base's."""
    note = NOTE if all(row.get("drawn") == "topics" for row in rows if row["win_rate"] is not None) else ALONE
    seeds = [_by_seed(row) for row in rows]
    won = [Row(name, row["win_rate"], row["win_rate_low"], row["win_rate_high"], row["n"], own)
           for name, row, own in zip(names, rows, seeds, strict=True)]  # fmt: skip
    facts = [Row(name, row["distinct_ratio"], row["distinct_ratio_low"], row["distinct_ratio_high"], row["n"])
             for name, row in zip(names, rows, strict=True)]  # fmt: skip
    like = [_row(name, row, "win_rate_length_matched", "n_length_matched") for name, row in zip(names, rows, strict=True)]
    held = [(name, row) for name, row in zip(names, rows, strict=True) if row.get("control")]
    control = f"{line(held[0][1]['control'])}, % of the replies" if held else ""
    found = (
        forest(f"{before}-win_rate", "Replies that win against the base's, by arm", WON, won, note),
        forest(f"{before}-like_length", "The same among replies of about the same length", WON, like, f"{note.split(';')[0].rstrip('.')}."),
        forest(f"{before}-control", "Wins more than the control's, on the same histories", Axis(f"more than {control}", True, 0.0),
               [_row(name, row, "minus_control", "minus_control_n") for name, row in held], "Lines: 95 % intervals, whole topics drawn."),
        forest(f"{before}-facts", "Distinct true facts a reply, times the base's, by arm", Axis("times the base's", at=1.0), facts,
               "Lines: 95 % intervals" + (", whole topics drawn." if note == NOTE else ", the squares of the seeds' errors added up.")),
    )  # fmt: skip
    return [figure for figure in found if figure is not None]


def _row(name: str, row: Arm, key: str, count: str) -> Row:
    return Row(name, row.get(key), row.get(f"{key}_low"), row.get(f"{key}_high"), row.get(count))


def _cell(title: str, key: str, row: Arm) -> Cell:
    value = row.get(key)
    return Cell(value) if isinstance(value, str) else cell_of(title, value, row.get(f"{key}_low"), row.get(f"{key}_high"))


def _by_seed(row: Arm) -> list[float]:
    """The lowest and the highest seed, which is all of two."""
    if len(row["seeds"]) < 2:
        return []
    return [value for value in (row["win_rate_min"], row["win_rate_max"]) if value is not None]


def _table(rows: Sequence[Arm], names: Sequence[str]) -> Shown:
    shown = [(title, key) for title, key in COLUMNS if any(row.get(key) is not None for row in rows)]
    cells = {
        name: [_cell(title, key, row) for title, key in shown]
        for name, row in zip(names, rows, strict=True)
    }  # fmt: skip
    columns = ["seeds", *(title for title, _ in shown)]
    found = {name: [Cell(len(row["seeds"])), *cells[name]] for name, row in zip(names, rows, strict=True)}
    return Shown("The arms in figures", columns, found)
