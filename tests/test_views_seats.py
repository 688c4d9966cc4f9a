"""More than two experts, of any names, in the views: colours, indents, who is next, who rated whom, several learners, the summary."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.cells import cell_len

from expertchat.events import AnyEvent, ConversationFinished, Progress, RunFinished, TextStreamed
from expertchat.folder.summary import summarise
from expertchat.records import Transcript
from expertchat.views import looks, render, rounds
from expertchat.views.arms import print_arms
from expertchat.views.live import LiveView
from expertchat.views.model import Conversation
from expertchat.views.plan import bar, legend, looks_of
from expertchat.views.sides import TWO, Side, in_order
from expertchat.views.words import summary_lines
from tests.viewed import (
    EXPERTS,
    NAMED,
    THREE,
    began,
    console,
    conversation,
    drawn,
    frame,
    of_more,
    plain,
    plainly,
    rewarded,
    said,
    start,
    state_of,
    training_run,
    until,
    written,
)

WIDTHS = (20, 60, 120, 200)
SEATS = tuple(THREE)
TABLES = r"(?:rating|depth|accuracy|engagement|WIM score|reward) "


def talk(events: list[AnyEvent], name: str = "c1") -> Conversation:
    return state_of(events).conversations[name]


# -- places and colours -------------------------------------------------------------------------------------------------


def test_each_has_an_indent_of_its_own_and_two_face_each_other() -> None:
    # At 60 columns a bubble has int(60 x 0.78) = 46, so 14 are free: none, half, all of them.
    assert [looks.indent(seat, SEATS, 60) for seat in SEATS] == [0, 7, 14]
    assert [looks.indent(seat, TWO, 60) for seat in TWO] == [0, 14]
    lines = drawn(60, *render.whole(talk(of_more("c1")), 60)).split("\n")
    heads = [line for line in lines if " · " in line]
    assert [len(line) - len(line.lstrip()) for line in heads] == [0, 7, 14, 0, 14]  # A B C A C
    assert [line.split(" · ")[0].strip(" ╭─") for line in heads] == list("ABCAC")


def test_colours_go_by_seat_and_who_only_judges_has_the_next() -> None:
    assert [looks.colour(who, TWO) for who in ("a", "b", "third")] == ["cyan", "magenta", "green"]
    assert [looks.colour(who, SEATS) for who in (*SEATS, "third")] == ["cyan", "magenta", "green", "yellow"]
    assert [looks.colour(who, tuple(NAMED)) for who in NAMED] == ["cyan", "magenta", "green", "yellow"]
    text = console(60)
    text.print(*render.whole(talk(of_more("c1")), 60))
    assert "\x1b[1;32mC\x1b[0m" in written(text)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("experts", [THREE, NAMED], ids=["three", "named"])
def test_no_line_is_wider_than_the_screen(width: int, experts: dict) -> None:
    state = state_of(of_more("c1", experts))
    own = state.conversations["c1"]
    state.finished = RunFinished(status="done")
    parts = [*render.whole(own, width), render.in_one_line(own), render.run_end(state, width), render.waiting_bubble(own, width)]
    assert all(cell_len(line) <= width for line in drawn(width, *parts).split("\n"))


def test_a_name_stands_as_it_is() -> None:
    own = talk([*of_more("c1", NAMED)[:3], began("c2", experts=NAMED)])
    text = drawn(120, *render.whole(own, 120))
    assert "─ anna · llama ─" in text and "─ bo · Mixtral-8x7B-Instruct-v0.1 ─" in text
    topic = began("c1", experts=NAMED).model_copy(update={"source": "bo"})
    assert "proposed by bo" in drawn(120, render.heading(talk([topic])))


# -- who is next --------------------------------------------------------------------------------------------------------


def test_of_two_the_other_one_is_next_whoever_opened() -> None:
    assert talk([began("c1", opener="b")]).next_speaker == "b"
    assert talk([began("c1", opener="b"), said("c1", 0, "x", opener="b")]).next_speaker == "a"


def test_of_three_nobody_is_said_to_be_next_before_it_is_known() -> None:
    assert talk(of_more("c1")[:1]).next_speaker == "a"  # the opener is announced
    own = talk(of_more("c1")[:2])
    assert own.next_speaker is None
    assert drawn(60, render.waiting_bubble(own, 60)).strip() == "● ● ●"


def asked(*waiting: str) -> Progress:
    return Progress(finished=0, total=1, turns=1, tokens=1, seconds=1.0, waiting=dict.fromkeys(waiting, 1))


def test_who_is_asked_has_the_word_where_one_dialogue_runs_alone() -> None:
    begun = of_more("c1")[:2]
    own = talk([*begun, asked("c")])
    assert own.next_speaker == "c"
    assert drawn(60, render.waiting_bubble(own, 60)) == " " * 14 + "  ● ● ●  C is next\n"
    assert talk([*begun, asked("moderator")]).next_speaker is None
    assert talk([*begun, asked("b", "c")]).next_speaker is None
    assert talk([*begun, began("c2", experts=THREE), asked("c")]).next_speaker is None  # whose request it is cannot be known
    assert talk([*begun, asked("b"), *of_more("c1")[2:3]]).next_speaker is None  # B has spoken since


def test_the_text_that_comes_says_who_speaks() -> None:
    state = state_of([start(1, 5), *of_more("c1")[:2], TextStreamed(conversation="c1", turn=1, speaker="c", text="Well")])
    assert "              ╭─ C · Phi-3" in "\n".join(frame(state, 60, 24, "c1"))


# -- who rated whom -----------------------------------------------------------------------------------------------------


def test_columns_go_by_judge_then_subject_then_those_who_only_judge() -> None:
    sides = [Side(judge, subject) for judge in ("third", "c", "b", "a") for subject in "cba"]
    assert ", ".join(side.title for side in in_order(sides, SEATS)) == (
        "A on B, A on C, B on A, B on C, C on A, C on B, A on A, B on B, C on C, third on A, third on B, third on C"
    )


def test_each_rates_each_in_one_table_or_below_one_another_a_judge_whole() -> None:
    """The i-th gives the j-th 1 + i + 2j: A gives B 3 and C 5, B gives A 2 and C 6, C gives A 3 and B 5."""
    wide, narrow = (drawn(width, *render.judgement(talk(of_more("c1")), width)).split("\n") for width in (120, 60))
    assert [line.split() for line in wide if "depth" in line] == [["depth", *"352635"]]
    heads = [" ".join(line.split()[2:]) for line in narrow if "rating" in line]
    assert heads == ["A on B A on C B on A B on C", "C on A C on B"]
    assert [line.split() for line in narrow if "depth" in line] == [["depth", *"3526"], ["depth", *"35"]]
    assert sum("misses in" in line for line in narrow) == 6


def test_long_names_stand_in_two_lines_and_every_figure_is_there() -> None:
    text = drawn(60, *render.judgement(talk(of_more("c1", NAMED)), 60))
    lines = text.split("\n")
    heads = [(lines[i - 1].split(), " ".join(lines[i].split()[2:])) for i, line in enumerate(lines) if "rating" in line]
    assert heads[0] == (["anna"] * 3, "on bo on christopher on D")
    assert [judges[0] for judges, _ in heads] == ["anna", "bo", "christopher", "D"]
    # of the i-th for the j-th 1 + i + 2j: 3 5 7, 2 6 8, 3 5 9, 4 6 8
    assert [line.split()[1:] for line in lines if line.strip().startswith("depth")] == [list("357"), list("268"), list("359"), list("468")]
    assert "…" not in text


def test_a_dialogue_in_one_line_says_what_each_got_on_average() -> None:
    """B is judged by A (no reward) and C (0.2); A by B and C: (0.1 + 0.2) / 2; C by A and B: (0 + 0.1) / 2."""
    own = talk(of_more("c1"))
    assert own.mean_rewards() == {"a": pytest.approx(0.15), "b": 0.2, "c": 0.05}
    assert drawn(120, render.in_one_line(own)) == "✓ c1  volcanoes  5 turns   A +0.15   B +0.20   C +0.05\n"
    assert talk([began("c1", experts=THREE), rewarded("c1", "a", "b", None)]).mean_rewards() == {"b": None}


def test_a_turn_has_a_reward_by_each_of_its_judges() -> None:
    given = [rewarded("c1", "b", "a", 0.2, turn=0), rewarded("c1", "c", "a", None, turn=0)]
    own = talk([*of_more("c1")[:2], *given])
    assert "─ reward by B +0.20, C none ─" in drawn(60, *render.turn_parts(0, own, 60))
    lines = plain([*of_more("c1")[:2], *given, *of_more("c1")[-1:]])
    assert lines[-2:] == [
        "[c1 volcanoes] turn 1, A by B: rating 7.0, WIM 0.50, reward +0.20",
        "[c1 volcanoes] turn 1, A by C: rating 7.0, WIM 0.50, no reward (depth has no number)",
    ]


def test_plain_lines_of_three() -> None:
    lines = plain([start(1), *of_more("c1"), RunFinished(status="done")])
    assert "[c1 volcanoes] begins: A is llama, B is Mixtral-8x7B-Instruct-v0.1, C is Phi-3-mini-4k-instruct v2" in lines
    table = [line for line in lines if re.match(rf"\[c1 volcanoes\] {TABLES}", line)]
    assert table[0] == "[c1 volcanoes] rating 1-10  A on B  A on C  B on A  B on C  C on A  C on B"
    assert table[-1] == "[c1 volcanoes] reward         none   +0.00   +0.10   +0.10   +0.20   +0.20"
    assert "[c1 volcanoes] C misses in A (WIM score 0.20): a says nothing of water." in lines
    assert "mean rating  A on B  A on C  B on A  B on C  C on A  C on B" in lines
    named = plain([start(1), *of_more("c1", NAMED)])
    assert any(line.startswith("[c1 volcanoes] christopher: ") for line in named)


def test_the_live_view_of_three_keeps_whole_dialogues_and_ends_with_all_means() -> None:
    screen = console(60, 24)
    view = LiveView(screen, threaded=False)
    for event in [start(2, 5), *of_more("c1"), *of_more("c2", order=(1, 2, 0)), RunFinished(status="done")]:
        view.send(event)
        view.draw()
    view.close()
    assert isinstance(screen.file, io.StringIO)
    end = plainly(screen.file.getvalue()).rpartition("means over 2 conversations")[2]
    assert [line.split() for line in end.split("\n") if "depth" in line] == [["depth", "3.0", "5.0", "2.0", "6.0"], ["depth", "3.0", "5.0"]]


# -- several learners ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(60, 24), (120, 40), (160, 45), (20, 6)])
@pytest.mark.parametrize("experts", [THREE, NAMED], ids=["three", "named"])
def test_the_screen_of_several_learners_is_never_overrun(size: tuple[int, int], experts: dict) -> None:
    heights = set()
    for at, phase, more in ((1, "talking", 40), (3, "updating", 4), (6, "evaluating", 3)):
        state = state_of(until(training_run(rounds=6, learner="all", every=3, experts=experts), at, phase, more))
        lines = frame(state, *size, next(iter(state.conversations), None))
        assert all(cell_len(line) <= size[0] for line in lines), lines
        heights.add(len(lines))
    assert size[1] < 12 or heights == {size[1] - 1}


def test_learners_have_their_rounds_and_curves_in_the_order_of_the_seats() -> None:
    state = state_of(until(training_run(rounds=12, learner="all", every=1, experts=NAMED), 9, "talking"))
    training = state.training
    assert training is not None and training.learners() == list(NAMED)
    by = [line.plain.split()[1] for line in rounds.table(training, 120, 60) if re.match(r" +[1-8] ", line.plain)]
    assert by == ["anna", "bo", "christop", "D"] * 2
    # 4 curves: 60 columns take 2 of 25 (60 + 3) / 28, so two lines a figure; 120 take all 4
    narrow, wide = (rounds.curves(training, width, 6) for width in (60, 120))
    names = [re.findall(r"(\w+) +(?=reward|win|kl)", line.plain) for line in narrow]
    assert names == [["anna", "bo"], ["christop", "D"]] * 3
    assert len(re.findall("reward", wide[0].plain)) == 4 and {line.cell_len for line in narrow} == {59}  # 2 x 28 + 3
    assert len(rounds.curves(training, 60, 5)) == 4  # a figure whole or not at all


def test_all_learners_have_their_end() -> None:
    events = list(training_run(rounds=6, learner="all", every=3, experts=THREE))
    lines = plain(events)
    assert [line[:1] for line in lines if "against its base" in line] == ["A", "B", "C"]
    assert any(line.startswith("round 3/6  C  pairs") for line in lines)
    text = drawn(60, rounds.closing(state_of(events), 60))
    assert all(f"─ {letter} against its base ─" in text for letter in "ABC")


# -- the summary --------------------------------------------------------------------------------------------------------


def run_of(folder: Path, dialogues: dict[str, list[AnyEvent]]) -> Path:
    """The records of dialogues as a run folder has them."""
    folder.mkdir()
    files: dict[str, list[str]] = {name: [] for name in ("transcripts", "ratings", "wim", "rewards")}
    for name, events in dialogues.items():
        state = state_of([event for event in events if event.kind != "conversation_judged"])
        own = state.conversations[name]
        kept = Transcript(id=name, topic="t", experts=own.experts, turns=own.turns, seed=1, stop_reason="turns")
        files["transcripts"].append(kept.to_json())
        for (kind, _), record in own.judgements.items():
            files[{"rating_given": "ratings", "wim_given": "wim", "reward_given": "rewards"}[kind]].append(record.to_json())
    for file, lines in files.items():
        (folder / f"{file}.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder


def test_the_summary_of_three_counts_every_direction_and_all_pairs(tmp_path: Path) -> None:
    """Every reward of of_more has the rating 7.0: in each dialogue A and B, A and C, B and C are alike, 2 x 3 pairs."""
    summary = summarise(run_of(tmp_path / "r", {"c1": of_more("c1"), "c2": of_more("c2", order=(2, 2, 0, 1))}))
    assert (summary["conversations"], summary["turns"], summary["turns_by"]) == (2, 9, {"a": 3, "b": 2, "c": 4})
    assert list(summary["ratings"]["depth"]) == ["a-by-b", "a-by-c", "b-by-a", "b-by-c", "c-by-a", "c-by-b"]
    assert summary["ratings"]["depth"]["c-by-b"] == {"mean": 6.0, "n": 2, "null": 0}
    assert (summary["rating_count"], summary["wim_count"], summary["rewards_read"], summary["rewards_null"]) == (36, 12, 10, 2)
    assert (summary["ties"], summary["rated_pairs"]) == (6, 6)
    lines = dict(summary_lines(state_of([start(2), RunFinished(status="done", summary=summary)])))
    assert lines["turns"] == "9: A 3, B 2, C 4"
    assert lines["ties"] == "6 of 6 pairs of experts are rated alike"


def test_the_summary_of_two_says_what_it_said(tmp_path: Path) -> None:
    summary = summarise(run_of(tmp_path / "r", {"c1": conversation("c1"), "c2": conversation("c2")}))
    assert "turns_by" not in summary and (summary["ties"], summary["rated_pairs"]) == (2, 2)
    lines = dict(summary_lines(state_of([start(2), RunFinished(status="done", summary=summary)])))
    assert (lines["turns"], lines["ties"]) == ("8", "2 of 2 conversations rate both experts alike")


def test_an_expert_is_rated_with_the_mean_of_its_judges(tmp_path: Path) -> None:
    """A gets 8 and 6 (mean 7), B 7 and nothing (7), C 5 and 6 (5.5): A and B are alike, two pairs are not."""
    given = {("b", "a"): 8, ("c", "a"): 6, ("a", "b"): 7, ("c", "b"): None, ("a", "c"): 5, ("b", "c"): 6}
    events = of_more("c1")[:-1]
    for i, event in enumerate(events):
        if event.kind == "reward_given":
            rating = given[event.reward.judge, event.reward.subject]
            events[i] = event.model_copy(update={"reward": event.reward.model_copy(update={"rating": rating})})
    summary = summarise(run_of(tmp_path / "r", {"c1": events, "c2": [*of_more("c2")[:6], *of_more("c2")[9:11]]}))  # c2 is broken off
    assert (summary["ties"], summary["rated_pairs"]) == (1, 3)


def test_a_dialogue_that_ends_early_is_drawn_without_judgements() -> None:
    own = talk([*of_more("c1")[:3], ConversationFinished(conversation="c1", turns=2, stop_reason="loop")])
    assert own.table() is None and own.mean_rewards() == {}


# -- arms, and the plan -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_the_arms_of_three_learners_break_no_figure(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertchat.views.console.WIDTH", width)
    nothing = dict.fromkeys(("win_rate_length_matched", "repeats_policy", "repeats_base", "accuracy_policy", "accuracy_base", "kl"))
    row = nothing | {
        "arm": "base", "seeds": [1, 2], "finished": False, "rounds": 1, "rounds_max": 2, "rounds_wanted": 5, "judge": "truth",
        "win_rate": 0.7, "win_rate_low": 0.6, "win_rate_high": 0.78, "win_rate_min": 0.65, "win_rate_max": 0.72, "distinct_ratio": 1.25,
        "distinct_ratio_low": 1.1, "distinct_ratio_high": 1.4, "tokens_policy": 20.0, "tokens_base": 21.0, "distinct_policy": 2.5,
        "distinct_base": 2.0, "tie_rate": 0.2, "null_rate": 0.05, "margin_scaled": 1.5,
        "judged": 120, "judged_max": 128,
    }  # fmt: skip
    out = io.StringIO()
    print_arms({"arms": [row | {"learner": seat} for seat in THREE], "notes": []}, out)
    lines = out.getvalue().split("\n")
    assert all(cell_len(line) <= width for line in lines)
    for figure in ("70.0 (60.0-78.0)", "65.0-72.0", "1.25 (1.10-1.40)", "20 / 21", "2.50 / 2.00", "1.50", "1-2 of 5"):
        assert sum(figure in line for line in lines) == 3, figure
    tables = [line for line in lines if line.strip().startswith("base, expert c")]
    assert len(tables) == {60: 4, 80: 3, 120: 2, 160: 1}[width]


def test_a_plan_has_a_letter_of_its_own_for_every_expert() -> None:
    names = ("a", "c", "anna", "alan", "third")
    gpus = [{"size": 16, "segments": {**{f"weights {name}": 3 for name in names}, "free": 1}}]
    letters = {name: look[0] for name, look in looks_of(gpus).items()}
    # anna: a is expert a's; alan: a is taken, l is that of LoRA's
    assert [letters[f"weights {name}"] for name in names] == ["a", "c", "n", "1", "t"]
    assert len(set(letters.values())) == len(letters)
    assert bar(gpus[0], 16, looks_of(gpus)).plain == "aaacccnnn111ttt·"
    assert "weights anna" in drawn(120, legend(gpus))


def test_two_experts_are_known_where_no_event_says_who_sits_there() -> None:
    assert state_of([]).seats == TWO == tuple(EXPERTS)
