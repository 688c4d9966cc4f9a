"""A person at the table, and every turn looked at: by a desk whose answers are given, with doubles in place of models."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from expertchat.backends.base import ScoreRequest
from expertchat.backends.person import Person
from expertchat.config import ConfigError
from expertchat.folder.desk import DRAFT, Choice, Draft, Rated, Typed
from expertchat.folder.reader import RunReader
from expertchat.folder.run import Interrupted
from expertchat.judging.guessing import read, turing_table
from expertchat.records import Guess, Turn
from expertchat.runs.merge_runs import merge_runs
from expertchat.views.table import TableView
from expertchat.views.words import turing_words
from tests.scripted import BagOfWords, Collect, Double, babble, config_of

HUMAN = (
    "experts.b.backend=human", "prompts@experts.a.prompts=standard", "conversation.count=1", "conversation.turns=4",
    "conversation.opener=a",
)  # fmt: skip


class Sitting:
    """A desk: what is typed, guessed and chosen, in order; None: the person leaves there."""

    def __init__(self, *lines: str | None, guess: tuple[bool | None, str] = (True, "It jokes."), steps: Sequence[Choice] = ()) -> None:
        self.lines, self.guessed, self.steps = list(lines), guess, list(steps)
        self.drafts: list[str] = []
        self.seen: list[str] = []
        self.half = ""
        self.rated: list[str] = []
        self.gives: dict[str, int] = {}
        self.misses: str | None = None
        self.leaves_at = 0

    def turn(self, seat: str, draft: Draft, seconds: float | None) -> Typed:
        self.drafts.append(draft.read())
        found = self.lines.pop(0)
        if found is None:
            draft.write(self.half)
            raise Interrupted("the person has left the table")
        return Typed(found, late=seconds is not None)

    def guess(self, seat: str, subject: str) -> tuple[bool | None, str]:
        return self.guessed

    def rating(self, seat: str, of: Rated, name: str, meaning: str) -> int | None:
        self.rated.append(f"{seat} rates {of.subject}{'' if of.turn is None else of.turn}: {name}")
        if self.leaves_at == len(self.rated):
            raise Interrupted("the person has left the table")
        return self.gives.get(name)

    def missing(self, seat: str, of: Rated, draft: Draft) -> str | None:
        return self.misses

    def step(self, index: int, turn: Turn) -> Choice:
        self.seen.append(turn.text)
        return self.steps.pop(0)

    def edit(self, seat: str, text: str) -> str:
        return text + " Edited."


def sit(folder: Path, desk: Sitting | None, *overrides: str, double: Double | None = None) -> int:
    from expertchat.talk.converse import run_converse

    config = config_of(f"run.dir={folder}", *overrides)
    model = double or Double(score=human_by(0.75))
    backends = {seat: Person() if one.backend == "human" else model for seat, one in config.experts.items()}
    return run_converse(config, ["expertchat", "converse"], Collect(), backends=backends, embedder=BagOfWords(), desk=desk)


def human_by(chance: float) -> Callable[[ScoreRequest], Sequence[float]]:
    """Ten options of a rating alike; of two, "a human" has this chance of .8."""

    def score(request: ScoreRequest) -> Sequence[float]:
        if len(request.options) == 2:
            return [math.log(0.8 * chance), math.log(0.8 * (1 - chance))]
        return [math.log(0.1)] * len(request.options)

    return score


def turns(folder: Path) -> list[Turn]:
    return next(RunReader(folder).transcripts()).turns


def test_a_person_types_and_everybody_guesses(tmp_path: Path) -> None:
    model = Double(score=human_by(0.75))
    assert sit(tmp_path, Sitting("Bees dance.", "They do."), *HUMAN, double=model) == 0
    found = turns(tmp_path)
    assert [(one.speaker, one.text) for one in found][1::2] == [("b", "Bees dance."), ("b", "They do.")]
    transcript = next(RunReader(tmp_path).transcripts())
    assert transcript.experts["b"].family == "human" and transcript.experts["a"].family != "human"
    shown = [message.content for request in model.requests if request.key == "c0000/t02" for message in request.messages]
    assert any("Bees dance." in text for text in shown) and not any("human" in text.lower() for text in shown if "Bees" in text)
    by = {(one.guesser, one.subject): one for one in RunReader(tmp_path).guesses()}
    assert by["a", "b"].human and by["a", "b"].chance == 0.75 and by["a", "b"].mass == 0.8 and by["a", "b"].is_human
    assert by["b", "a"].human and by["b", "a"].reason == "It jokes." and not by["b", "a"].is_human
    # the person is asked too, and has answered nothing: null, and no reward
    asked = [one for one in RunReader(tmp_path).ratings() if one.judge == "b"]
    assert {(one.subject, one.value, one.fault) for one in asked} == {("a", None, "unsure")} and not (tmp_path / DRAFT).exists()
    table = RunReader(tmp_path).summary["turing"]
    # Wilson's interval of 1 of 1: z^2 = 3.8415, low = 1 / (1 + z^2) = .2065
    assert table["a"]["said_human"] == table["a"]["n"] == 1 and table["a"]["rate_low"] == pytest.approx(0.2065, abs=1e-4)
    assert turing_words(table) == "A 1 of 1 (21-100 %); B, a person, 1 of 1 (21-100 %)"


def test_a_person_rates_what_the_model_said(tmp_path: Path) -> None:
    """Depth 8 and clarity 4 of two that count alike: R = 6, (6 - 5.5) / 4.5 = .1111; with z = 0 that is the reward."""
    words = ("judging.z=0", "~judging.categories", "+judging.categories={depth: how deep, clarity: how clear}", "~judging.weights",
             "+judging.weights={depth: 1, clarity: 1}")  # fmt: skip
    desk = Sitting("Bees dance.", "They do.")
    desk.gives, desk.misses, desk.leaves_at = {"Depth": 8, "Clarity": 4}, "Why they dance.", 2
    assert sit(tmp_path, desk, *HUMAN, *words) == 3
    assert desk.rated == ["b rates a: Depth", "b rates a: Clarity"]  # when the models have spoken; what is given is kept
    desk.rated, desk.leaves_at = [], 0
    assert sit(tmp_path, desk, *HUMAN, *words) == 0
    assert desk.rated == ["b rates a: Clarity"]
    run = RunReader(tmp_path)
    assert {one.category: one.value for one in run.ratings() if one.judge == "b"} == {"depth": 8, "clarity": 4}
    wim, reward = (next(one for one in found if one.judge == "b") for found in (run.wims(), run.rewards()))
    assert (wim.text, wim.subject) == ("Why they dance.", "a") and wim.cosine is not None
    assert reward.rating == 6.0 and reward.value == pytest.approx(0.5 / 4.5, abs=1e-4)


def test_a_person_who_misses_nothing_and_one_who_is_not_asked(tmp_path: Path) -> None:
    desk = Sitting("Bees dance.", "They do.")
    desk.misses = ""
    assert sit(tmp_path / "one", desk, *HUMAN, "judging.wim.empty_score=0.5") == 0
    wim = next(one for one in RunReader(tmp_path / "one").wims() if one.judge == "b")
    assert wim.empty and wim.cosine == 0.5
    desk = Sitting("Bees dance.", "They do.")
    assert sit(tmp_path / "two", desk, *HUMAN, "table.rate=never") == 0
    assert not desk.rated and {one.subject for one in RunReader(tmp_path / "two").ratings()} == {"b"}


def test_who_leaves_comes_back_and_types_nothing_twice(tmp_path: Path) -> None:
    desk = Sitting("Bees dance.", None)
    desk.half = "They do, for"
    assert sit(tmp_path, desk, *HUMAN) == 3
    again = Sitting("They do, for food.")
    assert sit(tmp_path, again, *HUMAN) == 0
    assert again.drafts == ["They do, for"] and [one.text for one in turns(tmp_path)][1::2] == ["Bees dance.", "They do, for food."]
    whole = tmp_path / "whole"
    assert sit(whole, Sitting("Bees dance.", "They do, for food."), *HUMAN) == 0
    assert [one.text for one in turns(whole)] == [one.text for one in turns(tmp_path)]
    counts = [sum(1 for _ in RunReader(folder).lines(name)) for folder in (tmp_path, whole) for name in ("guesses", "rewards", "ratings")]
    assert counts[:3] == counts[3:]


def test_a_model_that_answers_at_once_is_asked_why_afterwards(tmp_path: Path) -> None:
    model = Double(lambda request: "" if request.key.endswith("/why") else babble(request), human_by(0.75))
    assert sit(tmp_path, Sitting("Bees dance.", "They do."), *HUMAN, double=model) == 0
    found = next(one for one in RunReader(tmp_path).guesses() if one.guesser == "a")
    asked = [request for request in model.requests if request.key.endswith("/because")]
    assert [request.prefix for request in asked] == ["B was a human because"] and found.reason.startswith("because ") and found.human


def test_runs_of_several_people_are_one_table(tmp_path: Path) -> None:
    """Each run has a seed of its own; of two guesses on each seat one says human."""
    for seed, said in ((1, True), (2, False)):
        desk = Sitting("Bees dance.", "They do.", guess=(said, "x"))
        folder, model = tmp_path / str(seed), Double(score=human_by(0.75 if said else 0.25))
        assert sit(folder, desk, *HUMAN, f"run.seed={seed}", double=model) == 0
    summary = merge_runs([tmp_path / "1", tmp_path / "2"], tmp_path / "all").summary
    assert {seat: (row["said_human"], row["n"]) for seat, row in summary["turing"].items()} == {"a": (1, 2), "b": (1, 2)}


def test_what_stood_there_when_the_time_was_up_is_the_turn(tmp_path: Path) -> None:
    assert sit(tmp_path, Sitting("Half a", ""), *HUMAN, "table.seconds=5") == 0
    late = turns(tmp_path)[1]
    assert late.text == "Half a" and late.note == "the time limit of a turn ended it" and not late.cut


def test_turns_are_edited_drawn_again_and_written(tmp_path: Path) -> None:
    """Of four turns: edited; drawn again, then taken; another one is written; and from the last on nothing is asked."""
    steps: list[Choice] = ["edit", "again", "take", "own", "on"]
    desk = Sitting("In its place.", steps=steps)
    assert sit(tmp_path, desk, "view=step", "conversation.count=2", "conversation.turns=4") == 0
    one, two, three, four = turns(tmp_path)
    assert one.hand == "edited" and one.text == f"{one.was} Edited." and three.hand == "injected" and three.text == "In its place."
    assert desk.seen[1] != desk.seen[2] == two.text and two.hand is None and four.hand is None
    assert len(desk.seen) == 5 and sum(1 for _ in RunReader(tmp_path).transcripts()) == 2  # the second dialogue goes by itself
    assert not list(RunReader(tmp_path).guesses())


def test_what_two_answers_say() -> None:
    assert read([math.log(0.2), math.log(0.6)], 0.5) == {"human": False, "chance": 0.25, "mass": 0.8}
    assert read([math.log(0.01), math.log(0.02)], 0.5)["fault"] == "low_mass"
    assert read([math.nan, 0.0], 0.5)["fault"] == "not_finite" and read([math.log(0.4)] * 2, 0.5)["human"] is None
    guesses = [Guess(id=str(i), transcript="t", guesser="a", subject="b", is_human=True, human=said) for i, said in enumerate((True, None))]
    assert turing_table(guesses)["b"] | {"rate_low": 0, "rate_high": 0} == {
        "is_human": True, "said_human": 1, "n": 1, "null": 1, "rate": 1.0, "rate_low": 0, "rate_high": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["experts.a.backend=human", "experts.b.backend=human"], "no model is left to talk with"),
        (["table.seconds=5"], "nobody types a turn"),
        (["+model@third=embedded_llama", "judging.judge=third", "third.backend=human"], "third.backend=human: a person sits among"),
    ],
)
def test_where_nobody_can_sit(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(*overrides)


def test_a_person_without_a_desk_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere to type"):
        sit(tmp_path, None, *HUMAN)
    with pytest.raises(ConfigError, match="types in `expertchat converse`"):
        Person().generate([])


def test_wordings_without_a_question_give_no_guess(tmp_path: Path) -> None:
    assert sit(tmp_path, Sitting("x y z.", "u v w.", guess=(None, "")), "experts.b.backend=human", "conversation.count=1", *HUMAN[3:]) == 0
    found: Any = {one.guesser: one for one in RunReader(tmp_path).guesses()}
    assert found["a"].human is None and found["a"].fault == "wording" and found["b"].fault == "unsure"


# -- the terminal ---------------------------------------------------------------------------------------------------------


class Paper:
    """A draft."""

    def __init__(self, text: str = "") -> None:
        self.text = text

    def read(self) -> str:
        return self.text

    def write(self, text: str) -> None:
        self.text = text


def at_terminal(monkeypatch: pytest.MonkeyPatch, *lines: str) -> tuple[TableView, list[str]]:
    """A view whose lines are given, and the prompts that it showed."""
    waiting, shown = list(lines), list[str]()

    def typed(prompt: str) -> str:
        shown.append(prompt)
        if not waiting:
            raise EOFError
        return waiting.pop(0)

    monkeypatch.setattr("builtins.input", typed)
    return TableView(io.StringIO()), shown


def test_lines_that_are_typed_become_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    draft = Paper()
    view, shown = at_terminal(monkeypatch, "", "One \\", "two.", "/pass", "left \\", "/leave")
    assert view.turn("b", draft, None) == ("One\ntwo.", False) and shown == ["B> ", "B> ", ". "]  # an empty line says nothing yet
    assert draft.text == "One\n" and view.turn("b", Paper(), None) == ("", False)
    draft = Paper()
    with pytest.raises(Interrupted, match="has left the table"):
        view.turn("b", draft, None)
    assert draft.text == "left"
    with pytest.raises(Interrupted):  # the end of standard input
        view.turn("b", Paper(), None)


def test_numbers_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    view, shown = at_terminal(monkeypatch, "11", "eight", "8", "", "x\x1b[2Jy", "-", "", "/leave")
    of = Rated("a", "bees", None, "Bees hum.")
    assert view.rating("b", of, "Depth", "how deep") == 8 and len(shown) == 3 and "Depth (how deep), 1-10" in shown[0]
    assert view.rating("b", of, "Clarity", "how clear") is None
    assert view.missing("b", of, Paper()) == "x[2Jy" and view.missing("b", of, Paper()) == "" and view.missing("b", of, Paper()) is None
    assert str(view.stream.getvalue()).count("Rate all that A said about bees") == 1
    with pytest.raises(Interrupted):
        view.rating("b", of, "Depth", "how deep")


def test_the_table_is_left_at_every_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """`/leave` is no answer: no guess, no reason for one, no text of an edited turn."""
    view, _ = at_terminal(monkeypatch, "/leave", "h", "/leave", "/leave")
    for _ in range(2):
        with pytest.raises(Interrupted, match="has left the table"):
            view.guess("b", "a")
    with pytest.raises(Interrupted, match="has left the table"):
        view.edit("a", "Good.")


def test_what_is_asked_at_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    view, shown = at_terminal(monkeypatch, "perhaps", "H", "It\x1b[2J jokes.", "?", "", "x", "e", "Better.", "", "q")
    assert view.guess("b", "a") == (True, "It[2J jokes.") and "B, was A a human or an AI?" in shown[0]
    assert view.guess("b", "a") == (None, "")
    turn = Turn(speaker="a", text="Good.")
    assert view.step(0, turn) == "edit" and view.edit("a", "Good.") == "Better."
    assert view.step(1, turn) == "take"
    with pytest.raises(Interrupted):
        view.step(2, turn)
