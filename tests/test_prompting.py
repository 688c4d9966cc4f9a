"""`expertchat talk`: what is typed and what comes of it, on a terminal and from a pipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat.backends.base import Decoding
from expertchat.command.checks import problems_of
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.doors.talk import taken
from expertchat.prompting import slash
from expertchat.prompting.config import TalkConfig
from expertchat.prompting.kept import markdown, row, saved
from expertchat.prompting.lines import run_lines
from expertchat.prompting.session import run_talk
from expertchat.prompting.talk import Exchange, Talk, _held_back, drawn
from tests import trained_runs

ROOT = Path(__file__).parents[1]
BEES = "Tell me about bees."


def config_of(*words: str) -> TalkConfig:
    literal, rest = taken(words or ["embedded:llama"])
    found = load("talk", rest).model_copy(update=literal)
    assert isinstance(found, TalkConfig)
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_runs.run(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def spoken(trained: Path) -> Any:
    """The model, loaded once for all conversations."""
    return Talk(config_of(str(trained)), lambda text: None).spoken


@pytest.fixture
def talk(spoken: Any) -> Talk:
    found = Talk(config_of("embedded:llama"), lambda text: said.append(text))
    found.spoken, said = spoken, []
    found.heard = said  # type: ignore[attr-defined]
    return found


class Typed:
    """A screen whose lines are given, and which keeps what it is shown."""

    def __init__(self, *lines: str) -> None:
        self.lines, self.shown = iter(lines), list[str]()

    def read(self) -> str | None:
        line = next(self.lines, None)
        if line == "^C":
            raise KeyboardInterrupt
        return line

    def waiting(self, what: str) -> None:
        self.shown.append(what)

    def piece(self, text: str) -> None:
        self.shown.append(text)

    def ended(self, remark: str) -> None:
        self.shown.append(remark)

    def note(self, text: str, wrong: bool = False) -> None:
        self.shown.append(f"wrong: {text}" if wrong else text)

    def rows(self, rows: Sequence[tuple[str, str]]) -> None:
        self.shown += [f"{name} | {about}" for name, about in rows]

    def tokens(self, values: Mapping[str, Any]) -> None:
        self.shown.append("".join(row["text"] for row in values["tokens"]))


def typed(talk: Talk, *lines: str) -> list[str]:
    screen = Typed(*lines)
    assert run_talk(talk.config, screen, talk) == 0
    return screen.shown


# -- orders -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("/sample T=.05 top_p=.9", "sampling, temperature=0.05, top_p=0.9, at most 256 tokens"),
        ("/sample .3", "sampling, temperature=0.3, at most 256 tokens"),
        ("/beam 5", "beam search, beams=5, at most 256 tokens"), ("/beam n=2", "beam search, beams=2, at most 256 tokens"),
        ("/contrastive", "contrastive search, penalty_alpha=0.6, top_k=4, at most 256 tokens"),
        ("/contrastive alpha=.2 k=8", "contrastive search, penalty_alpha=0.2, top_k=8, at most 256 tokens"),
        ("/greedy", "greedy search, at most 256 tokens"), ("/max 9", "sampling, temperature=1, at most 9 tokens"),
        ("/no_repeat 3", "sampling, temperature=1, no_repeat_ngram=3, at most 256 tokens"),
        ("/stop '###' \\n", "sampling, temperature=1, stop='###', stop='n', at most 256 tokens"),
        ("/stop '\\n'", "sampling, temperature=1, stop='\\n', at most 256 tokens"),
    ],
)  # fmt: skip
def test_how_answers_are_drawn_is_typed(line: str, found: str) -> None:
    name, rest = slash.read(line)
    assert drawn(slash.decoded(name, rest, Decoding())) == found


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/beam five", "/beam five: 'five' is no whole number"), ("/beam 0", "greater than or equal to 1"),
        ("/beam T=1", "/beam T=1: takes beams, as /beam 5"), ("/greedy 3", "takes no word"), ("/sample T=0", "temperature"),
        ("/sample T=nan", "temperature"), ("/contrastive k=0", "contrastive search needs top_k >= 1"),
        ("/max", "/max: name a number"),
        ("/max 0", "must be 1 or more"), ("/stop '", "close the quotes"), ("/samle", "did you mean sample?"),
        ("/", "there is no such order"),
        ("/s", "is it /sample or /stop or /system or /show or /save?"),
    ],
)  # fmt: skip
def test_a_wrong_order_is_one_message(line: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        slash.decoded(*slash.read(line), Decoding())
    assert len(caught.value.problems) == 1 and said in caught.value.problems[0]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["sample", "beam", "contrastive", "greedy", "max", "no_repeat", "stop"]), st.text(max_size=20))
def test_nothing_that_is_typed_breaks_it(name: str, rest: str) -> None:
    try:
        found = slash.decoded(name, rest, Decoding())
    except ConfigError as error:
        assert error.problems
    else:
        assert 0 < found.temperature <= 10 and found.max_new_tokens >= 1


def test_a_beginning_that_may_end_an_answer_waits() -> None:
    assert (_held_back("a #", ["###"]), _held_back("a ##", ["###", "#x"]), _held_back("a", ["###"]), _held_back("", [])) == (1, 2, 0, 0)


# -- a conversation ---------------------------------------------------------------------------------------------------------


def test_pieces_make_the_answer_and_the_next_prompt_follows_it(talk: Talk) -> None:
    pieces = list(talk.ask(BEES))
    first = talk.last
    assert first is not None and "".join(pieces) == first.text and first.completion is not None
    list(talk.ask("And more?"))
    assert talk.last is not None and [m.role for m in talk.last.messages] == ["user", "assistant", "user"]
    assert talk.last.messages[1].content == first.text
    talk.undo()
    again = list(talk.ask("And more?"))
    assert "".join(again) == talk.last.text  # the same draw, the same words
    text = talk.last.text
    talk.undo()
    list(talk.ask("And more?", draw=1))
    assert talk.last.text != text


def test_the_oldest_go_where_the_context_is_full(talk: Talk) -> None:
    talk.decoding = Decoding("greedy", 4)
    holds = talk.backend().info.context_length
    long = "bees " * (holds // 3)
    for _ in range(3):
        list(talk.ask(long))
        assert talk.last is not None
        talk.last.text = "They fly."  # whatever it said: an exchange whose answer is empty is never shown, so it fills no context
    # One, two and three prompts with the answers between them take 687, 1378 and 2069 tokens, and 2048 - 4 have room.
    assert talk.last is not None and [m.role for m in talk.last.messages] == ["user", "assistant", "user"]
    assert "oldest exchange" in " ".join(talk.heard)  # type: ignore[attr-defined]
    count = len(talk.exchanges)
    with pytest.raises(ConfigError, match=r"the prompt takes \d+ tokens, and the context of .* holds \d+; shorten it"):
        list(talk.ask("bees " * holds))
    assert len(talk.exchanges) == count


def test_a_session_on_a_screen(talk: Talk, tmp_path: Path) -> None:
    file, book = tmp_path / "a.jsonl", tmp_path / "a.md"
    shown = typed(
        talk, "", BEES, "^C", "/greedy", "/again", "/again", "/trained off", "/again", "/trained both", "/system Be short.", "/show",
        "/tokens 0", f"/save {file}", f"/save {book}", f"/save {file}", "/save a.txt", "/save", "/undo", "/reset", "/again",
        "/trained maybe", "/tokens", "/beam x", f"/save {tmp_path}/b.md", "/help", "/quit", "never read",
    )  # fmt: skip
    text = "\n".join(shown)
    assert "/quit or Ctrl-D leaves" in text and "greedy search draws the same again" in text
    assert "as it was before it was trained" in text and text.count("before it was trained:") == 1
    assert "system | Be short." in text and "trained | off: " in text and "1 exchange in" in text
    for wrong in ("is there already", "must end in .jsonl or .md", "name one file", "nothing was asked yet", "takes on, off or both",
                  "no whole answer", "'x' is no whole number", "nothing was said yet"):  # fmt: skip
        assert sum(line.startswith("wrong: ") and wrong in line for line in shown) == 1, wrong
    assert "/quit | leave" in text and "never read" not in text
    (kept,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert kept["prompt"] == [{"role": "user", "content": BEES}] and kept["completion"][0]["content"]
    assert kept["rendered"] is None and kept["drawn"].startswith("greedy") and kept["trained"] is False
    assert book.read_text().startswith("# A talk with embedded:llama + one\n\nSystem text:")


def test_a_model_that_no_run_has_trained(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk.spoken, "learnt", None)
    assert any("no run has trained this model" in line for line in typed(talk, "/trained off"))


def test_what_is_said_cannot_break_out_of_a_file(tmp_path: Path) -> None:
    one = Exchange("x", text="```\n# mine\n````")
    text = markdown([one], "", "m")
    assert text.count("`````text") == 1 and "# mine" in text
    with pytest.raises(ConfigError, match="cannot be written"):
        saved(str(tmp_path / "no" / "way" / "\0.md"), [one], "", "m") if False else saved("/proc/none/a.md", [one], "", "m")


def test_stopping_keeps_what_was_heard(talk: Talk) -> None:
    talk.decoding = Decoding("greedy", 400, no_repeat_ngram=2)
    list(talk.ask(BEES, lambda: True))
    assert talk.last is not None and talk.last.stopped and talk.last.remark == "stopped"
    list(talk.ask("And?"))
    assert talk.last.completion is not None


# -- templates and loading --------------------------------------------------------------------------------------------------


def test_a_template_words_each_prompt_by_itself(spoken: Any) -> None:
    talk = Talk(config_of("embedded:llama", "template=alpaca_en"), lambda text: None)
    talk.spoken, talk.decoding = spoken, Decoding("greedy", 6)
    list(talk.ask("Spell it."))
    list(talk.ask("Again."))
    assert talk.last is not None and len(talk.last.messages) == 1 and talk.last.completion is not None
    text = talk.backend().tokenizer.decode(talk.last.completion.prompt)
    assert "### Instruction:\nAgain.\n\n### Response:" in text and "Spell" not in text
    kept = row(talk.last, "m")
    assert kept["prompt"] == [{"role": "user", "content": "Again."}] and kept["rendered"] == talk.last.messages[0].content
    plain = Talk(config_of("embedded:llama", "template=none"), lambda text: None)
    plain.spoken, plain.decoding = spoken, Decoding("greedy", 6)
    list(plain.ask("Bees </s> make"))
    assert plain.last is not None and plain.last.completion is not None
    assert 2 not in plain.last.completion.prompt  # no text becomes a special token


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["embedded:llama", "embedded:mixtral"], "talk takes one model, or one run: here are embedded:llama, embedded:mixtral"),
        (["embedded:llama", "template=nope"], "template=nope: is no file; take chat, none, alpaca_de, alpaca_en"),
        (["embedded:nope"], "no such embedded model"), (["embedded:llama", "device=cuda:7"], "device=cuda:7"),
        (["embedded:llama", "history=maybe"], "history"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_before_anything_is_loaded(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        raise ConfigError(problems_of("talk", config_of(*words)))
    assert any(said in problem for problem in caught.value.problems)


def test_a_system_text_is_taken_as_it_is() -> None:
    assert config_of("embedded:llama", "system=Say 'a, b' = {c}.").system == "Say 'a, b' = {c}."


# -- from a pipe ------------------------------------------------------------------------------------------------------------


def lines(spoken: Any, monkeypatch: pytest.MonkeyPatch, given: Sequence[str], *words: str) -> tuple[int, list[str], list[str]]:
    out, err = list[str](), list[str]()
    monkeypatch.setattr("expertchat.prompting.talk.Spoken", lambda config, say: spoken)
    code = run_lines(config_of("embedded:llama", *words), given, out.append, err.append)
    return code, out, err


def test_each_line_has_its_answer(spoken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [f"{BEES}\n", "\n", "And tides?\n", "And volcanoes?"]
    code, out, err = lines(spoken, monkeypatch, given, "history=false", "engine.max_batch=2")
    assert code == 0 and not err and len(out) == 4 and out[1] == "" and all(out[at] and "\n" not in out[at] for at in (0, 2, 3))
    one, alone, _ = lines(spoken, monkeypatch, given[:1], "history=false")
    assert one == 0 and alone == out[:1]  # whatever else is in the batch
    _, rows, _ = lines(spoken, monkeypatch, given[:2], "history=false", "json_lines=true")
    assert json.loads(rows[0])["completion"][0]["content"] and rows[1] == "null"
    talked, told, _ = lines(spoken, monkeypatch, given[:2] + given[2:3])
    assert talked == 0 and len(told) == 3


def test_what_has_no_answer_is_told_and_counts(spoken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    holds = spoken.voice().info.context_length
    for words in (["history=false"], []):
        code, out, err = lines(spoken, monkeypatch, [BEES, "bees " * holds], *words)
        assert code == 1 and out[0] and out[1] == "" and "line 2: the prompt takes" in err[-2] and "1 of 2 lines have no answer" in err[-1]
        assert lines(spoken, monkeypatch, [BEES, "bees " * holds], "silence=counts", *words)[0] == 0
        assert lines(spoken, monkeypatch, ["bees " * holds], "silence=counts", *words)[0] == 1  # nobody has said anything
    assert lines(spoken, monkeypatch, [], "silence=counts")[0] == 1


def test_a_run_is_asked_as_its_rows_were_worded(trained: Path, spoken: Any, tmp_path: Path) -> None:
    import yaml

    from expertchat.backends.learnt import find_learnt
    from expertchat.prompting.talk import wording_of

    assert wording_of("auto", find_learnt(str(trained))) == ("chat", "", "")
    place = trained_runs.weights(tmp_path / "taught")
    values = yaml.safe_load((place / "config.yaml").read_text())
    for data, found in (
        ({"template": "alpaca_de", "system": "Kurz."}, ("alpaca_de", "Kurz.", "")), ({"template": "none"}, ("none", "", "\n")),
        ({"template": "chat"}, ("chat", "", "")), (None, ("chat", "", "")),
    ):  # fmt: skip
        (place / "config.yaml").write_text(yaml.safe_dump(values | {"data": data}))
        assert wording_of("auto", find_learnt(str(place))) == found
    assert wording_of("none", find_learnt(str(place))) == ("none", "", "")
