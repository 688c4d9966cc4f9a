"""How an item, the answer to it and the judges' opinions of it look: plain texts in which nothing of a model's is markup.

Nobody's name is shown: speakers are numbered in the order in which they speak, and the texts of a pair are A (left) and B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.text import Text

from expertchat.records.lab import Choice, Item, Label, Opinion
from expertchat.text.sentences import clean, one_line
from expertchat.views.label.wanted import Form, Sitting, Task
from expertchat.views.looks import COLOURS, bar, fitted, run_bar

SCALE = 10  # cells of a rating's bar
SIDES = ("A", "B")


def heading(sitting: Sitting, width: int) -> Text:
    """Who labels, how far they are."""
    text = run_bar(sitting.done, sitting.total, "done", width)
    if sitting.skipped:
        text.append(f" · {sitting.skipped} skipped", "dim")
    return fitted(text.append(f" · {clean(sitting.annotator)} · {sitting.form.name}"), width)


# -- the item -----------------------------------------------------------------------------------------------------------


def speakers(item: Item) -> dict[str, str]:
    """What the speakers are called on the screen: seats may be names of models."""
    seats = dict.fromkeys([*(turn.speaker for turn in item.turns), item.subject])
    return {seat: f"Speaker {number}" for number, seat in enumerate(seats, 1)}


def context(task: Task) -> Text:
    """The topic and what was said before; of a whole dialogue all of it, the judged speaker marked."""
    item = task.item
    names, text = speakers(item), Text()
    if item.topic:
        text.append("Topic  ", "dim").append(f"{clean(one_line(item.topic))}\n", "bold")
    if item.reference:
        text.append("Reference  ", "dim").append(f"{_block(item.reference)}\n")
    if item.whole:
        text.append(f"Judge all that {names[item.subject]} says (marked ▌).\n", "bold")
    for turn in item.turns:
        judged = item.whole and turn.speaker == item.subject
        style = COLOURS[list(names).index(turn.speaker) % len(COLOURS)]
        text.append(f"\n{'▌' if judged else ''}{names[turn.speaker]}\n", f"bold {style}")
        text.append(f"{_block(turn.text)}\n", "" if judged or not item.whole else "dim")
    return text


def _block(text: str) -> str:
    """A text of several lines as it can be drawn: a tab has no width of its own."""
    return clean(text.strip()).expandtabs(4)


def judged(task: Task) -> list[tuple[str, Text]]:
    """(title, text) of what is judged: one text, or the left and the right one; nothing where the whole dialogue stands above."""
    item = task.item
    if item.whole and not task.left:
        return []
    who = speakers(item)[item.subject] if item.turns else ""
    if task.left is None:
        return [(f"{who} goes on; judge this" if who else "Judge this", Text(_block(item.texts[task.place].text)))]
    texts = item.texts if task.left == "first" else [*reversed(item.texts)]
    return [(f"{side}{f': {who} goes on' if who else ''}", Text(_block(one.text))) for side, one in zip(SIDES, texts, strict=True)]


def ended(sitting: Sitting) -> Text:
    """What stands where the last item stood."""
    text = Text("\nEverything is answered. Thank you.\n\n", "bold") if sitting.total else Text("\nThere is nothing to answer here.\n\n")
    return text.append("u takes the last answer back, q leaves.", "dim")


# -- the answer ---------------------------------------------------------------------------------------------------------


def answer(form: Form, task: Task, label: Label, cursor: int, width: int) -> Text:
    """The answer as far as it is given, one line for each scale, and a line of flags and words."""
    lines = [_choice(form, label, width)] if task.left else _scales(form, label, cursor, width)
    return Text("\n").join([*lines, *_words(form, task, label, width)])


def side_of(choice: Choice | None, label: Label) -> str | None:
    """A choice as the screen shows it: A is what stands on the left."""
    return None if choice is None else "tie" if choice == "tie" else SIDES[choice != label.shown]


def choice_of(side: str, label: Label) -> Choice:
    """A side of the screen ("a", "b", "tie") as a choice between the texts of the item."""
    if side == "tie":
        return "tie"
    return "first" if (side == "a") == (label.shown == "first") else "second"


def _choice(form: Form, label: Label, width: int) -> Text:
    chosen, text = side_of(label.choice, label), Text("Which is better?   ")
    for key, side, name in (("a", "A", "A"), ("t", "tie", "neither"), ("b", "B", "B")):
        if side == "tie" and not form.tie:
            continue
        text.append(f" {key} ", "dim").append(f" {name} ", "bold reverse" if chosen == side else "bold").append("   ")
    return fitted(text, width)


def _scales(form: Form, label: Label, cursor: int, width: int) -> list[Text]:
    """A line each; of the marked one, where it is too long for the screen, what it asks once more and whole."""
    room = max((cell_len(name) for name in form.scales), default=0)
    lines, cut = [], False
    for number, (name, asks) in enumerate(form.scales.items()):
        here = number == cursor
        line = Text().append("▸ " if here else "  ", "bold").append(name.replace("_", " ").ljust(room + 1), "bold" if here else "")
        value = label.ratings.get(name)
        if name not in label.ratings:
            line.append(" · ".rjust(4), "dim").append("─" * SCALE, "dim")
        elif value is None:
            line.append(" ? ".rjust(4), "bold").append("cannot say".ljust(SCALE), "dim")
        else:
            line.append(f"{value:>3} ", "bold").append_text(bar(value / SCALE, SCALE, "green"))
        line.append(f"  {clean(one_line(asks))}", "" if here else "dim")
        cut = cut or (here and line.cell_len > width)
        lines.append(fitted(line, width))
    if cut:
        lines.append(Text(f"  {clean(one_line(form.scales[list(form.scales)[cursor]]))}", "italic"))
    return lines


def _words(form: Form, task: Task, label: Label, width: int) -> list[Text]:
    given = [("flags", ", ".join(name.replace("_", " ") for name in label.flags), bool(form.flags))]
    given += [("missing", label.missing or "", form.missing and not task.left), ("comment", label.comment or "", True)]
    lines = []
    for name, words, wanted in given:
        if words and wanted:
            lines.append(fitted(Text(f"  {name}  ", "dim").append(clean(one_line(words))), width))
    return lines


def flags(form: Form, chosen: Sequence[str], keys: str) -> Text:
    """The flags with their keys, those that are set marked."""
    text = Text()
    for key, (name, says) in zip(keys, form.flags.items(), strict=False):
        on = name in chosen
        text.append(f" {key} ", "dim").append("■ " if on else "□ ", "bold green" if on else "dim")
        text.append(name.replace("_", " "), "bold" if on else "").append(f"  {clean(one_line(says))}\n" if says else "\n", "dim")
    return text


# -- the judges ---------------------------------------------------------------------------------------------------------


def verdicts(task: Task, label: Label, opinions: Sequence[Opinion]) -> Text:
    """What the annotator and each judge say of one item."""
    text = Text("You    ", "bold").append(_said(label) + "\n\n")
    if not opinions:
        return text.append("No judge says anything of this one.", "dim")
    by_judge: dict[str, list[str]] = {}
    for opinion in opinions:
        by_judge.setdefault(opinion.judge, []).append(_opinion(opinion, label))
    for judge, said in by_judge.items():
        text.append(f"{clean(judge)}\n", "bold").append("\n".join(f"  {one}" for one in dict.fromkeys(said)) + "\n")
    return text


def _said(label: Label) -> str:
    if label.choice is not None:
        return side_of(label.choice, label) or ""
    return ", ".join(f"{name} {'?' if value is None else value}" for name, value in label.ratings.items()) or ", ".join(label.flags)


def _opinion(opinion: Opinion, label: Label) -> str:
    if opinion.choice is not None:
        order = f", shown {side_of(opinion.order, label)} first" if opinion.order else ""
        return f"{clean(opinion.category)}: {side_of(opinion.choice, label)}{order}"
    where = f" ({side_of(('first', 'second')[opinion.place], label)})" if label.shown else ""
    number = "no answer" if opinion.number is None else f"{opinion.number:.1f}".removesuffix(".0")
    return f"{clean(opinion.category)}{where}: {number}"


KEYS: Mapping[str, str] = {
    "1 ... 9, 0": "rate the marked line, 0 is ten; then the next one is marked",
    "-": "cannot say",
    "Up, Down": "mark another line",
    "a, b, t": "of two texts: the left one is better, the right one, neither",
    "f": "flags",
    "w": "what is missing in the text, in your own words",
    "c": "a comment",
    "Enter": "keep the answer and go on",
    "u": "take the last answer back and give another one",
    "s": "skip",
    "v": "what the judges say of the one you answered last (then it cannot be taken back)",
    "PgUp, PgDn, j, k": "scroll the text",
    "q": "leave; the same command goes on later",
}


def keys(form: Form, may_see: bool) -> Text:
    """The guide of the form and what the keys do."""
    text = Text(f"{clean(form.guide.strip())}\n\n" if form.guide.strip() else "")
    room = max(map(len, KEYS)) + 2
    for key, does in KEYS.items():
        if may_see or key != "v":
            text.append(key.ljust(room), "bold").append(f"{does}\n")
    return text
