"""Rows that a model is taught: text lines, tables, messages, demonstrations, a run's best; templates; what is held out; what is shared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.command.taught import taught
from expertchat.config import ConfigError
from expertchat.records import Demonstration
from expertchat.sources.demonstrations import read_demonstrations, shared
from expertchat.sources.instructions import find_template, parsed
from expertchat.sources.teaching import DataConfig

CONTEXTS = "Context,Question,Type\nBees make honey.,What do bees make?,fact\nBees make honey.,Why do they?,reason\nIce melts.,When?,fact\n"


def rows(path: Path, seed: int = 0, **settings: Any) -> list[Demonstration]:
    return read_demonstrations(DataConfig(path=[str(path)], **settings), seed)


def file(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, "utf-8")
    return folder / name


# -- text lines -----------------------------------------------------------------------------------------------------------


def test_lines_have_comments_escaped_signs_and_a_part_that_is_held_out(tmp_path: Path) -> None:
    found = rows(file(tmp_path, "a.txt", "# comment\n\nC\\# is#a language\nname # Lumos \n  # now _EVAL_ begins\nlast#Nox\n"))
    said = [(one.prompt[0]["content"], one.completion[0]["content"], one.part) for one in found]
    assert said == [("C# is", "a language", "train"), ("name", "Lumos", "train"), ("last", "Nox", "evaluation")]
    assert [one.source for one in found] == ["a.txt:3", "a.txt:4", "a.txt:6"]


def test_wrong_lines_are_told_together() -> None:
    with pytest.raises(ConfigError) as error:
        parsed("no sign\na#b#c\n#only a comment\nempty#\n", "data.path=x")
    assert error.value.problems == [
        "data.path=x: line 1 hold no #; write instruction#answer, a comment begins with #",
        "data.path=x: line 2 hold more than one #; write \\# for one that is text",
        "data.path=x: line 4 have nothing before or after the #",
    ]
    with pytest.raises(ConfigError, match="holds no row"):
        parsed("# nothing\n", "data.path=x")


PLAIN = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp"), blacklist_characters="\\\x85"), min_size=1)


@given(st.lists(st.tuples(PLAIN, PLAIN).filter(lambda one: all(part.strip() for part in one)), min_size=1, max_size=4))
def test_any_text_comes_back_from_lines(pairs: list[tuple[str, str]]) -> None:
    lines = ["#".join(part.strip().replace("#", "\\#") for part in one) for one in pairs]
    found = parsed("\n".join(lines), "x")
    assert [(one.instruction, one.answer) for one in found] == [tuple(part.strip() for part in one) for one in pairs]


# -- tables ---------------------------------------------------------------------------------------------------------------


def test_questions_of_a_type_are_asked_for_by_the_template(tmp_path: Path) -> None:
    path = file(tmp_path, "q.csv", CONTEXTS)
    first = rows(path, template="alpaca_en")[0]
    assert first.rendered is not None and first.rendered.endswith("### Input:\nBees make honey.\n\n### Response:\n")
    assert "Write a question about the text. The type of the question is fact." in first.rendered
    assert first.completion == [{"role": "assistant", "content": "What do bees make?"}] and first.provenance == {"type": "fact"}
    german = rows(path, template="alpaca_de")[0].rendered or ""
    assert "### Anweisung:\nSchreibe eine Frage zum Text. Der Typ der Frage ist fact." in german and german.endswith("### Antwort:\n")
    chat = rows(path)[0]
    assert chat.rendered is None and chat.prompt[0]["content"].endswith("fact.\n\nBees make honey.")
    assert rows(path, template="none", task="Ask ({type}):")[0].rendered == "Ask (fact):\nBees make honey."
    with pytest.raises(ConfigError, match=r"data\.task=Ask: has no \{type\}"):
        rows(path, task="Ask")


def test_rows_of_one_context_are_held_out_together(tmp_path: Path) -> None:
    """Two contexts, so one of them is held out; whichever, its rows go with it."""
    for seed in range(4):
        found = rows(file(tmp_path, "q.csv", CONTEXTS), seed, share=0.5)
        parts = {one.group: {other.part for other in found if other.group == one.group} for one in found}
        assert len(parts) == 2 and all(len(own) == 1 for own in parts.values())
        assert {part for own in parts.values() for part in own} == {"train", "evaluation"}


def test_a_share_of_what_is_left_chooses_the_round(tmp_path: Path) -> None:
    """Ten groups: two are held out, and a quarter of the other eight chooses; what is held out is the same with and without."""
    lines = [json.dumps({"prompt": f"{i}?", "completion": "x", "group": f"g{i}"}) for i in range(10)]
    path = file(tmp_path, "p.jsonl", "\n".join(lines))
    found, without = rows(path, share=0.2, choose=0.25), rows(path, share=0.2)
    counts = {part: sum(one.part == part for one in found) for part in ("train", "choosing", "evaluation")}
    assert counts == {"train": 6, "choosing": 2, "evaluation": 2}
    assert [one.id for one in found if one.part == "evaluation"] == [one.id for one in without if one.part == "evaluation"]
    lines = [json.dumps({"prompt": "?", "completion": "x", "part": part}) for part in ("train", "choosing")]
    own = file(tmp_path, "o.jsonl", "\n".join(lines))
    assert [one.part for one in rows(own, share=0, choose=0.5)] == ["train", "choosing"]  # what rows say goes before what is drawn
    with pytest.raises(ConfigError, match=r"data\.choose=0\.5: the rows to train on are of one group"):
        rows(file(tmp_path, "l.txt", "a#b\n# _EVAL_\nc#d\n"), choose=0.5)


def test_trl_forms_and_demonstrations(tmp_path: Path) -> None:
    plain = {"prompt": "2+2=", "completion": " 4", "part": "test"}
    chat = {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Ho"}]}
    found = rows(file(tmp_path, "a.jsonl", f"{json.dumps(plain)}\n{json.dumps(chat)}\n"), template="none")
    assert found[0].rendered == "2+2=" and found[0].completion[0]["content"] == "4" and found[0].part == "evaluation"
    assert found[1].rendered is None and found[1].prompt == chat["prompt"]
    again = rows(file(tmp_path, "b.jsonl", "".join(f"{one.to_json()}\n" for one in found)))
    assert again == found
    with pytest.raises(ConfigError, match="line 1 have a completion that is not one message"):
        rows(file(tmp_path, "c.jsonl", json.dumps(plain | {"completion": [{"role": "user", "content": "x"}]})))


def test_messages_make_a_row_for_every_reply(tmp_path: Path) -> None:
    said = [("system", "Be short."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    line = json.dumps({"messages": [{"role": role, "content": text} for role, text in said]})
    found = rows(file(tmp_path, "m.jsonl", line), share=0)
    assert [(len(one.prompt), one.completion[0]["content"], one.group) for one in found] == [(2, "b", "l00001"), (4, "d", "l00001")]
    with pytest.raises(ConfigError, match="hold no reply of an assistant"):
        rows(file(tmp_path, "n.jsonl", json.dumps({"messages": [{"role": "user", "content": "a"}]})))


def test_wrong_columns_and_empty_cells_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        rows(file(tmp_path, "a.csv", "x,y\n1,2\n"), columns={"prompt": "z"})
    assert len(error.value.problems) == 2 and all("(the columns are 'x', 'y')" in problem for problem in error.value.problems)
    assert rows(file(tmp_path, "b.csv", "x,y\n1,2\n"), columns={"prompt": "x", "completion": "y"})[0].completion[0]["content"] == "2"
    with pytest.raises(ConfigError, match="rows 2, 3 have nothing in 'completion'"):
        rows(file(tmp_path, "c.csv", "prompt,completion\na,\nb,\n"))
    with pytest.raises(ConfigError, match=r"data\.path=.*: holds no row|data\.path: .*holds no row"):
        rows(file(tmp_path, "d.csv", "prompt,completion\n"))
    with pytest.raises(ConfigError, match="no such file or folder"):
        rows(tmp_path / "lacking.txt")


# -- templates, parts, sharing --------------------------------------------------------------------------------------------


def test_a_template_that_drops_something_is_refused(tmp_path: Path) -> None:
    good = file(tmp_path, "good.txt", "Q: {instruction} {input}\nA: {response}")
    assert rows(file(tmp_path, "a.txt", "who {input}#me"), template=str(good), share=0)[0].rendered == "Q: who {input} \nA: "
    for text, why in (
        ("{instruction}", "so the answer would be dropped"), ("{response}", "so the instruction would be dropped"),
        ("{instruction} {response} end", "goes on after {response}"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=why):
            find_template(str(file(tmp_path, "bad.txt", text)))
    bare = file(tmp_path, "bare.txt", "{instruction}: {response}")
    with pytest.raises(ConfigError, match=r"has no \{input\}"):
        rows(file(tmp_path, "q.csv", CONTEXTS), template=str(bare))
    with pytest.raises(ConfigError, match="take chat, none, alpaca_de, alpaca_en"):
        find_template("lacking")


def test_shared_rows_are_found_whatever_their_case_and_nearly(tmp_path: Path) -> None:
    words = " ".join(f"w{i}" for i in range(30))
    trained = f"Ask one#Answer ONE here\nask {words}#reply {words}\na#1 2 3\n"
    held = f"# _EVAL_\nask  One#answer one here\nask {words} more#reply {words}\nb#1 2 3\n"
    found = shared(rows(file(tmp_path, "a.txt", trained + held)))
    assert found.same == [("l00005", "l00001")] and found.near == [("l00006", "l00002")] and found.answers == 1
    assert len(list(found.told())) == 3
    other = "a b c#d e f\n# _EVAL_\nc b a#f e d\n"  # the same words in another order
    assert list(shared(rows(file(tmp_path, "b.txt", other))).told()) == []


def test_files_are_named_in_several_ways() -> None:
    assert taught(["data=a.txt", "model=auto", "train=last_layer"]) == ["model=auto", "train=sft_last_layer", 'data.path=["a.txt"]']
    assert taught(["a.txt", "b.csv", "train.epochs=2"]) == ["train.epochs=2", 'data.path=["a.txt","b.csv"]']


def test_a_score_is_one_in_every_kind_of_table(tmp_path: Path) -> None:
    """What stands in a CSV is text: its scores were nobody's."""
    table = file(tmp_path, "a.csv", "prompt,completion,score\nWhy?,So.,0.5\nHow?,Thus.,good\nWho?,We.,inf\n")
    lines = file(tmp_path, "a.jsonl", '{"prompt": "Why?", "completion": "So.", "score": 0.5}\n')
    assert [one.score for one in rows(table, share=0)] == [0.5, None, None]
    assert [one.score for one in rows(lines, share=0)] == [0.5]
