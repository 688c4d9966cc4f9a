"""The screen of a training run: how it is divided, its table, curves and candidates, and that text by models stays text."""

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len

from expertchat.events import CandidatesJudged, Note, PhaseStarted, Progress, RoundFinished, RoundStarted, RunStarted
from expertchat.views import render, rounds
from expertchat.views.live import LiveView
from expertchat.views.sides import TWO
from tests.viewed import ATTACK, FACTS, began, console, frame, measured, plainly, said, state_of, training_run, until, written

SIZES = [(60, 24), (100, 30), (160, 45), (20, 4), (40, 12), (150, 12), (139, 60), (140, 13), (220, 70), (30, 6)]
ESCAPE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
TITLES = ["round", "pairs", "ties", "reward", "margin", "kl", "length", "cut", "loss", "time", "win", "%", "facts/base"]


# -- the screen -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("learner", ["a", "both"])
def test_the_screen_is_never_overrun_and_does_not_change_its_height(size: tuple[int, int], learner: str) -> None:
    width, height = size
    texts = (*FACTS, "w" * 300, "漢字かな交じり文。" * 9)
    heights = set()
    for at, phase, more in ((1, "talking", 1), (2, "talking", 40), (3, "updating", 4), (4, "evaluating", 3), (4, "saving", 0)):
        state = state_of(until(training_run(rounds=4, learner=learner, every=1, texts=texts), at, phase, more))  # type: ignore[arg-type]
        focus = next(iter(state.conversations), None)
        lines = frame(state, width, height, focus)
        assert all(cell_len(line) <= width for line in lines), lines
        assert "/4 rounds"[: width - 12] in lines[-1] or width < 30
        heights.add(len(lines))
    assert max(heights) <= height - 1
    assert height < 12 or heights == {height - 1}


def test_rounds_stand_below_the_dialogue_and_beside_it_on_a_wide_screen() -> None:
    state = state_of(until(training_run(rounds=24), 9, "talking", more=60))
    for width, height in ((60, 24), (100, 30)):
        lines = frame(state, width, height, "r0009/c0001")
        talk, table = (next(i for i, line in enumerate(lines) if mark in line) for mark in ("r0009/c0001", "round"))
        assert talk < table
    lines = frame(state, 160, 45, "r0009/c0001")
    head = next(line for line in lines if "r0009/c0001" in line)
    assert " │ r0009/c0001  volcanoes" in head and head.startswith("reward")


def test_the_table_shows_the_newest_rounds_with_their_evaluations_and_the_running_one() -> None:
    state = state_of(until(training_run(rounds=1000, conversations=1), 101, "updating", more=3))
    lines = frame(state, 100, 30)
    head = next(i for i, line in enumerate(lines) if line.startswith("round"))
    assert lines[head].split() == TITLES
    rows = [line.split() for line in lines[head + 1 :] if line.strip()]
    rows = rows[:-2]  # the last two lines of the screen are no rounds
    assert [row[0] for row in rows] == [str(n) for n in range(92, 102)]
    # after round 100 of 1000: win 0.5 + 0.26 x 0.1 = 0.526, from 0.476 to 0.571; facts 1.9 + 1.3 x 0.1 = 2.03 against 1.9
    assert rows[8][-3:] == ["53", "48-57", "2.03/1.90"]
    assert len(rows[7]) == 10  # round 99 was not evaluated
    assert rows[9] == ["101", "updating"]
    assert "round 101/1000  A v100 learns  updating" in lines[-2] and "3/8 steps, loss 0.660" in lines[-2]
    assert "100/1000 rounds" in lines[-1] and "left" in lines[-1]


def test_the_running_round_and_its_phase_are_seen_at_once() -> None:
    state = state_of(until(training_run(rounds=4), 2, "updating", more=3))
    line = rounds.phase_line(state, 100, 0)
    bold = [line.plain[span.start : span.end] for span in line.spans if "bold" in str(span.style) and "not" not in str(span.style)]
    assert bold == ["round 2/4", "  A v1", "updating"]


@pytest.mark.parametrize("learner", ["a", "professor_of_astronomy"])
def test_how_far_a_phase_is_counts_more_than_a_long_name(learner: str) -> None:
    started = RunStarted(command="online_dpo", folder="r", conversations=16, turns=5, rounds=48, time=100.0)
    state = state_of([started, RoundStarted(round=12, rounds=48, learner=learner, policy_version=11, time=200.0)])
    for event, count in (
        (PhaseStarted(round=12, phase="talking", time=900.0), "0/16"),
        (PhaseStarted(round=12, phase="evaluating", time=900.0), "120/400"),
    ):
        state.apply(event)
        if count != "0/16":
            state.apply(Progress(finished=120, total=400, turns=0, tokens=0, seconds=1.0, time=1625.0))
        for width in (60, 100):
            line = rounds.phase_line(state, width, 0).plain
            assert len(line) <= width and f"{event.phase}  " in line and f" {count}" in line
            assert f"  {learner.upper()} v11" in line if learner == "a" else f"  {learner[:3]}" in line, line


def test_without_figures_there_are_no_columns_and_none_is_not_nought() -> None:
    events = [
        RunStarted(command="online_dpo", folder="r", conversations=1, turns=5, rounds=1),
        RoundStarted(round=1, rounds=1, learner="a", policy_version=0),
        measured("round", 1, "a", {"pairs": 0, "reward_mean": None, "kl": float("nan"), "length": "many", "loss": None}),
        RoundFinished(round=1),
    ]
    lines = frame(state_of(events), 100, 30)
    row = next(line for line in lines if line.split()[:1] == ["1"])
    assert row.split() == ["1", "0", "-", "-", "-", "-", "-", "-", "-", "-"]
    assert not any("win" in line or "facts" in line for line in lines)


def test_two_learners_stand_beside_each_other() -> None:
    lines = frame(state_of(until(training_run(rounds=24, learner="both", every=1), 9, "talking")), 160, 45)
    assert any(re.match(r"A reward .*  B reward ", line) for line in lines)
    assert any(re.match(r"A win .* \d\d%   B win .* \d\d%", line) for line in lines)
    by = [line.split()[1] for line in lines if re.match(r" +\d+ +[AB] ", line)]
    assert by == list("ABABABAB")


def test_a_win_rate_is_coloured_by_its_whole_interval() -> None:
    def style(low: float, high: float) -> str:
        state = state_of([RoundStarted(round=1, rounds=1, learner="a", policy_version=0)])
        state.apply(measured("evaluation", 1, "a", {"win_rate": (low + high) / 2, "win_rate_low": low, "win_rate_high": high}))
        assert state.training is not None
        row = rounds.table(state.training, 100, 9)[1]
        return next(str(span.style) for span in row.spans if "-" in row.plain[span.start : span.end] and "bold" in str(span.style))

    assert (style(0.51, 0.6), style(0.4, 0.49), style(0.45, 0.6)) == ("bold green", "bold red", "bold")


# -- candidates -----------------------------------------------------------------------------------------------------------


def judged(rewards: list[float | None], continued: int = 0, texts: list[str] | None = None) -> CandidatesJudged:
    texts = texts or [f"reply number {i}" for i in range(len(rewards))]
    return CandidatesJudged(
        conversation="r0001/c1", turn=0, speaker="a", texts=texts, rewards=rewards, ratings=[7.0] * len(rewards),
        wims=[None] * len(rewards), continued=continued,
    )  # fmt: skip


def drawn(event: CandidatesJudged, width: int = 100) -> str:
    screen = console(width, 40)
    screen.print(render.candidates(event, TWO, width))
    return written(screen)


def test_candidates_have_their_rewards_and_the_one_gone_on_with_is_marked() -> None:
    text = drawn(judged([0.1, None, -0.25, 0.4], continued=3))
    lines = [line.rstrip() for line in plainly(text).split("\n")]
    assert lines[0] == "     1  +0.10  rating  7.0  reply number 0"
    assert lines[1] == "     2      -  rating  7.0  reply number 1"
    assert lines[3] == "  ▸  4  +0.40  rating  7.0  reply number 3"
    assert re.search(r"\x1b\[1;32m +\+0\.40", text) and re.search(r"\x1b\[31m +-0\.25", text)  # best bold green, worst red


def test_candidates_alike_have_no_best_and_many_are_cut_to_those_that_matter() -> None:
    assert "\x1b[31m" not in drawn(judged([0.1, 0.1]))
    many = [i / 100 for i in range(64)]
    lines = plainly(drawn(judged(many, continued=40))).rstrip().split("\n")
    assert [line.split()[-1] for line in lines[:-1]] == ["0", "1", "2", "3", "40", "63"]  # 0 is the worst, 63 the best
    assert lines[-1].strip() == "and 58 more"


def test_lists_that_do_not_fit_together_are_borne() -> None:
    event = judged([0.1], continued=7, texts=["one", "two"])
    assert "two" in plainly(drawn(event))


def test_candidates_stand_under_their_turn_also_before_it_is_announced() -> None:
    state = state_of([RunStarted(command="x", folder="r", conversations=1, turns=5, rounds=2), began("r0001/c1"), judged([0.1, 0.2], 1)])
    before = frame(state, 100, 40, "r0001/c1")
    assert any("▸  2  +0.20" in line for line in before)
    state.apply(said("r0001/c1", 0, "reply number 1"))
    lines = frame(state, 100, 40, "r0001/c1")
    bubble, mark = (next(i for i, line in enumerate(lines) if text in line) for text in ("A · llama", "▸  2  +0.20"))
    assert bubble < mark


@pytest.mark.parametrize("size", [(60, 24), (100, 30), (160, 45)])
def test_hostile_text_stays_text(size: tuple[int, int]) -> None:
    """Escapes and markup in a topic, a candidate, a figure, a reason or a path do nothing: the only escapes are our own colours."""
    screen = console(*size)
    view = LiveView(screen, threaded=False)
    hostile: dict[str, object] = {"stopped_by": ATTACK, "adapter": ATTACK, "learner": ATTACK}
    hostile["evaluation"] = {"win_rate": 0.5, "judge": ATTACK}
    events = list(training_run(rounds=2, texts=(ATTACK, ATTACK + "\n\r\x85forged"), topic=ATTACK, every=1, summary=hostile))
    for at, event in enumerate(events):
        view.send(event)
        if at % 25 == 0:
            view.draw()
    view.send(Note(text=ATTACK))
    view.close()
    assert isinstance(screen.file, io.StringIO)
    ours = re.sub(r"\x1b\[\??[\d;]*[mhlKAJ]|\r", "", screen.file.getvalue())
    assert not ESCAPE.search(ours), ESCAPE.search(ours)
    assert "[bold]loud[/bold] [/] [link=http://x]y" in ours
    codes = {code for codes in re.findall(r"\x1b\[([\d;]*)m", screen.file.getvalue()) for code in codes.split(";")}
    assert codes <= {"0", "1", "2", "3", "31", "32", "35", "36", ""}, codes
