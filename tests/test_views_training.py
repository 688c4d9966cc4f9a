"""A training run so far, the lines that stay of it, plain lines, the end."""

from __future__ import annotations

import io
import random
import re

import pytest

from expertchat.events import Measured, Progress, RoundStarted, RunFinished, RunStarted, StepFinished
from expertchat.records import Metrics
from expertchat.views import rounds
from expertchat.views.figures import closing_lines, compared, evaluation_words, win_words
from expertchat.views.frame import Frame
from expertchat.views.live import DWELL, LiveView
from expertchat.views.model import RunState
from expertchat.views.plain import NullView, PlainView
from tests.viewed import FACTS, console, evaluation_figures, frame, measured, plain, plainly, state_of, training_run, until

# -- the state ------------------------------------------------------------------------------------------------------------


def test_rounds_phases_and_time_left() -> None:
    state = state_of(until(training_run(rounds=24, every=0), 7, "updating", more=3))
    training = state.training
    assert training is not None and training.current is not None
    assert (training.current.round, training.total, training.finished) == (7, 24, 6)
    assert training.phase_done(0) == (3, 8, "steps")
    # a round takes 4 + 0.3 + 2.4 + 0 + 0.3 = 7 s by its phases, and 24 - 6 = 18 are left
    assert training.left() == pytest.approx(18 * 7)
    talking = state_of(until(training_run(rounds=2), 2, "talking"))
    assert talking.training is not None and talking.training.phase_done(3) == (3, 4, "dialogues")
    evaluating = state_of([*until(training_run(rounds=4, every=2), 2, "evaluating", more=1)])
    assert evaluating.training is not None and evaluating.training.phase_done(0) == (0, 120, "")


def test_every_event_twice_changes_nothing() -> None:
    events = list(training_run(rounds=5, learner="both", every=2))
    once = state_of(events).training
    twice = state_of(e for event in events for e in (event, event)).training
    assert once is not None and twice is not None
    assert once.rounds == twice.rounds


def test_events_in_any_order_break_nothing() -> None:
    events = list(training_run(rounds=3, every=1))
    for seed in range(20):
        mixed = list(events)
        random.Random(seed).shuffle(mixed)
        state = state_of(mixed)
        if state.finished is not None and state.training is not None:
            assert frame(state, 100, 30)
            assert rounds.closing(state, 100)


def test_an_evaluation_inside_a_round_is_told_after_it_and_the_bases_at_once() -> None:
    state, told = RunState(), []
    for event in training_run(rounds=2, every=2):
        state.apply(event)
        told += [f"{t.kind} {t.round}" if isinstance(t, Metrics) else f"round {t.number}" for t in state.told]
    assert told == ["evaluation 0", "round 1", "evaluation 1", "round 2", "evaluation 2", "evaluation 2"]  # the last one of the result


def test_a_stopped_run_tells_an_evaluation_whose_round_was_not_finished() -> None:
    state = state_of(until(training_run(rounds=4, every=2), 2, "saving"))
    assert state.told == []
    state.apply(RunFinished(status="stopped"))
    assert [t.round for t in state.told if isinstance(t, Metrics)] == [2]


def test_a_round_that_begins_again_after_a_crash_is_one_round() -> None:
    """A watcher sees round 2 break off, and begin anew with the same conversations; its evaluation is not made again."""
    events = list(training_run(rounds=3, every=0))
    state = state_of([*until(events, 2, "saving"), measured("evaluation", 2, "a", {"win_rate": 0.7})])
    again = events[0].model_copy(update={"resumed": 1})
    assert isinstance(again, RunStarted)
    start = next(i for i, e in enumerate(events) if isinstance(e, RoundStarted) and e.round == 2)
    for event in [again, *events[start:]]:
        state.apply(event)
    training = state.training
    assert training is not None
    assert [row.number for row in training.shown()] == [1, 2, 3]
    assert all(row.done for row in training.shown())
    assert training.curve("win_rate", "a", evaluated=True) == [0.7]


def test_figures_of_rounds_before_this_view_fill_the_table_and_the_curves() -> None:
    """A resumed run may say again what it measured before: the curves are whole, and no line is told twice."""
    state = state_of([RunStarted(command="online_dpo", folder="r", conversations=2, turns=5, rounds=9, resumed=2)])
    for at in (1, 2):
        state.apply(measured("round", at, "a", {"reward_mean": float(at), "kl": None}))
        assert state.told == []
        state.apply(measured("evaluation", at, "a", {"win_rate": at / 4}))
        assert state.told == []
    assert state.training is not None
    assert state.training.curve("reward_mean", "a") == [1.0, 2.0]
    assert state.training.curve("kl", "a") == [None, None]
    assert state.training.curve("win_rate", "a", evaluated=True) == [0.25, 0.5]


def test_learners_by_turns_have_curves_of_their_own() -> None:
    training = state_of(training_run(rounds=6, learner="both", every=1)).training
    assert training is not None and training.learners() == ["a", "b"]
    assert len(training.curve("reward_mean", "a")) == len(training.curve("reward_mean", "b")) == 3
    assert training.curve("distinct_policy", "b", evaluated=True)[0] == 1.9  # the base


def test_a_long_run_keeps_no_finished_dialogues() -> None:
    state, most = RunState(), 0
    for event in training_run(rounds=300, conversations=3, every=50):
        state.apply(event)
        most = max(most, len(state.conversations), len(state.released), len(state.judged))
    assert most == 3
    assert state.conversations == {}
    assert state.training is not None
    assert all(len(row.figures) <= 9 for row in state.training.shown())


def test_a_late_step_of_another_round_is_not_shown() -> None:
    state = state_of(until(training_run(rounds=4, every=2), 2, "evaluating"))
    state.apply(StepFinished(round=2, step=8, steps=8, loss=0.1))  # a watcher reads it from live.json after the update
    assert state.training is not None and state.training.step is None
    state = state_of(until(training_run(rounds=4, every=2), 3, "updating"))
    state.apply(StepFinished(round=2, step=8, steps=8, loss=0.1))
    assert state.training is not None and state.training.step is None


# -- the live view --------------------------------------------------------------------------------------------------------


def test_the_scrollback_gets_rounds_evaluations_and_the_end_and_no_dialogue() -> None:
    screen = console(100, 30)
    view = LiveView(screen, threaded=False)
    view.draw()
    for event in training_run(rounds=5, every=5):
        view.send(event)
    view.close()
    assert isinstance(screen.file, io.StringIO)
    text = plainly(screen.file.getvalue())
    assert "5 rounds of 4 conversations of up to 5 turns" in text
    assert [line[:11] for line in text.split("\n") if line.startswith("✓ round")] == [f"✓ round {n}/5" for n in range(1, 6)]
    # 1.9 + 1.3 x 1/5 = 2.16 after the first round, 1.9 + 1.3 = 3.2 at the end
    assert "  after round 1 A  win 55 % (50–60)  distinct facts 2.16 (base 1.90)" in text
    in_order = ["✓ round 5/5", "after round 5 A", "A against its base", "expertchat watch runs/r"]
    assert [text.index(part) for part in in_order] == sorted(text.index(part) for part in in_order)
    assert "win rate 76.0 % (71.0–80.5) of 400, judged by truth" in text
    assert re.search(r"distinct facts +1\.90 +3\.20 +x1\.68 \(1\.55–1\.80\)", text)
    assert re.search(r"adapter +runs/r/adapter", text)
    assert not any(fact in text for fact in FACTS)


def test_the_focus_stays_on_one_dialogue_until_it_ended_and_was_looked_at() -> None:
    view = LiveView(console(100, 30), threaded=False)
    looked_at = []
    for at, event in enumerate(training_run(rounds=2, conversations=4, every=0)):
        view.send(event)
        if at % 3 == 0:
            view.draw()
            if view.focus is not None and looked_at[-1:] != [view.focus.id]:
                looked_at.append(view.focus.id)
    view.close()
    assert len(looked_at) == 2  # one in each round, though four ran in turn
    assert [name[:5] for name in looked_at] == ["r0001", "r0002"]


def test_another_dialogue_of_the_same_round_is_shown_after_a_while() -> None:
    view = LiveView(console(100, 30), threaded=False)
    for event in until(training_run(rounds=1, conversations=2, every=0), 1, "talking", more=2):
        view.send(event)
    view.draw()
    assert view.focus is not None and view.focus.id == "r0001/c0000"
    view.state.release("r0001/c0000")
    for _ in range(DWELL - 1):
        view.draw()
    assert view.focus.id == "r0001/c0000"
    view.draw()
    assert view.focus.id == "r0001/c0001"
    view.close()


def test_many_rounds_at_once_are_printed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = console(100, 30)
    view = LiveView(screen, threaded=False)
    prints = []
    real = screen.print
    monkeypatch.setattr(screen, "print", lambda *parts, **more: (prints.append(type(parts[0])), real(*parts, **more)))
    for event in training_run(rounds=200, conversations=1):
        view.send(event)
    view.draw()
    assert prints.count(Frame) == 1  # the moving part is drawn again below every print
    view.close()


def test_a_watcher_waits_for_a_view_that_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertchat.views.live.MOST_QUEUED", 50)
    view = LiveView(console(60, 24))
    most = 0
    for event in training_run(rounds=4, conversations=2):
        view.send(event)
        view.catch_up()
        most = max(most, len(view._events))
    view.close()
    assert most <= 50
    view.send(event)
    view.catch_up()  # nobody draws any more: it does not wait for ever


def test_a_run_that_fails_in_its_first_round_has_an_end_without_figures() -> None:
    events = until(training_run(rounds=3, every=0), 1, "updating")
    state = state_of([*events, RunFinished(status="failed", reason="out of memory")])
    screen = console(60, 24)
    screen.print(rounds.closing(state, 60))
    assert isinstance(screen.file, io.StringIO)
    text = plainly(screen.file.getvalue())
    assert "failed: out of memory" in text and re.search(r"rounds +0 of 3", text)
    assert "against its base" not in text


# -- words and plain lines ------------------------------------------------------------------------------------------------


def test_plain_lines_stand_under_one_another() -> None:
    lines = plain(training_run(rounds=12, every=0))
    told = [line for line in lines if line.startswith("round ")]
    assert len(told) == 12
    assert told[0].startswith("round  1/12  A  pairs    35  ties    5  reward  ")
    assert told[11].endswith("time  0:07  (talking 0:04, updating 0:02)")  # phases below a second are left out
    assert len({line.index("margin") for line in told}) == len({line.index("time") for line in told}) == 1
    assert lines[-6:] == [
        "rounds: 12 of 12 in 1:48",  # 9 s each
        "pairs: 408",  # 34 each
        "best: round 12",
        "adapter: runs/r/adapter",
        "run folder: runs/r",
        "look again: expertchat watch runs/r",
    ]
    assert not any(fact in line for fact in FACTS for line in lines)


def test_an_evaluation_is_one_line() -> None:
    metrics = Metrics(id="e", kind="evaluation", round=4, learner="a", policy_version=4, figures=evaluation_figures(0.5, 120))
    assert evaluation_words(metrics) == (
        "evaluation after round 4, A: win rate 63.0 % (58.0-67.5) of 120, judged by truth; "
        "distinct facts 2.55 against 1.90, x1.34 (1.25-1.43); repeats 0.12 against 0.11, +0.01; "
        "fact accuracy 0.959 against 0.961, -0.002; tokens 25.5 against 21.3, +4.2"
    )
    nothing = metrics.model_copy(update={"figures": {"win_rate": None, "distinct_policy": None}, "round": 0})
    assert evaluation_words(nothing) == "evaluation of the base, A: no figures"


def test_a_figure_without_its_base_or_interval_is_said_without() -> None:
    assert win_words({"win_rate": 0.5}) == "win rate 50.0 %"
    (row,) = compared({"distinct_policy": 2.0, "distinct_base": None, "distinct_ratio": None})
    assert row == ("distinct facts", "-", "2.00", "")


def test_a_silent_hour_is_told_where_the_run_is() -> None:
    events = until(training_run(rounds=3, every=0), 2, "updating")
    late = [Progress(time=events[-1].time + at, finished=1, total=1, turns=1, tokens=1, seconds=1.0) for at in (60, 130, 140, 260)]
    lines = plain([*events, *late])
    assert lines[-2:] == ["round 2 of 3: updating"] * 2  # after 130 s without a line, and 130 s later
    assert lines[-3].startswith("round 1/3")


def test_both_learners_have_their_end() -> None:
    lines = plain(training_run(rounds=4, learner="both", every=1))
    assert [line[:1] for line in lines if "against its base" in line] == ["A", "B"]
    both = {"evaluations": {"a": {"win_rate": 0.5}, "b": {"win_rate": 0.75}}, "best": {"a": {"round": 3}, "b": {"round": 2}}, "rounds": 4}
    lines = plain([RunFinished(status="done", reason="it was done before", summary=both)])  # all that a run says that was done
    assert lines[:4] == [
        "done: it was done before",
        "A against its base: win rate 50.0 %",
        "B against its base: win rate 75.0 %",
        "rounds: 4 of 4",
    ]
    assert "best: A round 3, B round 2" in lines


def test_the_end_counts_nulls_by_their_kind() -> None:
    events = []
    for event in training_run(rounds=2, every=1):
        if isinstance(event, Measured) and event.metrics.kind == "round":
            figures = {**event.metrics.figures, "fault_wim_loop": 2, "fault_rating_two_values": event.metrics.round}
            event = event.model_copy(update={"metrics": event.metrics.model_copy(update={"figures": figures})})
        events.append(event)
    # Round 1 and round 2: 2 + 2 loops, 1 + 2 ratings with two values.
    assert dict(closing_lines(state_of(events)))["no answer"] == "ratings: two values 3; WIM: loop 4"
    assert "no answer" not in dict(closing_lines(state_of(training_run(rounds=2, every=1))))


def test_the_end_bears_any_summary() -> None:
    events = until(training_run(rounds=3, every=2), 3, "talking")
    for summary in ({}, {"rounds": "x", "best": 3, "evaluation": 5, "seconds": None, "pairs": [], "adapter": None, "stopped_by": None}):
        lines = dict(closing_lines(state_of([*events, RunFinished(status="stopped", summary=summary)])))
        assert lines["rounds"] == "2 of 3 in 0:17"  # 4 + 0.3 + 2.4 + 1.4 + 0.3 = 8.4 s for each of the evaluated rounds 1 and 2: 16.8
        assert lines["pairs"] == "72"  # 35 and 37
        assert "adapter" not in lines
    stopped = {"rounds": 2, "best": {"round": 0}, "stopped_by": "kl 9.1 is above guards.max_kl=8", "adapter": "x  y/adapter"}
    lines = dict(closing_lines(state_of([*events, RunFinished(status="stopped", summary=stopped)])))
    assert lines["best"] == "the base: no round was better"
    assert lines["stopped by"].startswith("kl 9.1") and lines["adapter"] == "x  y/adapter"


def test_a_stream_that_is_not_utf8_gets_every_figure() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict", write_through=True)
    view = PlainView(stream)
    for event in training_run(rounds=2, every=1):  # strict: a character that ascii lacks would raise
        view.send(event)
    view.close()
    assert b"win rate 76.0 % (71.0-80.5)" in raw.getvalue()


def test_the_silent_view_is_silent() -> None:
    out = io.StringIO()
    view = NullView(out)
    for event in training_run(rounds=2):
        view.send(event)
    assert out.getvalue() == ""
