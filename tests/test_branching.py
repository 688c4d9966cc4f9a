"""Branches and interviews: a dialogue goes on from a turn of it, and is asked about without a trace."""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from expertchat.cli import main
from expertchat.config import ConfigError
from expertchat.doors.branch import composed
from expertchat.folder.reader import RunReader
from expertchat.prompting.interview import questions_of
from expertchat.records import Transcript, Turn
from expertchat.report.parts import Figure, Section, Shown
from expertchat.report.sections.family import family
from expertchat.report.subject import subject_of
from expertchat.report.transcripts import talks
from expertchat.talk.branching import dialogue_of, families_beside, family_of, place_of
from tests.scripted import BagOfWords, Collect, Double
from tests.scripted import run as talk


def branch(parent: Path, folder: Path, place: str, *words: str, edited: str | None = None) -> Transcript:
    """A branch with doubles in place of models."""
    from expertchat.talk.converse import run_converse

    config: Any = composed(parent, place, edited, [f"run.dir={folder}", "view=none", *words])
    double = Double()
    backends = {seat: double for seat in (*config.experts.seats, "third")}
    assert run_converse(config, ["expertchat", "branch"], Collect(), backends=backends, embedder=BagOfWords()) == 0
    return next(RunReader(folder).transcripts())


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "parent"
    assert talk(folder, "conversation.count=2", "conversation.turns=5") == 0
    return folder


def table_of(section: Section | None) -> Shown:
    assert section is not None
    return next(part for part in section.parts if isinstance(part, Shown))


def texts(one: Transcript) -> list[str]:
    return [turn.text for turn in one.turns]


def test_a_branch_without_a_change_is_its_parent_and_an_edited_turn_makes_another(parent: Path, tmp_path: Path) -> None:
    before = dialogue_of(RunReader(parent), "c0001")
    same = branch(parent, tmp_path / "same", "c0001/1")
    assert texts(same) == texts(before) and same.id == "c0001" and same.topic == before.topic
    other = branch(parent, tmp_path / "other", "c0001/1", edited="Something else.")
    assert texts(other)[0] == texts(before)[0] and texts(other)[1] == "Something else." and texts(other)[2:] != texts(before)[2:]
    assert other.turns[1].hand == "edited" and other.turns[1].was == before.turns[1].text
    shorter = branch(parent, tmp_path / "shorter", "c0001/t01", "conversation.turns=3", "experts.a=embedded_mixtral")
    assert len(shorter.turns) == 3 and RunReader(tmp_path / "shorter").config["experts"]["a"]["path"] == "embedded:mixtral"


def test_a_family_is_found_from_every_member(parent: Path) -> None:
    child, grandchild = parent.parent / "child", parent.parent / "grandchild"
    branch(parent, child, "c0000/0")
    branch(child, grandchild, "c0000/2", edited="No.")
    for member in (parent, child, grandchild):
        tree = [(Path(row["folder"]).name, row["depth"]) for row in family_of(member)]
        assert tree == [("parent", 0), ("child", 1), ("grandchild", 2)]
    assert len(families_beside([child, parent])) == 1 and families_beside([]) == []
    subject = subject_of([child, parent, grandchild])
    section = family(subject)
    assert section is not None and section.lead == ["From parent 2 other runs go on, 1 of them after an edited turn."]
    drawing, table = section.parts
    assert isinstance(drawing, Figure) and isinstance(table, Shown)
    assert drawing.rows == [["parent", "c0000", 0, 5, "no"], ["child", "c0000", 1, 5, "no"], ["grandchild", "c0000", 3, 5, "yes"]]
    assert list(table.rows) == ["parent", "·\u00a0child", "·\u00a0·\u00a0grandchild"]
    told = {(subject.runs[one.run].folder.name, one.id): one for one in talks(subject, [])}
    child_number = next(i for i, run in enumerate(subject.runs) if run.folder == child)
    last = told["grandchild", "c0000"]
    assert last.above == f"{child_number}/c0000" and told["parent", "c0000"].above == ""
    assert last.body["branch"] == {"run": child_number, "name": "child", "id": "c0000", "turns": 3, "edited": True}
    alone = subject_of([grandchild])
    assert next(iter(talks(alone, []))).body["branch"]["run"] is None  # its parent is in no report
    assert "Not in this report: parent, child." in table_of(family(alone)).note


def test_what_is_no_turn_is_told(parent: Path, tmp_path: Path) -> None:
    assert place_of("s1/c0003/t07") == ("s1/c0003", 7)
    for place, said in (("c0001", "names no turn"), ("c0009/1", "has no finished dialogue c0009"), ("c0001/9", "has 5 turns, 0 to 4")):
        with pytest.raises(ConfigError, match=said):
            composed(parent, place, None, [])
    with pytest.raises(ConfigError, match="is no run's folder"):
        composed(tmp_path, "c0000/1", None, [])
    with pytest.raises(ConfigError, match=r"experts\.z=embedded_llama: is no expert"):
        composed(parent, "c0001/1", None, ["experts.z=embedded_llama"])
    with pytest.raises(ConfigError) as found:
        composed(parent, "c0001/1", None, ["experts.b=embedded_lama", "conversation.turnss=3"])
    model, key = found.value.problems
    assert "experts.b=embedded_lama: there is no model 'embedded_lama'; did you mean embedded_llama?" in model
    assert "did you mean conversation.turns" in key


def test_an_interview_leaves_no_trace(parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real (embedded) expert answers; the same question gets the same answer, whatever is asked with it; no byte of the run changes."""

    def digest() -> str:
        files = sorted(path for path in parent.rglob("*") if path.is_file())
        return hashlib.sha256(b"".join(str(path).encode() + path.read_bytes() for path in files)).hexdigest()

    before = digest()
    (tmp_path / "asked.txt").write_text("# two\nWhat do you think of B?\n\nWhy?\n", "utf-8")
    out = tmp_path / "answers.jsonl"
    assert main(["interview", str(parent), "--turn", "c0001/3", "--of", "a", "--ask", str(tmp_path / "asked.txt"), "--out", str(out)]) == 0
    rows = list(RunReader(tmp_path).lines("answers"))
    assert [row["question"] for row in rows] == ["What do you think of B?", "Why?"] and all(row["answer"] for row in rows)
    assert main(["interview", str(parent), "--turn", "c0001/3", "--of", "a", "--ask", "What do you think of B?"]) == 0
    assert rows[0]["answer"].split("\n")[0][:40] in capsys.readouterr().out.split("? What do you think of B?")[-1].replace("\n", " ")
    assert digest() == before
    with pytest.raises(ConfigError, match="no such file"):
        questions_of("gone.txt")


def test_an_expert_of_a_server_is_not_asked(parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(parent, tmp_path / "served")
    config = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    config["experts"]["a"] |= {"backend": "server", "url": "http://127.0.0.1:9/v1", "model": "m"}
    (run / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    assert main(["interview", str(run), "--turn", "c0001/3", "--of", "a", "--ask", "Why?"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "is computed by a server, whose weights may be others by now; take one whose model is loaded here" in said


ASKED = ["What is 3.5 % of that?", "Is it and/or here?", "And e.g. bees?", "Why?", "Say it again.", "So " * 200 + "why?"]


@pytest.mark.parametrize("asked", ASKED)
def test_a_question_with_a_dot_or_a_slash_is_no_file(asked: str) -> None:
    assert questions_of(asked) == [asked]
    for word in ("gone.txt", "some/where", "my questions.txt"):
        with pytest.raises(ConfigError, match="no such file"):
            questions_of(word)


def test_what_was_answered_is_kept_where_an_interview_is_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at the second question, which somebody has typed as the first one."""
    from types import SimpleNamespace

    from expertchat.prompting import interview

    def ask(questions: list[str]) -> list[dict[str, Any]]:
        if questions == ["Why?"]:
            raise KeyboardInterrupt
        return [{"question": one, "answer": "So.", "cut": False, "tokens": 1} for one in questions]

    turns = [Turn(speaker="a", text="Bees hum.")]
    transcript = Transcript(id="c0000", topic="bees", experts={}, turns=turns, seed=0, stop_reason="turns")
    monkeypatch.setattr(interview, "open_interview", lambda *_: SimpleNamespace(transcript=transcript, index=0, seat="a", ask=ask))
    monkeypatch.setattr("sys.stdin", io.StringIO("Who?\nWhy?\nWhen?\n"))
    out = tmp_path / "answers.jsonl"
    assert main(["interview", str(tmp_path), "--turn", "c0000/0", "--out", str(out)]) == 3
    assert [row["question"] for row in RunReader(tmp_path).lines("answers")] == ["Who?"]
