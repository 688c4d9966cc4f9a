"""How things look: rich renderables of dialogues, judgements, progress and the end of a run.

Only the terminal's own colours are used (cyan, magenta, red, green, bold, dim), so that light and dark backgrounds both work. Text by
models enters through `line` or `clean` and as `Text` objects: neither escapes nor markup in it do anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from rich.align import Align
from rich.box import ROUNDED, SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table as RichTable
from rich.text import Text

from expertchat.events import CandidatesJudged, Note, RunStarted
from expertchat.records import Reward, Speaker, Turn
from expertchat.text.in_words import line
from expertchat.text.sentences import clean
from expertchat.views import looks, words
from expertchat.views.figures import shown
from expertchat.views.model import Conversation, RunState
from expertchat.views.sides import Cell, Seats, Side, Table, called, in_order, model_name
from expertchat.views.training import number

SHOWN_CANDIDATES = 6
SHOWN_PROBLEMS = 6
RATING, CATEGORY = "rating 1–10", 20  # the corner of the table of ratings, and the widest that the name of a row gets
GAP = 3  # cells between two columns
LONG_TITLE = 12  # characters of the longest "A on B" that stands in one line
_BLANK_LINES = re.compile(r"\n\s*\n\s*(?:\n\s*)*")


# -- a dialogue -----------------------------------------------------------------------------------------------------


def name(speaker: Speaker, conversation: Conversation) -> Text:
    """ "A · llama" in the speaker's colour."""
    model, seats = model_name(conversation.experts.get(speaker)), conversation.seats
    text = Text(*looks.person(speaker, seats))
    return text.append(f" · {model}", style=f"not bold {looks.colour(speaker, seats)}") if model else text


def bubble(
    text: str, speaker: Speaker, conversation: Conversation, width: int, foot: str = "", writing: bool = False, thinking: str | None = None
) -> RenderableType:
    """One turn as a chat bubble where its speaker stands. While it is written it keeps its full width, so that nothing jumps.

    What was thought is one dim line, or with `unfold` stands above what was said.
    """
    said = _tidy(text)
    body = Text(words.thought_in_words(thinking, now=writing and not said), style="dim")
    if body and conversation.unfold:
        body = Text(_tidy(thinking or ""), style="dim italic")
    body = Text.assemble(body, "\n" if body and said else "", said)
    title, widest = name(speaker, conversation), looks.bubble_width(width)
    style, side = looks.colour(speaker, conversation.seats), looks.edge(speaker, conversation.seats)
    if writing:
        body.append("▌", style=style)
    needed = max([cell_len(part) for part in body.plain.split("\n")] + [title.cell_len + 2, cell_len(foot) + 2]) + 4
    panel = Panel(
        body,
        title=title,
        title_align=side,
        subtitle=Text(foot, style="dim") if foot else None,
        subtitle_align=side,
        box=ROUNDED,
        border_style=style,
        width=widest if writing else min(widest, needed),
        padding=(0, 1),
    )
    return looks.placed(panel, speaker, conversation.seats, width)


def _tidy(text: str) -> str:
    return _BLANK_LINES.sub("\n\n", clean(text).strip()).expandtabs(4)


def turn_bubble(turn: Turn, index: int, conversation: Conversation, width: int) -> RenderableType:
    """A finished turn, with what must be known of it underneath: cut, note, its own reward."""
    known = [*words.remarks(turn), *words.turn_in_words(conversation.turn_rewards(index))]
    return bubble(turn.text, turn.speaker, conversation, width, " · ".join(known), thinking=turn.thinking)


def heading(conversation: Conversation, turns: int | None = None) -> RenderableType:
    """The line above a dialogue: its id, topic, and how far it is."""
    text = Text.assemble((conversation.name, "dim"), "  ", (conversation.topic, "bold"), overflow="ellipsis", no_wrap=True)
    if conversation.source in conversation.seats:
        text.append(f"  proposed by {called(conversation.source)}", style="dim")
    if turns and conversation.stop_reason is None:
        text.append(f"  turn {min(len(conversation.by_index) + 1, turns)} of {turns}", style="dim")
    return Rule(text, align="left", style="dim", characters="─")


def waiting_bubble(conversation: Conversation, width: int) -> RenderableType:
    """Somebody has the word, but nothing of it is seen yet."""
    speaker, seats = conversation.next_speaker, conversation.seats
    if speaker is None:
        return Text("  ● ● ●", "dim")
    text = Text.assemble(("  ● ● ●  ", f"dim {looks.colour(speaker, seats)}"), (f"{called(speaker)} is next", "dim"))
    return looks.placed(text, speaker, seats, width)


def ended(conversation: Conversation, width: int) -> RenderableType:
    """Why and when a dialogue ended."""
    said = words.stop_in_words(conversation.stop_reason, len(conversation.by_index))
    return Align(Text(said, style="dim"), "center", width=min(width, looks.WIDEST))


# -- candidates -----------------------------------------------------------------------------------------------------


def candidates(judged: CandidatesJudged, seats: Seats, width: int) -> RenderableType:
    """The candidates of a turn, a line each with its reward: best in green, worst in red, the one that the talk went on with marked."""
    rewards = {i: value for i, reward in enumerate(judged.rewards) if (value := number(reward)) is not None}
    best = max(rewards, key=lambda i: rewards[i], default=None)
    worst = min(rewards, key=lambda i: rewards[i], default=None)
    if best is not None and worst is not None and rewards[best] == rewards[worst]:
        best = worst = None
    count = len(judged.texts)
    must = {i for i in (judged.continued, best, worst) if i is not None}
    kept = sorted([*must, *[i for i in range(count) if i not in must][: max(0, SHOWN_CANDIDATES - len(must))]])
    lines = []
    for i in kept:
        if i < count:
            style = {best: "bold green", worst: "red"}.get(i, "") if i in rewards else "dim"
            lines.append(_candidate(judged, i, style, looks.colour(judged.speaker, seats), looks.bubble_width(width) - 2))
    if count > len(lines):
        lines.append(Text(f"  and {count - len(lines)} more", style="dim"))
    return Padding(Group(*lines), (0, 0, 0, looks.indent(judged.speaker, seats, width) + 2))


def _candidate(judged: CandidatesJudged, i: int, style: str, own: str, width: int) -> Text:
    def of(values: list[float | None]) -> float | None:
        return number(values[i]) if i < len(values) else None

    went_on = i == judged.continued
    text = Text.assemble(("▸ " if went_on else "  ", f"bold {own}"), (f"{i + 1:>2} ", "dim"))
    text.append(f"{shown(of(judged.rewards), '+.2f', 6):>6}", style=style)
    parts = [("rating", of(judged.ratings), ".1f"), ("WIM", of(judged.wims), ".2f")]
    if width >= 64:
        text.append("".join(f"  {name} {shown(v, form, 4):>4}" for name, v, form in parts if v is not None), style="dim")
    text.append("  ").append(line(judged.texts[i]), style="" if went_on else "dim")
    return looks.fitted(text, width)


def turn_parts(index: int, conversation: Conversation, width: int) -> list[RenderableType]:
    """A turn, finished or at least chosen from, with its candidates underneath."""
    turn, judged = conversation.by_index.get(index), conversation.candidates.get(index)
    parts = [turn_bubble(turn, index, conversation, width)] if turn is not None else []
    return parts + ([candidates(judged, conversation.seats, width)] if judged is not None else [])


# -- judgements -----------------------------------------------------------------------------------------------------


def _cell(cell: Cell, style: str, bars: bool) -> Text:
    if cell.number is None:
        return Text(f"{cell.text:>5}", style="red" if cell.text == "none" else "")
    text = Text(f"{cell.text:>5}")
    if bars:
        text.append(" ").append_text(looks.bar(cell.number / 10, looks.BAR, style))
    return text


def ratings_table(table: Table, width: int) -> RenderableType:
    """Rows: categories, WIM score, reward; columns: who on whom. Bars where there is room.

    Of more than two experts, the columns that do not fit stand below the others; those of a judge stay together.
    """
    bars = width >= 18 + len(table.sides) * (looks.BAR + 12)
    parts = [table.sides] if len(table.seats) < 3 else _parts(table, width)
    drawn: list[RenderableType] = []
    for sides in parts:
        drawn += [*([Text("")] if drawn else []), _part(table, sides, bars)]
    return Group(*drawn)


def _parts(table: Table, width: int) -> list[list[Side]]:
    """The columns of each part of a table, as many as there is room for beside the names of the rows."""
    room = width - max(min(CATEGORY, len(title)) for title in (RATING, *(title for title, _ in table.rows)))
    parts: list[list[Side]] = []
    left = 0
    for _, sides in groupby(table.sides, key=lambda side: side.judge):
        own = {side: GAP + _column_width(table, side) for side in sides}
        left = left if sum(own.values()) <= left else 0  # a judge whose columns do not fit begins below
        for side, needed in own.items():
            if not parts or needed > left:
                parts, left = [*parts, []], room
            parts[-1].append(side)
            left -= needed
    return parts


def _column_width(table: Table, side: Side) -> int:
    at = table.sides.index(side)
    cells = (len(cells[at].text) for _, cells in table.rows)
    return max(5, *cells, *(len(part) for part in _title(table, side).plain.split("\n")))


def _title(table: Table, side: Side) -> Text:
    """ "A on B"; of more than two experts with long names, the judge stands above the subject."""
    long = len(table.seats) > 2 and any(len(side.title) > LONG_TITLE for side in table.sides)
    return looks.side_title(side, table.seats, "\non " if long else " on ")


def _part(table: Table, sides: Sequence[Side], bars: bool) -> RenderableType:
    drawn = RichTable(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="", border_style="dim")
    drawn.add_column(Text(RATING, style="dim"), no_wrap=True, overflow="ellipsis", max_width=CATEGORY, vertical="bottom")
    for side in sides:
        drawn.add_column(_title(table, side), no_wrap=True, overflow="ellipsis")
    for row, (category, cells) in enumerate(table.rows):
        strong = row >= table.bars
        if row == table.bars and row:
            drawn.add_section()
        texts = [_cell(cells[table.sides.index(side)], looks.colour(side.judge, table.seats), bars and not strong) for side in sides]
        drawn.add_row(Text(category), *texts, style="bold" if strong else "")
    return drawn


def wim_texts(conversation: Conversation) -> list[RenderableType]:
    """What each judge misses, with the score."""
    drawn: list[RenderableType] = []
    wims, seats = conversation.whole_wims(), conversation.seats
    for side in in_order(wims, seats):
        wim = wims[side]
        head = Text.assemble(looks.person(side.judge, seats), " misses in ", looks.person(side.subject, seats))
        head.append(f"   WIM score {wim.cosine:.2f}" if wim.cosine is not None else "   no WIM score", style="dim")
        body = Text("Nothing is missing.", style="dim") if wim.empty else Text(line(wim.text) or "no answer")
        drawn.append(looks.indented(Group(head, looks.indented(body))))
    return drawn


def judgement(conversation: Conversation, width: int) -> list[RenderableType]:
    """Ratings all ways, WIM texts, rewards and what went wrong; empty while nothing is judged."""
    table = conversation.table()
    if table is None:
        return []
    width = min(width, looks.WIDEST)
    parts: list[RenderableType] = [looks.indented(ratings_table(table, width - 2))]
    for drawn in wim_texts(conversation):
        parts += [Text(""), drawn]
    problems = [looks.indented(Text(f"no answer: {problem}", style="red")) for problem in conversation.problems()[:SHOWN_PROBLEMS]]
    parts += [Text(""), *problems] if problems else []
    return parts


def whole(conversation: Conversation, width: int) -> list[RenderableType]:
    """A finished conversation from its heading to its rewards, for the scrollback."""
    parts = [Text(""), heading(conversation), Text("")]
    for index in sorted({*conversation.by_index, *conversation.candidates}):
        parts += turn_parts(index, conversation, width)
    if conversation.streaming is not None:
        now = conversation.streaming
        parts.append(bubble(now.text, now.speaker, conversation, width, "not finished", thinking=now.thinking))
    if conversation.stop_reason:
        parts += [ended(conversation, width), Text("")]
    return [*parts, *judgement(conversation, width)]


def in_one_line(conversation: Conversation) -> RenderableType:
    """A finished conversation where there are too many to print them whole."""
    text = Text("✓ ", style="green", overflow="ellipsis", no_wrap=True)
    text.append(f"{conversation.name}  ", style="dim").append(conversation.topic)
    text.append(f"  {words.counted(len(conversation.by_index), 'turn')}", style="dim")
    if len(conversation.seats) > 2:  # who judged whom would not fit
        for seat, value in conversation.mean_rewards().items():
            text.append("   ").append(*looks.person(seat, conversation.seats)).append(f" {shown(value, '+.2f', 6)}", style="dim")
        return text
    for side, reward in conversation.whole_rewards().items():
        text.append("   ").append_text(looks.side_title(side, conversation.seats)).append(f" {words.judged_in_words(reward)}", style="dim")
    return text


# -- the run --------------------------------------------------------------------------------------------------------


def run_heading(run: RunStarted) -> RenderableType:
    """The first lines of a view."""
    text = Text.assemble(("ExpertChat ", "bold"), line(run.command), "  ", words.whole_in_words(run))
    if run.resumed:
        text.append(f", {run.resumed} finished before", style="dim")
    return Group(text, Text(line(run.folder), style="dim", overflow="fold"), Text(""))


def note_line(note: Note) -> RenderableType:
    if note.level == "warning":
        return Text.assemble(("! ", "bold red"), line(note.text))
    return Text.assemble(("· ", "dim"), (line(note.text), "dim"))


def loaded_line(what: str, seconds: float, gib: float = 0.0) -> RenderableType:
    return Text.assemble(("✓ ", "green"), line(what), *_large(gib), (f"  {seconds:.1f} s", "dim"))


def loading_line(what: str, seconds: float, tick: int, gib: float = 0.0) -> RenderableType:
    return Text.assemble(looks.spinner(tick), "loading ", line(what), *_large(gib), (f"  {seconds:.0f} s", "dim"))


def _large(gib: float) -> list[tuple[str, str]]:
    return [(f"  {words.size(gib)}", "dim")] if gib > 0 else []


def starting_line(tick: int, text: str = "starting") -> RenderableType:
    return Text.assemble(looks.spinner(tick), (line(text), "dim"))


def other_line(conversation: Conversation, turns: int, width: int) -> RenderableType:
    """Another conversation: id, topic, how far, and the tail of what is being written."""
    topic_width = 12 if width < looks.NARROW else 22
    topic = Text(conversation.topic, no_wrap=True)
    topic.truncate(topic_width, overflow="ellipsis", pad=True)
    done = len(conversation.by_index)
    text = Text.assemble(("  " + conversation.name[-12:], "dim"), "  ", topic, " ", no_wrap=True)
    cells = 6 if width < looks.NARROW else looks.BAR
    text.append_text(looks.bar(done / turns if turns else 0, cells, "green")).append(f" {done}/{turns}  ")
    writing, room = conversation.streaming, width - text.cell_len - 1
    if writing is not None:
        text.append(*looks.person(writing.speaker, conversation.seats)).append(" ")
        tail = line(writing.text[-4 * max(room, 0) :]) or words.thought_in_words(writing.thinking, now=True)
        text.append_text(_tail(tail, room - 2))
    elif conversation.stage == "judging":
        given = sum(not isinstance(record, Reward) for record in conversation.judgements.values())
        text.append(f"being judged, {words.counted(given, 'answer')}" if given else "to be judged", style="dim")
    return looks.fitted(text, width)


def _tail(text: str, width: int) -> Text:
    """The end of a text, at most `width` cells."""
    if width < 8:
        return Text("")
    shown = text[-width:]
    while cell_len(shown) > width - 1:
        shown = shown[1:]
    return Text(("…" + shown) if len(shown) < len(text) else shown, style="dim")


def status_line(state: RunState, width: int) -> Text:
    """The last line of the screen: how much of the run is done, and how fast it goes."""
    speed = f"{state.tokens_per_second:,.0f} tokens/s" if state.tokens_per_second is not None else ""
    waiting = ", ".join(f"{called(kind)} {count}" for kind, count in (state.progress.waiting if state.progress else {}).items() if count)
    parts = {
        "turns": words.counted(state.turns, "turn"),
        "tokens": words.counted(state.tokens, "token"),
        "speed": speed,
        "clock": words.clock(state.seconds),
        "waiting": f"waiting: {waiting}" if waiting else "",
    }
    return looks.with_parts(looks.run_bar(state.done, state.total, "done", width), parts, ("waiting", "tokens", "turns", "speed"), width)


def run_end(state: RunState, width: int) -> RenderableType:
    """The end of a run: mean ratings all ways, counts, throughput, where it lies and how to look at it again."""
    assert state.finished is not None
    parts: list[RenderableType] = [Text(""), looks.end_rule(state.finished), Text("")]
    means = state.means()
    if means is not None:
        judged = words.counted(len(state.judged), "conversation") if state.judged else "what was rated so far"
        parts += [Text(f"  means over {judged}", style="dim"), looks.indented(ratings_table(means, min(width, looks.WIDEST) - 2)), Text("")]
    return Group(*parts, looks.labelled(words.summary_lines(state)))
