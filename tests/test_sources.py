"""What exists already, read as items: runs, tables in several encodings and forms, and what is wrong with them, by rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat.command.overrides import parsed
from expertchat.config import ConfigError, Group, validate
from expertchat.folder.reader import RunReader
from expertchat.records import Candidate, Item, PreferencePair, Transcript
from expertchat.sources.config import SourceConfig
from expertchat.sources.preferring import PreferredConfig
from expertchat.sources.read import read_items, source_problems
from expertchat.sources.teaching import DataConfig
from expertchat.sources.words import as_overrides

EARLIER = Path(__file__).parent / "earlier"
WORLD = {"family": "world", "model": "embedded:llama"}


def read(path: Path | str, **settings: Any) -> list[Item]:
    return read_items(SourceConfig(path=[str(path)], **settings))


def problems(path: Path | str, **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read(path, **settings)
    return "\n".join(caught.value.problems)


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "t.csv", encoding: str = "utf-8") -> Path:
        (tmp_path / name).write_bytes(text.encode(encoding))
        return tmp_path / name

    return write


# -- tables ---------------------------------------------------------------------------------------------------------------


def test_a_table_of_one_text_a_row(table: Callable[..., Path]) -> None:
    path = table('Topic,Question,Posts...,human_rating,model\nTides,Why?,"The Moon, mostly.",7,m1\nHoney,How?,Bees.,,m2\n')
    one, two = read(path)
    assert (one.id, one.topic, one.texts[0].text, one.texts[0].system, one.label) == ("r0002", "Tides", "The Moon, mostly.", "m1", 7.0)
    assert [(turn.speaker, turn.text) for turn in one.turns] == [("b", "Why?")] and one.subject == "a"
    assert two.label is None and (one.group, two.group) == ("Tides", "Honey") and one.source == two.source


@pytest.mark.parametrize("names", [("a", "b"), ("Response A", "Response B"), ("answer_1", "answer_2"), ("text1", "text2")])
def test_pairs_are_found_by_their_usual_names(table: Callable[..., Path], names: tuple[str, str]) -> None:
    (item,) = read(table(f"prompt,{names[0]},{names[1]},winner\nWhy?,one,two,B\n"))
    assert [text.text for text in item.texts] == ["one", "two"] and item.label == "second"
    assert [text.system for text in item.texts] == list(names)  # nobody says who wrote them, so their columns do


def test_who_wrote_a_pair(table: Callable[..., Path]) -> None:
    (item,) = read(table("a,b,model_a,model_b,winner\none,two,gpt,llama,llama\n"))
    assert [text.system for text in item.texts] == ["gpt", "llama"] and item.label == "second"


def test_a_choice_by_number_is_one_in_whatever_form(table: Callable[..., Path]) -> None:
    """A column of numbers with an empty cell is written with points by the libraries that write tables; and of three the third is 3."""
    assert [one.label for one in read(table("a,b,winner\nx,y,1.0\nx,y,2.0\nx,y,\n"))] == ["first", "second", None]
    said = {one.id: one.label for one in read(table("id,answer_1,answer_2,answer_3,winner\nq,x,y,z,3\nr,x,y,z,third\n"))}
    assert said == {"q/a-b": None, "q/a-c": "second", "q/b-c": "second", "r/a-b": None, "r/a-c": "second", "r/b-c": "second"}
    assert "row 2: label '3' is no choice" in problems(table("a,b,winner\nx,y,3\n"))


def test_a_system_that_wrote_both_texts_is_no_choice(table: Callable[..., Path]) -> None:
    assert "row 2: label 'gpt' is no choice" in problems(table("a,b,model_a,model_b,winner\none,two,gpt,gpt,gpt\n"))


def test_three_texts_are_three_pairs(table: Callable[..., Path]) -> None:
    items = read(table("id,prompt,a,b,c,winner\nq1,Why?,one,two,three,c\n"))
    assert [(item.id, item.texts[0].text, item.texts[1].text, item.label) for item in items] == [
        ("q1/a-b", "one", "two", None), ("q1/a-c", "one", "three", "second"), ("q1/b-c", "two", "three", "second")
    ]  # fmt: skip
    assert len({item.group for item in items}) == 1


def test_preferred_texts_do_not_always_stand_first(table: Callable[..., Path]) -> None:
    rows = [{"prompt": [{"role": "user", "content": f"q{i}"}], "chosen": [{"role": "assistant", "content": "good"}],
             "rejected": [{"role": "assistant", "content": "bad"}]} for i in range(40)]  # fmt: skip
    items = read(table("\n".join(map(json.dumps, rows)), "t.jsonl"))
    places = [item.texts.index(next(text for text in item.texts if text.text == "good")) for item in items]
    assert [item.label for item in items] == [("first", "second")[place] for place in places]
    assert 8 <= sum(places) <= 32  # of 40 fair draws, all but 4 in 100,000
    assert items[0].turns[0].text == "q0"
    by_a_judge = [{**row, "score_chosen": 1.0, "score_rejected": 0.0} for row in rows]
    assert {item.label for item in read(table("\n".join(map(json.dumps, by_a_judge)), "u.jsonl"))} == {None}


def test_a_prompt_that_stands_in_both_chats(table: Callable[..., Path]) -> None:
    chat = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Say more."}, {"from": "human", "value": "Tides?"}]
    row = {"chosen": [*chat, {"from": "gpt", "value": "Moon."}], "rejected": [*chat, {"from": "gpt", "value": "Wind."}]}
    (item,) = read(table(json.dumps([row]), "t.json"))
    assert [(turn.speaker, turn.text) for turn in item.turns] == [("b", "Why?"), ("a", "Say more."), ("b", "Tides?")]
    assert {text.text for text in item.texts} == {"Moon.", "Wind."}


@pytest.mark.parametrize("cell", ["inf", "1e999", "much"])
def test_a_truth_is_a_number_or_refused(table: Callable[..., Path], cell: str) -> None:
    path = table(f"text,truth\none,{cell}\ntwo,3\n")
    assert "row 2: 'truth' is no number" in problems(path, columns={"truth": "truth"})


def test_ratings_of_another_scale(table: Callable[..., Path]) -> None:
    path = table("text,rating\none,1\ntwo,3\nthree,5\n")
    assert [item.label for item in read(path, scale=[1, 5])] == [1.0, 5.5, 10.0]  # 1 + 9 * (value - 1) / 4
    assert "row 2" not in problems(table("text,rating\none,1\ntwo,11\n"))
    assert "row 3: label 'rating' is no number from 1 to 10; the first is '11': name the scale" in problems(
        table("text,rating\none,1\ntwo,11\n")
    )
    assert "rows 2, 3: label 'rating' is no number from 1 to 10; the first is '7,5': write 7.5" in problems(
        table("text;rating\none;7,5\ntwo;9,5\n")
    )


# -- encodings ------------------------------------------------------------------------------------------------------------

GERMAN = "prompt,text\nWie groß?,größer als „früher“\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_an_encoding_is_found_out(table: Callable[..., Path], encoding: str) -> None:
    (item,) = read(table(GERMAN, encoding=encoding))
    assert item.texts[0].text == "größer als „früher“"


def test_an_encoding_that_is_named(table: Callable[..., Path]) -> None:
    (item,) = read(table("text\nprêt\n", encoding="mac_roman"), encoding="mac_roman")
    assert item.texts[0].text == "prêt"
    assert "line 2 holds 0xf6" in problems(table("text\ngrößer\n", encoding="cp1252"), encoding="utf-8")
    with pytest.raises(ValueError, match="no encoding that Python knows"):
        SourceConfig(encoding="klingon")


@pytest.mark.parametrize("kind", [SourceConfig, PreferredConfig, DataConfig])
@pytest.mark.parametrize("name", ["nosuch", "hex", "undefined"])
def test_an_encoding_of_no_texts_is_refused(kind: type[Group], name: str) -> None:
    with pytest.raises(ConfigError, match="encoding: is no encoding that Python knows for texts"):
        validate(kind, {"encoding": name})


def test_what_an_encoding_cannot_read_or_leaves_is_no_text(table: Callable[..., Path]) -> None:
    """utf-16-le leaves the byte order mark in the text: no JSON, and a column of another name."""
    assert "is not punycode" in problems(table('{"text": "one"}\n', "t.jsonl"), encoding="punycode")
    assert [item.texts[0].text for item in read(table('{"text": "one"}\n', "t.jsonl", "utf-16"), encoding="utf-16-le")] == ["one"]
    (pair,) = read(table('"text","label"\r\n"one",7\r\n', encoding="utf-16"), encoding="utf-16-le", columns={"text": "text"})
    assert (pair.texts[0].text, pair.label) == ("one", 7.0)


def test_a_name_of_several_lines_does_not_hide_the_separator(table: Callable[..., Path]) -> None:
    (item,) = read(table('"Response\nA";"Response\nB";winner\r\n"one, two";three;a\r\n'))
    assert [text.text for text in item.texts] == ["one, two", "three"] and item.label == "first"


def test_a_number_beyond_all_scales_is_named(table: Callable[..., Path]) -> None:
    """Python has it whole, and no float holds it."""
    huge = "1" + "0" * 400
    assert "is no number from 1 to 10" in problems(table(f'{{"text": "one", "label": {huge}}}\n', "t.jsonl"))
    assert "'truth' is no number" in problems(table(f'{{"text": "one", "truth": {huge}}}\n', "t.jsonl"))


def test_parquet_of_bytes_and_of_what_cannot_be_read(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"text": pa.array(["zwölf".encode(), b"\xff"], pa.binary())}), path)
    assert [item.texts[0].text for item in read(path, incomplete="skip")] == ["zwölf"]  # it was "b'zw\\xc3...'"
    sizes, letters = (pa.py_buffer(raw) for raw in (b"\0\0\0\0\2\0\0\0", b"\xff\xfe"))
    broken = pa.Array.from_buffers(pa.string(), 1, [None, sizes, letters])
    parquet.write_table(pa.table({"text": broken, "date": pa.array([9 * 10**17], pa.timestamp("ms"))}), path)
    said = problems(path)
    assert "column 'text' cannot be read" in said and "column 'date' cannot be read" in said


def test_mixed_encodings_name_their_lines(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("text\ngrößer\n".encode() + "schöner\nkühl\n".encode("cp1252"))
    told = problems(tmp_path / "t.csv")
    assert "mixes encodings: lines 3, 4 are not UTF-8, 1 other is" in told and "source.encoding" in told


# -- what is wrong --------------------------------------------------------------------------------------------------------


def test_rows_that_cannot_be_judged_are_all_named(table: Callable[..., Path]) -> None:
    path = table("id,a,b,winner\n1,x,y,a\n1,x,,b\n3,x,y,c\n4,,,tie\n1,x,nan,b\n1,y,x,a\n")
    told = problems(path)
    assert "rows 3, 6: 'b' is empty where the other side is not" in told and "source.incomplete=skip" in told
    assert "row 5: 'a' and 'b' are empty" in told and "row 4: label 'c' is no choice" in told
    assert "rows 2, 7: have one same id '1'" in told


def test_such_rows_can_be_left_out_and_are_counted(table: Callable[..., Path]) -> None:
    said: list[str] = []
    config = SourceConfig(path=[str(table("text\nx\n \nnan\ny\n"))], incomplete="skip")  # a blank line is no row
    assert [item.texts[0].text for item in read_items(config, said.append)] == ["x", "y"]
    assert any("1 of 3 rows are left out (row 4: 'text' is empty)" in text for text in said)
    assert "rows 2, 3: 'text' is empty" in problems(table("id,text\n1,\n2,\n"), incomplete="skip")  # nothing is left


def test_columns_that_are_not_clear_are_asked_about(table: Callable[..., Path]) -> None:
    path = table("response,answer,other\nx,y,z\n")
    assert "several columns that could be judged: response; answer" in problems(path)
    assert read(path, columns={"text": "answer"})[0].texts[0].text == "y"
    told = problems(table("foo,bar\nx,y\n"))
    assert "no column with a usual name" in told and "'foo', 'bar'" in told
    assert "has no such column; did you mean bar?" in problems(path, columns={"text": "barr"})
    assert "name one text, or a and b" in problems(path, columns={"a": "foo"})
    assert "several columns that could be what people said: label, winner" in problems(table("a,b,label,winner\nx,y,a,b\n"))
    assert read(table("a,b,label,winner\nx,y,a,b\n"), columns={"label": "none"})[0].label is None


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("", "t.csv", "holds no row"),
        ("text\n", "t.csv", "holds no row"),
        ("text,text\nx,y\n", "t.csv", "'text' stands twice"),
        ("text\nx,y\n", "t.csv", "row 2 have more cells"),
        ('{"text": "x"}\nno\n', "t.jsonl", "line 2 hold no JSON object"),
        ("{}", "t.json", "holds no list"),
        ("x", "t.txt", "is no table"),
        ("PAR1", "t.csv", "is no text but a parquet file"),
    ],
)
def test_what_is_no_table(table: Callable[..., Path], text: str, name: str, says: str) -> None:
    assert says in problems(table(text, name))


def test_a_place_where_nothing_is(tmp_path: Path) -> None:
    assert "names nothing" in source_problems(SourceConfig())[0]
    assert "hf:OWNER/SET" in source_problems(SourceConfig(path=["OWNER/SET"]))[0]
    assert "is no run folder" in source_problems(SourceConfig(path=[str(tmp_path)]))[0]


# -- data sets ------------------------------------------------------------------------------------------------------------


def test_a_folder_of_datasets(tmp_path: Path) -> None:
    import datasets

    both = datasets.DatasetDict({split: datasets.Dataset.from_dict({"text": [split, "x"]}) for split in ("train", "test")})
    both.save_to_disk(str(tmp_path / "set"))
    assert "several splits; name one with source.split=NAME: train, test" in problems(tmp_path / "set")
    assert [item.texts[0].text for item in read(tmp_path / "set", split="test")] == ["test", "x"]
    both["train"].to_parquet(str(tmp_path / "t.parquet"))
    assert read(tmp_path / "t.parquet")[0].texts[0].text == "train"


# -- runs -----------------------------------------------------------------------------------------------------------------


def test_dialogues_and_turns_of_a_run() -> None:
    whole = read(EARLIER / "talked")
    (transcript,) = RunReader(EARLIER / "talked").transcripts()
    assert [(item.id, item.whole, len(item.turns)) for item in whole] == [("c0000/a", True, 2), ("c0000/b", True, 2)]
    assert whole[1].texts[0].text == transcript.turns[1].text and whole[1].texts[0].system == "embedded:mixtral"
    turns = read(EARLIER / "talked", unit="turns")
    assert [(item.id, len(item.turns), item.subject) for item in turns] == [("c0000/t00", 0, "a"), ("c0000/t01", 1, "b")]
    assert [item.id for item in read(EARLIER / "talked", unit="turns", subject="b")] == ["c0000/t01"]
    assert "nobody" in problems(EARLIER / "talked", subject="c") and "has no candidates" in problems(EARLIER / "talked", unit="pairs")


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run with four candidates of one history, the first two of which say the same."""
    from expertchat.world.facts import load

    facts = [fact.clauses[0] for fact in load().topics["tides"]]
    said = [f"{text[0].upper()}{text[1:]}." for text in facts]
    run = tmp_path / "run"
    run.mkdir()
    turns = [{"speaker": "b", "text": said[0]}, {"speaker": "a", "text": said[1]}]
    experts = {"a": WORLD, "b": {"family": "auto", "model": "real"}}
    name = "r0001/c0000"
    transcript = Transcript(id=name, topic="tides", experts=experts, turns=turns, seed=0, stop_reason="turns")  # type: ignore[arg-type]
    texts = [said[1], said[1], f"{said[1]} {said[2]}", f"{said[0]} Cats are blue."]
    made = [
        Candidate(id=f"{name}/t01/k{i}", transcript=name, round=1, turn=1, index=i, speaker="a", text=text, policy_version=i // 2)
        for i, text in enumerate(texts)
    ]
    pair = PreferencePair(
        id="p", prompt=[], chosen=[], rejected=[], score_chosen=1, score_rejected=0, margin=1, round=1, policy_version=0,
        provenance={"chosen": made[2].id, "rejected": made[3].id},
    )  # fmt: skip
    for file, records in (("transcripts", [transcript]), ("candidates", made), ("pairs", [pair])):
        (run / f"{file}.jsonl").write_text("".join(f"{one.to_json()}\n" for one in records))
    return run


def test_candidates_with_their_truth(trained: Path) -> None:
    items = read(trained, unit="candidates")
    # One new fact; the same; two new facts; one said before (-1) and one wrong sentence (-1).
    assert [item.texts[0].truth for item in items] == [1.0, 1.0, 2.0, -2.0]
    assert [item.texts[0].system for item in items] == ["embedded:llama"] * 2 + ["embedded:llama v1"] * 2
    assert all(len(item.turns) == 1 and item.texts[0].candidate == item.id for item in items)


@pytest.mark.parametrize(("which", "ids"), [("first", "k0-k2"), ("kept", "k2-k3"), ("all", "k0-k1 k0-k2 k0-k3 k1-k2 k1-k3 k2-k3")])
def test_pairs_of_one_history(trained: Path, which: str, ids: str) -> None:
    items = read(trained, pairs_of=which)
    assert [item.id.rpartition("/")[2] for item in items] == ids.split()
    assert items[0].better == {"first": "second", "kept": "first", "all": "tie"}[which]


def test_of_a_real_model_no_truth_is_known(trained: Path) -> None:
    by_b = read(trained, unit="turns", subject="b")
    assert by_b[0].texts[0].truth is None and read(trained, unit="turns", subject="a")[0].texts[0].truth == 1.0


# -- several sources, digests, draws --------------------------------------------------------------------------------------


def test_a_digest_is_of_what_was_read(table: Callable[..., Path], tmp_path: Path) -> None:
    one = read(table("id,text\n1,x\n2,y\n"))
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    (elsewhere / "u.csv").write_text("id,text\n2,y\n1,x\n")
    assert {item.source for item in one} == {item.source for item in read(elsewhere / "u.csv")}  # another place, name and order
    assert {item.source for item in read(elsewhere / "u.csv", limit=1)} == {one[0].source}
    assert one[0].source != read(table("id,text\n1,x\n2,z\n"))[0].source


def test_several_sources_are_read_together(table: Callable[..., Path]) -> None:
    paths = [str(table("id,text\n1,x\n", "one.csv")), str(table("id,text\n1,y\n", "two.csv"))]
    items = read_items(SourceConfig(path=paths))
    assert [item.id for item in items] == [f"{item.source[:8]}/1" for item in items] and len({item.source for item in items}) == 2
    shutil.copy(paths[0], paths[1])
    with pytest.raises(ConfigError, match="hold the same items"):
        read_items(SourceConfig(path=paths))


def test_a_limit_draws_the_same_rows(table: Callable[..., Path]) -> None:
    rows = [f"{i},text {i}" for i in range(30)]
    one, two = ({item.id for item in read(table("id,text\n" + "\n".join(order) + "\n"), limit=5)} for order in (rows, rows[::-1]))
    assert len(one) == 5 and one == two != {item.id for item in read(table("id,text\n" + "\n".join(rows) + "\n"), limit=5, seed=1)}


def test_pairs_of_one_same_text_are_put_in(table: Callable[..., Path]) -> None:
    *_, same = read(table("id,a,b,winner\n1,x,y,a\n"), identical=3)
    assert same.id == "1/same" and same.texts[0] == same.texts[1] and same.label is None
    assert "none to make them of" in problems(table("text\nx\n"), identical=1)


def test_the_items_of_a_judge_are_a_source(tmp_path: Path, table: Callable[..., Path]) -> None:
    items = read(table("id,text\n1,x\n"))
    (tmp_path / "judged").mkdir()
    (tmp_path / "judged" / "items.jsonl").write_text("".join(f"{item.to_json()}\n" for item in items))
    assert read(tmp_path / "judged") == items
    assert "holds items already" in problems(tmp_path / "judged", unit="turns")


# -- words ----------------------------------------------------------------------------------------------------------------


def test_words_become_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "z=1").mkdir()
    others = ["+judge=length", "~embedder", "x=y"]
    assert as_overrides(["runs/z=1", *others]) == [*others, 'source.path=["runs/z=1"]']
    assert as_overrides(["judge=length"]) == ["judge=length"]


@settings(max_examples=40)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="=\\$"), min_size=1), min_size=1))
def test_any_word_is_read_back(words: list[str]) -> None:
    words = [f"./{word}" for word in words]
    (override,) = as_overrides(words)
    found = parsed(override)
    assert found is not None
    assert [value.text if hasattr(value, "text") else value for value in found.value()] == words  # type: ignore[union-attr]
