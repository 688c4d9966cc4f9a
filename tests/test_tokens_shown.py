"""`expertchat tokens`: the probabilities are those of a plain pass, of texts, of continuations and of what was said in a run."""

from __future__ import annotations

import io
import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from expertchat import cli
from expertchat.backends.folders import EMBEDDED
from expertchat.backends.local import LocalBackend
from expertchat.backends.looking import Spelling, looks
from expertchat.config import ConfigError
from expertchat.doors.tokens import taken
from expertchat.metrics.config import TokensConfig, given_problems
from expertchat.metrics.loaded import load_model
from expertchat.metrics.tokens import _own, looked_at, of_text, total
from expertchat.text.cleaning import clean
from expertchat.text.visible import visible
from expertchat.views.tokens import percent, print_tokens, shade
from tests import tiny
from tests.test_metrics import llama

torch.set_num_threads(1)
TEXT = "Tides from the sun are about half as strong as lunar tides."
Captured = pytest.CaptureFixture[str]


@lru_cache
def backend() -> LocalBackend:
    return load_model(llama(), 0)


def asked(text: str | None = None, **more: Any) -> dict[str, Any]:
    """What is told of a text by the embedded Llama."""
    config = TokensConfig.model_validate({"model": llama(), "text": text, **more})
    assert given_problems(config) == []
    backend().seed = config.seed
    return looked_at(config, backend(), of_text(config, backend()))


def plain(ids: list[int], model: Any = None) -> torch.Tensor:
    """Probabilities [T, V] by transformers alone: those at i are of the token i + 1."""
    model = model or AutoModelForCausalLM.from_pretrained(EMBEDDED / "llama")
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].double().softmax(-1)  # type: ignore[no-any-return]


# -- a text ---------------------------------------------------------------------------------------------------------------


def test_probabilities_are_those_of_a_plain_pass(tmp_path: Path) -> None:
    assert cli.main(["tokens", "embedded:llama", TEXT, "top=3", f"out={tmp_path / 'tokens.json'}"]) == 0
    found = json.loads((tmp_path / "tokens.json").read_text())
    ids = AutoTokenizer.from_pretrained(EMBEDDED / "llama")(TEXT)["input_ids"]
    probs_T_V = plain(ids)
    rows = found["tokens"]
    added = len(ids) - len(rows)  # what the tokenizer puts before a text
    assert [row["id"] for row in rows] == ids[added:] and "".join(row["text"] for row in rows).strip() == TEXT
    for at, row in enumerate(rows[1 - added :], 1):
        probs_V = probs_T_V[at - 1]
        assert row["probability"] == pytest.approx(float(probs_V[row["id"]]), abs=1e-5)
        assert row["logp"] == pytest.approx(math.log(row["probability"]), abs=1e-5)
        assert [one["id"] for one in row["top"]] == probs_V.topk(3).indices.tolist()
        assert row["five"] == pytest.approx(float(probs_V.topk(5).values.sum()), abs=1e-5)
        assert row["entropy"] == pytest.approx(float(torch.special.entr(probs_V).sum()), abs=1e-4)
        assert row["rank"] == 1 + int((probs_V > probs_V[row["id"]]).sum())
    assert found["next"]["top"][0]["id"] == int(probs_T_V[-1].argmax())
    assert added or (rows[0]["probability"] is None and "nothing stands before the first token" in found["notes"][0])


def test_long_texts_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = tuple(backend().tokenizer(TEXT)["input_ids"])
    whole = looks(backend(), ids[:1], ids[1:], 2)
    monkeypatch.setattr("expertchat.backends.looking.CHUNK", 3)
    parts = looks(backend(), ids[:1], ids[1:], 2)
    assert [one.id for one in parts] == [*ids[1:], None] == [one.id for one in whole]
    assert [one.logp for one in parts[:-1]] == pytest.approx([one.logp for one in whole[:-1]], abs=1e-4)
    assert parts[-1].entropy == pytest.approx(whole[-1].entropy, abs=1e-4)
    with pytest.raises(ConfigError, match="but the context holds"):
        looks(backend(), ids, ids * backend().info.context_length, 2)


def test_a_prompt_is_gone_on_with() -> None:
    prompt = {"prompt": "What do you know about tides?", "chat": True}
    greedy = asked(**prompt, continues=5)
    assert {row["from"] for row in greedy["tokens"]} == {"continued"} and len(greedy["tokens"]) <= 5
    assert all(row["rank"] == 1 for row in greedy["tokens"])
    drawn = [asked(**prompt, continues=5, sample=True, seed=seed) for seed in (1, 1, 2)]
    texts = ["".join(row["text"] for row in one["tokens"]) for one in drawn]
    assert texts[0] == texts[1] != texts[2]
    answer = asked(TEXT, **prompt)
    assert {row["from"] for row in answer["tokens"]} == {"given"} and answer["prompt"]["text"].count("What do you know") == 1
    both = asked(" rise", prompt="Tides")
    assert [row["text"] for row in both["tokens"]] == [" rise"] and both["prompt"]["text"].endswith("Tides")
    joined = asked("rise", prompt="Tides")
    assert "no space stands between prompt and text: they are one word" in joined["notes"]


def test_bits_are_nats_over_ln_2() -> None:
    nats, bits = (asked(TEXT, unit=unit) for unit in ("nats", "bits"))
    for name in ("logp", "logp_token", "logp_byte", "entropy"):
        assert bits["total"][name] == pytest.approx(nats["total"][name] / math.log(2))
    assert bits["total"]["perplexity"] == pytest.approx(nats["total"]["perplexity"])
    # two tokens of probability 1/2 and 1/8, "abcd": perplexity 4, -4 ln 2 together, -ln 2 a byte
    rows = [{"logp": math.log(1 / 2), "entropy": 1.0}, {"logp": math.log(1 / 8), "entropy": 2.0}]
    found = total(rows, "abcd")
    assert (found["perplexity"], found["logp_byte"]) == (pytest.approx(4.0), pytest.approx(-math.log(2)))


def test_bytes_are_those_of_the_text_and_not_of_what_a_tokenizer_adds() -> None:
    chat = asked(TEXT, prompt="What do you know?", chat=True)
    assert chat["total"]["bytes"] == len(TEXT) == asked(TEXT)["total"]["bytes"] + len(asked(TEXT)["tokens"][0]["text"])
    assert [_own(" Ha!", "Ha!"), _own(" Ha! Ho", " Ha!"), _own(" Ha!", ""), _own("\nHa", "Ho")] == ["Ha!", " Ha! Ho", " Ha!", "\nHa"]


# -- words and wrong ones -------------------------------------------------------------------------------------------------


def test_texts_are_taken_as_they_stand() -> None:
    evil = 'a, "b" {c} ${d} = [e]'
    assert taken(["embedded:llama", evil, "top=3"]) == ({"text": evil}, ["top=3", "model=embedded_llama"])
    assert taken(["m/x", f"prompt={evil}", "continue=4"]) == ({"prompt": evil}, ["continues=4", "model=auto", "model.path='m/x'"])
    assert taken(["embedded:llama", "x=1 is true"])[0] == {"text": "x=1 is true"}
    assert taken(["--cfg", "job"]) == ({}, ["--cfg", "job"])
    with pytest.raises(ConfigError, match="here are 3 words"):
        taken(["m", "two", "words"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["embedded:llama"], ["there is no text"]),
        (["embedded:nobody", "x", "out=x.txt", "unit=bytes"], ["no such embedded model", "out: must end in .json", "unit: "]),
    ],
)
def test_wrong_words_are_one_message(words: list[str], said: list[str], capsys: Captured) -> None:
    assert cli.main(["tokens", *words]) == 2
    told = capsys.readouterr().err
    assert all(part in told for part in said) and "Traceback" not in told


def test_what_does_not_go_together_is_said() -> None:
    model = llama()
    for words, said in (
        ({}, "name a model and a text, or a run and a turn"),
        ({"model": model, "text": "x", "turn": "c0000/1", "version": 1}, "turn=c0000/1: is a turn of a run"),
        ({"model": model, "text": "x", "chat": True}, "nothing that the assistant answers"),
        ({"run": "runs/x", "text": "x"}, "turn: is not said"),
    ):
        assert said in given_problems(TokensConfig.model_validate(words))[0]


# -- harmless -------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_what_is_shown_is_one_harmless_line(text: str) -> None:
    shown = visible(text)
    assert clean(shown) == shown and shown.isprintable()
    assert not text or shown


@given(st.text(max_size=30))
@settings(max_examples=100, deadline=None)
def test_pieces_make_the_text(text: str) -> None:
    """Characters of several tokens (a byte each, here) come whole with the last of them."""
    words = tiny.tokenizer("qwen2_5")
    ids = words(text, add_special_tokens=False)["input_ids"]
    spelling = Spelling(words)
    assert "".join(spelling.pieces((), ids)) == spelling.text(ids)


def drawn(values: dict[str, Any], colours: bool) -> str:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return colours

    out = Screen()
    print_tokens(values, out)
    return out.getvalue()


def values(*rows: dict[str, Any], lines: int | None = 40) -> dict[str, Any]:
    none = {
        "entropy": 0.5,
        "five": 0.9,
        "top": [{"id": 1, "text": "\x1b[2J", "probability": 0.9}],
        "name": "Ġx",
        "from": "given",
        "rank": 1,
    }
    whole = [{"id": i, "text": "x", "probability": 0.5, "logp": -0.69, **none, **row} for i, row in enumerate(rows)]
    return {
        "model": "\x1b[31mevil", "unit": "nats", "lines": lines, "about": {}, "notes": ["\x07bell"],
        "prompt": {"text": "\x1b]0;t", "tokens": 2, "asked": True},
        "tokens": whole, "next": {"entropy": 1.0, "five": 0.9, "top": []}, "total": total(whole, "x" * len(rows)),
    }  # fmt: skip


def test_a_screen_is_shaded_with_a_legend_and_a_pipe_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    found = values({"text": "\x1b[2Jquiet\n", "probability": 0.9}, {"text": "", "name": "ðŁ", "probability": None, "logp": None})
    screen, pipe = drawn(found, True), drawn(found, False)
    assert "\x1b[30;42m" in screen and "80 % and more" in screen  # black on green
    assert "\x1b" not in pipe and "80 % and more" not in pipe and "\\x1b[2Jquiet↵" in pipe and "  · " in pipe and "[ðŁ]" in pipe
    for shown in (screen, pipe):
        assert "\x1b[2J" not in shown and "\x1b]0" not in shown and "\x07" not in shown and "[\\x1b[2J] 90.00" in shown
    assert (percent(0.00001), percent(None), shade(0.5), shade(None)) == ("<0.01", "-", "black on cyan", "reverse")


def test_a_long_text_has_its_least_likely_tokens_in_the_table() -> None:
    found = values(*({"probability": (i + 1) / 100} for i in range(60)), lines=5)
    pipe = drawn(found, False)
    assert "the table has the 5 least likely of 60 tokens" in pipe and "5.00" in pipe and " 6.00" not in pipe
