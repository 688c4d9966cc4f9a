"""Plain lines for a pipe, a log file or a dumb terminal; and the view that shows nothing."""

from __future__ import annotations

import sys
from typing import TextIO

from expertchat import events
from expertchat.records import Turn
from expertchat.text.in_words import line
from expertchat.text.sentences import clean
from expertchat.views import words
from expertchat.views.figures import before_and_after, closing_lines, last_evaluations, shown, told_words, where_words
from expertchat.views.model import Conversation, RunState
from expertchat.views.samples import samples
from expertchat.views.sides import Table, called, model_name
from expertchat.views.training import Training, number

GIVEN = (("reward", "+.2f"), ("rating", ".1f"), ("WIM", ".2f"))
TOPIC = 30  # characters of a topic that stand before every line
SILENT_AT_MOST = 120.0  # seconds of a training run without a line
PROGRESS_EVERY = 30.0  # seconds between two lines of progress


class PlainView:
    """A sink that writes one line a turn, or of a training run one line a round and an evaluation; without escapes.

    `show_thinking`: what an expert thought has a line of its own before what it said, else only its words are counted.
    """

    def __init__(self, stream: TextIO | None = None, show_thinking: bool = False) -> None:
        self.stream = stream or sys.stdout
        self.state = RunState(unfold=show_thinking)
        self._progress_at: float | None = None
        self._wrote_at: float | None = None  # the time of the event that the last line of a training run was about

    def send(self, event: events.AnyEvent) -> None:
        """Write what the event says; judgements wait until a conversation has all of them."""
        self.state.apply(event)
        large = f" ({words.size(event.gib)})" if isinstance(event, events.Loading) and event.gib > 0 else ""
        match event:
            case events.RunStarted():
                resumed = f", {event.resumed} finished before" if event.resumed else ""
                size = words.whole_in_words(event)
                self._write(f"ExpertChat {line(event.command)}: {size}{resumed}", f"run folder: {line(event.folder)}")
            case events.Loading(done=False):
                self._write(f"loading {line(event.what)}{large}")
            case events.Loading():
                self._write(f"loaded {line(event.what)}{large} in {event.seconds:.1f} s")
            case events.Note():
                self._write(f"{'warning' if event.level == 'warning' else 'note'}: {line(event.text)}")
            case events.Progress() if self.state.training is None:
                self._on_progress(event)
            case events.RunFinished():
                self._on_finished(event)
            case _ if self.state.training is not None:
                self._on_training(event, self.state.training)
            case _ if (conversation := self.state.conversations.get(getattr(event, "conversation", ""))) is not None:
                self._on_dialogue(event, conversation)

    def close(self) -> None:
        self.stream.flush()

    def _on_dialogue(self, event: events.AnyEvent, conversation: Conversation) -> None:
        label = f"[{conversation.name} {_cut(conversation.topic)}]"
        match event:
            case events.ConversationStarted():
                names = ", ".join(f"{called(seat)} is {model_name(ref)}" for seat, ref in event.experts.items())
                self._write(f"{label} begins{': ' + names if names else ''}")
            case events.TurnFinished():
                speaker = called(event.turn.speaker)
                if event.turn.thinking and conversation.unfold:
                    self._write(f"{label} {speaker} thinks: {line(event.turn.thinking)}")
                self._write(f"{label} {speaker}: {line(event.turn.text)}{_remarked(event.turn)}")
            case events.CandidatesJudged():
                self._write(*(f"{label} {text}" for text in candidate_lines(event)))
            case events.ConversationFinished():
                self._write(f"{label} {words.stop_in_words(event.stop_reason, event.turns)}")
            case events.ConversationJudged():
                self._write(*(f"{label} {text}" for text in judgement_lines(conversation)))
                self.state.release(conversation.id)

    def _on_progress(self, event: events.Progress) -> None:
        if self._progress_at is None or event.seconds < self._progress_at:
            self._progress_at = event.seconds
        if event.seconds - self._progress_at < PROGRESS_EVERY:
            return
        self._progress_at = event.seconds
        speed = f", {self.state.tokens_per_second:,.0f} tokens/s" if self.state.tokens_per_second is not None else ""
        turns, seconds = words.counted(event.turns, "turn"), words.clock(event.seconds)
        self._write(f"progress: {event.finished} of {event.total} done, {turns}{speed}, {seconds}")

    def _on_training(self, event: events.AnyEvent, training: Training) -> None:
        """Rounds and evaluations; where none came for long, what the run is at."""
        lines = [told_words(told, training) for told in self.state.told]
        if not lines and self._wrote_at is not None:
            if event.time - self._wrote_at < SILENT_AT_MOST:
                return
            lines = [where] if (where := where_words(self.state)) else []
        self._write(*lines)
        self._wrote_at = event.time

    def _on_finished(self, event: events.RunFinished) -> None:
        training = self.state.training
        if training is not None:
            self._write(*(told_words(told, training) for told in self.state.told), words.ending(event))
            for learner, figures in last_evaluations(self.state).items():
                self._write(*before_and_after(learner, figures))
            for one in samples(event.summary):
                self._write(*(f"{label}: {text}" for label, text in one.lines()))
            self._write(*(f"{label}: {value}" for label, value in closing_lines(self.state)))
            return
        self._write(words.ending(event))
        means = self.state.means()
        if means is not None:
            self._write(*aligned(means, "mean rating"))
        self._write(*(f"{label}: {value}" for label, value in words.summary_lines(self.state)))

    def _write(self, *lines: str) -> None:
        self.stream.write("".join(f"{clean(text)}\n" for text in lines))
        self.stream.flush()


def candidate_lines(judged: events.CandidatesJudged) -> list[str]:
    """The candidates of a turn, a line each, with what they were given."""
    lines = []
    for i, (text, *values) in enumerate(zip(judged.texts, judged.rewards, judged.ratings, judged.wims, strict=False)):
        given = ", ".join(f"{name} {shown(number(v), form, 6)}" for (name, form), v in zip(GIVEN, values, strict=True))
        went_on = ", and the dialogue went on with it" if i == judged.continued else ""
        which = f"turn {judged.turn + 1}, candidate {i + 1} of {len(judged.texts)} by {called(judged.speaker)}"
        lines.append(f"{which} ({given}{went_on}): {line(text)}")
    return lines


def judgement_lines(conversation: Conversation) -> list[str]:
    """Ratings as an aligned table, per-turn rewards, WIM texts with scores, problems."""
    lines = []
    for i in sorted(conversation.by_index):
        rewards = conversation.turn_rewards(i)
        for reward in rewards:
            by = f" by {called(reward.judge)}" if len(rewards) > 1 else ""
            lines.append(f"turn {i + 1}, {called(conversation.by_index[i].speaker)}{by}: {words.judged_in_words(reward)}")
    table = conversation.table()
    if table is not None:
        lines += aligned(table, "rating 1-10")
    for side, wim in conversation.whole_wims().items():
        score = f"{wim.cosine:.2f}" if wim.cosine is not None else "none"
        text = "nothing is missing" if wim.empty else line(wim.text) or "no answer"
        lines.append(f"{called(side.judge)} misses in {called(side.subject)} (WIM score {score}): {text}")
    return lines + [f"no answer: {problem}" for problem in conversation.problems()]


def aligned(table: Table, corner: str) -> list[str]:
    """A table as lines whose columns stand under one another."""
    rows = [[corner, *(side.title for side in table.sides)], *([name, *(cell.text for cell in cells)] for name, cells in table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lined = ([row[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(row[1:], widths[1:], strict=True))] for row in rows)
    return ["  ".join(cells).rstrip() for cells in lined]


def _remarked(turn: Turn) -> str:
    known = [text for text in (words.thought_in_words(turn.thinking), *words.remarks(turn)) if text]
    return f" ({'; '.join(known)})" if known else ""


def _cut(text: str) -> str:
    return text if len(text) <= TOPIC else text[: TOPIC - 1] + "…"


class NullView:
    """Shows nothing, but says why a run failed."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr

    def send(self, event: events.AnyEvent) -> None:
        if isinstance(event, events.RunFinished) and event.status == "failed":
            self.stream.write(f"failed: {line(event.reason or 'no reason is known')}\n")

    def close(self) -> None:
        self.stream.flush()
