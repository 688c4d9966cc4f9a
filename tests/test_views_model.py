"""What a run looks like so far: the state behind every view, fed by events."""

from __future__ import annotations

import random

import pytest

from expertchat.events import ConversationFinished, Progress, RunFinished, TextStreamed
from expertchat.records import ExpertRef
from expertchat.views.sides import Row, Side, model_name
from expertchat.views.words import clock, counted, summary_lines
from tests.viewed import began, conversation, rated, rewarded, said, start, state_of, whole_run


def test_a_whole_run_is_counted() -> None:
    state = state_of(whole_run())
    assert (state.done, state.total, state.turns, state.tokens) == (2, 2, 8, 80)  # 2 conversations x 4 turns x 10 tokens
    assert (state.counts.ratings, state.counts.ratings_none) == (8, 2)
    assert (state.counts.wims, state.counts.wims_empty, state.counts.wims_none) == (4, 2, 0)
    # 3 + 2 x 15 + 1 = 34 events, one second apart, the first starts the run: 33 s, 80 / 33 tokens/s
    assert state.seconds == 33
    assert state.tokens_per_second == pytest.approx(80 / 33)


def test_the_table_shows_both_ways_and_no_answer_is_not_a_number() -> None:
    table = state_of(conversation("c1")).conversations["c1"].table()
    assert table is not None
    assert [side.title for side in table.sides] == ["A on B", "B on A"]
    shown = {name: [cell.text for cell in cells] for name, cells in table.rows}
    assert shown == {"depth": ["7", "none"], "clarity": ["6.8 (8)", "5"], "WIM score": ["0.62", "1.00"], "reward": ["+0.41", "none"]}
    assert dict(table.rows)["depth"][1].number is None
    assert table.bars == 2


def test_means_leave_out_what_has_no_number() -> None:
    state = state_of([*conversation("c1"), began("c2"), rated("c2", "b", "a", "clarity", 8), rated("c2", "a", "b", "depth", 4)])
    a_on_b, b_on_a = Side("a", "b"), Side("b", "a")
    assert state.counts.means[Row(0, "depth"), a_on_b].value == 5.5  # (7 + 4) / 2
    assert (Row(0, "depth"), b_on_a) not in state.counts.means
    assert state.counts.means[Row(0, "clarity"), b_on_a].value == 6.5  # (5 + 8) / 2
    means = state.means()
    assert means is not None and dict(means.rows)["depth"][1].text == ""


def test_other_judges_stand_after_the_two_directions() -> None:
    judged = [rated("c1", j, s, "depth", 5) for j, s in (("third", "a"), ("b", "b"), ("b", "a"), ("a", "b"))]
    table = state_of([began("c1"), *judged]).conversations["c1"].table()
    assert table is not None
    assert [side.title for side in table.sides] == ["A on B", "B on A", "B on B", "third on A"]


def test_every_event_twice_changes_nothing() -> None:
    events = whole_run()
    once, twice = state_of(events), state_of([*events[:1], *(e for event in events[1:] for e in (event, event))])
    assert once.counts == twice.counts
    assert once.judged == twice.judged


def test_streaming_text_belongs_to_the_turn_that_is_not_finished() -> None:
    def streamed(turn: int, text: str) -> TextStreamed:
        return TextStreamed(conversation="c1", turn=turn, speaker="a", text=text)

    state = state_of([start(), began("c1"), streamed(0, "Hel"), streamed(0, "Hello")])
    talk = state.conversations["c1"]
    assert talk.streaming is not None and talk.streaming.text == "Hello"
    assert talk.next_speaker == "a"
    state.apply(said("c1", 0, "Hello."))
    assert talk.streaming is None and talk.next_speaker == "b"
    state.apply(streamed(0, "Hell"))  # late: the turn is finished
    assert talk.streaming is None
    state.apply(ConversationFinished(conversation="c1", turns=1, stop_reason="loop"))
    state.apply(streamed(1, "x"))
    assert talk.streaming is None and talk.stage == "judging"


def test_events_in_any_order_do_not_break_the_state() -> None:
    events = whole_run()
    for seed in range(20):
        mixed = list(events)
        random.Random(seed).shuffle(mixed)
        state = state_of(mixed)
        assert state.counts.turns == 8 and state.judged == {"c0001", "c0002"}


def test_a_resumed_run_counts_what_was_finished_before_once() -> None:
    seen = state_of([*whole_run(("c1",))[:-1], start(conversations=3, resumed=1, time=900.0)])  # a watcher who saw c1
    late = state_of([start(conversations=3, resumed=1)])  # the second run's own view
    assert (seen.done, late.done) == (1, 1)
    assert (seen.total, late.total) == (3, 3)
    assert seen.tokens == 0  # those 40 tokens were the first run's
    seen.apply(said("c2", 0, "x", tokens=7))
    assert seen.tokens == 7


def test_progress_gives_the_pace() -> None:
    state = state_of([start(), Progress(finished=0, total=1, turns=3, tokens=500, seconds=4.0)])
    assert state.tokens_per_second == 125
    state.apply(RunFinished(status="done", summary={"seconds": 8.0, "tokens_per_second": 130.0}))  # the run's own count is the last word
    assert (state.seconds, state.tokens_per_second) == (8.0, 130.0)


def test_a_released_conversation_keeps_its_counts_only() -> None:
    state = state_of(whole_run())
    before = state.counts
    state.release("c0001")
    for event in whole_run():
        state.apply(event)
    assert "c0001" not in state.conversations
    assert state.counts == before and state.done == 2


def test_problems_name_who_and_what() -> None:
    assert state_of(conversation("c1")).conversations["c1"].problems() == ["B on A, depth: no number"]


def test_the_reward_of_one_turn_is_not_the_dialogues() -> None:
    talk = state_of([began("c1"), said("c1", 0, "x"), rewarded("c1", "b", "a", 0.2, turn=0)]).conversations["c1"]
    assert talk.table() is None
    assert [reward.value for reward in talk.turn_rewards(0)] == [0.2]


@pytest.mark.parametrize(
    ("model", "version", "shown"),
    [
        ("embedded:llama", 0, "llama"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", 2, "Mixtral-8x7B-Instruct-v0.1 v2"),
        ("/hub/models--meta-llama--Meta-Llama-3-8B-Instruct/snapshots/abc123/", 0, "Meta-Llama-3-8B-Instruct"),
        ("", 0, "llama3"),
    ],
)
def test_model_names_are_short(model: str, version: int, shown: str) -> None:
    assert model_name(ExpertRef(family="llama3", model=model, policy_version=version)) == shown


def test_words() -> None:
    assert (clock(42.9), clock(3723)) == ("0:42", "1:02:03")
    assert (counted(1, "turn"), counted(2000, "turn")) == ("1 turn", "2,000 turns")


def test_the_summary_names_failures_folder_and_how_to_look_again() -> None:
    lines = dict(summary_lines(state_of(whole_run())))
    assert lines["conversations"] == "2 of 2"
    assert lines["ratings"] == "8, 2 without an answer"
    assert lines["ties"] == "2 of 5 conversations rate both experts alike"
    assert lines["endings"] == "turns 2"
    assert (lines["run folder"], lines["look again"]) == ("runs/r", "expertchat watch runs/r")


def test_the_summary_of_a_resumed_run_counts_all_its_starts() -> None:
    whole = {"turns": 20, "tokens": 900, "seconds": 30.0, "tokens_per_second": 30.0, "rating_count": 48, "parse_failures": 3}
    state = state_of([start(4, resumed=3), *conversation("c4"), RunFinished(status="done", summary=whole)])
    lines = dict(summary_lines(state))
    assert lines["conversations"] == "4 of 4"
    assert (lines["turns"], lines["tokens"]) == ("20", "900 in 0:30 (30 tokens/s)")
    assert lines["ratings"] == "48, 3 without an answer"


def test_nulls_are_shown_by_their_kind() -> None:
    faults = {"rating": {"low_mass": 12, "cut": 3}, "wim": {"loop": 5, "echo": 4, "rates": 3, "empty": 2, "refusal": 1}}
    lines = dict(summary_lines(state_of([start(), RunFinished(status="done", summary={"faults": faults})])))
    assert lines["no answer"] == "ratings: low mass 12, cut 3; WIM: loop 5, echo 4, rates 3, empty 2 and 1 other kind"
    none = RunFinished(status="done", summary={"faults": {"rating": {}, "wim": {}}})
    assert "no answer" not in dict(summary_lines(state_of([start(), none])))


def test_a_folder_with_a_space_can_be_pasted_into_a_shell() -> None:
    state = state_of([start().model_copy(update={"folder": "my runs/r"}), RunFinished(status="done")])
    assert dict(summary_lines(state))["look again"] == "expertchat watch 'my runs/r'"
