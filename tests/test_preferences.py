"""Rows with preferences are read: TRL's forms, UltraFeedback's, single replies with labels, what runs keep; what is no such row is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.config import ConfigError
from expertchat.records import PreferencePair, Transcript
from expertchat.records.learning import Preference
from expertchat.sources.preferences import parted, read_preferences, shared
from expertchat.sources.preferring import PreferredConfig

USER = {"role": "user", "content": "Why tides?"}
GOOD, POOR = {"role": "assistant", "content": "The Moon pulls."}, {"role": "assistant", "content": "No idea."}


def read(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> list[Preference]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_preferences(PreferredConfig(path=[str(path)], share=0.0, **settings), seed=0)


FORMS: list[tuple[str, dict[str, Any]]] = [
    ("explicit, conversational", {"prompt": [USER], "chosen": [GOOD], "rejected": [POOR]}),
    ("implicit, conversational", {"chosen": [USER, GOOD], "rejected": [USER, POOR]}),
    ("UltraFeedback", {"prompt": "Why tides?", "chosen": [USER, GOOD], "rejected": [USER, POOR], "score_chosen": 8.0, "score_rejected": 2}),
    ("explicit, texts", {"prompt": "Why tides?", "chosen": " The Moon pulls.", "rejected": "No idea."}),
    ("a prompt that is a chat, replies that are texts", {"prompt": [USER], "chosen": "The Moon pulls.", "rejected": "No idea."}),
    ("other names", {"question": "Why tides?", "accepted": "The Moon pulls.", "dispreferred": "No idea."}),
]


@pytest.mark.parametrize(("form", "row"), FORMS, ids=[form for form, _ in FORMS])
def test_every_form_says_the_same(form: str, row: dict[str, Any], tmp_path: Path) -> None:
    (found,) = read(tmp_path, [row])
    assert (found.prompt, found.rendered) == ([USER], None)
    assert (found.chosen, found.rejected) == ("The Moon pulls.", "No idea.") and found.pair
    if form == "UltraFeedback":
        assert (found.score_chosen, found.score_rejected) == (8.0, 2.0)


def test_plain_texts_stand_as_they_are_where_that_is_wanted(tmp_path: Path) -> None:
    # Without a prompt it is what both begin with, up to a space: TRL's own rule.
    (found,) = read(tmp_path, [{"chosen": "The sky is blue.", "rejected": "The sky is black."}], template="none")
    assert (found.rendered, found.chosen, found.rejected) == ("The sky is ", "blue.", "black.")
    (found,) = read(tmp_path, [{"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}], template="none")
    assert (found.rendered, found.chosen, found.rejected) == ("The sky is", " blue.", " green.")


def test_single_replies_have_a_label(tmp_path: Path) -> None:
    rows = [{"prompt": "Why?", "completion": "So.", "label": label} for label in (True, 0, "true", "no")]
    found = read(tmp_path, rows)
    assert [(row.chosen, row.rejected) for row in found] == [("So.", None), (None, "So."), ("So.", None), (None, "So.")]
    (chat,) = read(tmp_path, [{"prompt": [USER], "completion": [GOOD], "label": False}])
    assert (chat.prompt, chat.rejected, chat.pair) == ([USER], "The Moon pulls.", False)


def test_columns_are_named(tmp_path: Path) -> None:
    row = {"frage": "Why tides?", "gut": "The Moon pulls.", "schlecht": "No idea."}
    (found,) = read(tmp_path, [row], columns={"prompt": "frage", "chosen": "gut", "rejected": "schlecht"})
    assert (found.prompt, found.chosen, found.rejected) == ([USER], "The Moon pulls.", "No idea.")


def test_a_run_is_read_with_its_topics_and_its_cut_replies(tmp_path: Path) -> None:
    pair = PreferencePair(
        id="c0001/t02", prompt=[USER], chosen=[GOOD], rejected=[POOR], score_chosen=3.0, score_rejected=1.0, margin=2.0, round=0,
        policy_version=0, provenance={"topic": "tides", "cut_chosen": 0, "cut_rejected": 1},
    )  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text(pair.to_json() + "\n")
    (found,) = read_preferences(PreferredConfig(path=[str(tmp_path)]), 0)
    assert (found.topic, found.group, found.cut, found.chosen) == ("tides", "tides", ["rejected"], "The Moon pulls.")


def test_pairs_of_a_training_have_the_topics_of_its_dialogues_however_they_are_named(tmp_path: Path) -> None:
    about: dict[str, Any] = {"score_chosen": 3.0, "score_rejected": 1.0, "margin": 2.0, "round": 1, "policy_version": 0}
    said = {"transcript": "r0001/c0000", "turn": 2, "cut_chosen": 1, "cut_rejected": 0}
    about |= {"prompt": [USER], "chosen": [GOOD], "rejected": [POOR], "provenance": said}
    pairs = [PreferencePair.model_validate({"id": f"r0001/c0000/t{i}"} | about) for i in (2, 4)]
    ref = {"family": "world", "model": "embedded:llama"}
    talk = Transcript(id="r0001/c0000", topic="tides", experts={"a": ref, "b": ref}, turns=[], seed=0, stop_reason="turns")
    (tmp_path / "pairs.jsonl").write_text("".join(f"{pair.to_json()}\n" for pair in pairs))
    for topic, group in (("", "r0001/c0000"), ("tides", "tides")):
        for path in (tmp_path, tmp_path / "pairs.jsonl"):
            found = read_preferences(PreferredConfig(path=[str(path)], share=0), 0)
            assert [(one.topic, one.group, one.cut) for one in found] == [(topic, group, ["chosen"])] * 2
        (tmp_path / "transcripts.jsonl").write_text(talk.to_json() + "\n")


# -- what is held out -----------------------------------------------------------------------------------------------------


def test_whole_groups_are_held_out_and_what_is_shared_is_counted(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{n // 2}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(20)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_preferences(PreferredConfig(path=[str(path)], share=0.2), seed=0)
    held = {row.prompt[0]["content"] for row in found if row.part == "evaluation"}
    # two of ten prompts, each with its two rows; none of their prompts is trained
    assert len(held) == 2 and sum(row.part == "evaluation" for row in found) == 4 and shared(found) == 0
    assert [row.part for row in found] == [row.part for row in read_preferences(PreferredConfig(path=[str(path)], share=0.2), seed=0)]
    told = read(tmp_path, [{**row, "part": "test" if n < 3 else "train"} for n, row in enumerate(rows)])
    assert sum(row.part == "evaluation" for row in told) == 3 and shared(told) == 1  # Q1 stands on both sides


@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=30), st.floats(0.01, 0.99), st.integers(0, 5))
def test_no_group_is_on_both_sides_and_something_is_left(groups: list[str], share: float, seed: int) -> None:
    rows = [Preference(id=f"{n}", prompt=[USER], chosen="a", rejected="b", group=group) for n, group in enumerate(groups)]
    found = parted(rows, PreferredConfig(path=["x"], share=share), seed)
    sides = {part: {row.group for row in found if row.part == part} for part in ("train", "evaluation")}
    assert not sides["train"] & sides["evaluation"] and sides["train"]
    assert len(set(groups)) == 1 or sides["evaluation"]


# -- bad input ------------------------------------------------------------------------------------------------------------

ROW = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
BAD: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
    ([{"prompt": "Why?", "text": "So."}], {}, "holds neither pairs (chosen and rejected) nor single replies (completion and label)"),
    ([ROW], {"columns": {"chosen": "chosn"}}, "data.columns.chosen=chosn: rows.jsonl has no such column; did you mean chosen?"),
    ([ROW, {**ROW, "rejected": ""}], {}, "line 2: rejected is empty; fill in or remove these rows"),
    ([{**ROW, "rejected": "So."}], {}, "line 1: chosen and rejected are the same"),
    ([{"chosen": "Yes", "rejected": "No"}], {}, "line 1: there is no prompt"),
    ([{"prompt": "Why?", "completion": "So.", "label": "perhaps"}], {}, "line 1: label is neither true nor false (1 or 0)"),
    ([{"prompt": [USER], "chosen": [USER], "rejected": [POOR]}], {}, "line 1: chosen does not end with a reply of the assistant"),
    ([{"chosen": [USER, GOOD], "rejected": [{**USER, "content": "Else?"}, POOR]}], {}, "chosen and rejected do not answer one same prompt"),
    ([{"prompt": "Why?", "chosen": [USER, GOOD], "rejected": "No."}], {}, "are of two forms, a chat and a text"),
    ([ROW], {"min_margin": 1.0}, "data.min_margin=1: no pair has two scores"),
    ([{**ROW, "score_chosen": 2, "score_rejected": 1}], {"min_margin": 3.0}, "the scores of all 1 pairs are closer"),
]


@pytest.mark.parametrize(("rows", "settings", "said"), BAD, ids=[said[:45] for _, _, said in BAD])
def test_what_is_no_preference_is_told_with_its_rows(
    rows: list[dict[str, Any]], settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, rows, **settings)
    assert said in str(error.value) and len(error.value.problems) == 1


def test_rows_that_cannot_be_read_may_be_left_out(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [ROW, {**ROW, "chosen": None}]))
    config = PreferredConfig(path=[str(tmp_path / "rows.jsonl")], share=0.0, incomplete="skip")
    assert len(read_preferences(config, 0, told.append)) == 1
    assert told == ["rows.jsonl: 1 of 2 lines are left out (line 2: chosen is empty)"]
    with pytest.raises(ConfigError, match=r"holds no pairs.jsonl; name a file of pairs"):
        read_preferences(PreferredConfig(path=[str(tmp_path)]), 0)
    with pytest.raises(ConfigError, match="no such file or folder"):
        read_preferences(PreferredConfig(path=["gone.jsonl"]), 0)
