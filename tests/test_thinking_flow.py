"""Experts that think: what they think goes into the records and nowhere else; judges' thoughts hold no rating; nothing of it is trained."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from expertchat.backends.base import Completion, Decoding, GenerateRequest, ModelInfo
from expertchat.backends.local import LocalBackend
from expertchat.backends.scripted import ScriptedBackend
from expertchat.backends.streaming import Pieces, Row
from expertchat.command.compose import load
from expertchat.events import Note, TextStreamed, TurnFinished
from expertchat.experts.registry import make_expert
from expertchat.experts.thoughts import Thoughts
from expertchat.folder.run_folder import RunFolder, differences, differences_from_begun
from expertchat.plan.models import thinks
from expertchat.preferences.candidates import choices
from expertchat.preferences.pairs import make_pairs
from expertchat.preferences.score import scored
from expertchat.records import Message, Rating, Turn
from expertchat.text.sentences import as_yaml
from expertchat.training.figures import remarks, round_figures, why_nothing
from expertchat.views.models import print_models
from tests.scripted import BagOfWords, Collect, Double, babble, config_of
from tests.staged import Stage
from tests.staged import config_of as staged_config
from tests.test_judge import judge, judging_config
from tests.test_online_dpo import train
from tests.test_rollout import dpo_config, talk

SECRET = "zebra"  # stands in thoughts alone


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]


def thinker(begin: str = "<think>\n", end: str = "\n</think>\n\n", opens: bool = False) -> Double:
    """Thinks before whatever it says, of a zebra, with ratings and questions in its thoughts."""
    double = Double(lambda request: f"{begin}A {SECRET}. Depth: maybe 3? Rating: [[2]]{end}{babble(request)}")
    double.info = ModelInfo("double", 100_000, opens_thinking=opens)
    return double


class Embedder(BagOfWords):
    """Remembers its texts."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def embed(self, requests: Any) -> Any:
        self.texts += [request.text for request in requests]
        return super().embed(requests)


def converse(folder: Path, double: Double, *overrides: str) -> tuple[int, Collect, Embedder]:
    from expertchat.talk.converse import run_converse

    sink, embedder = Collect(), Embedder()
    config = config_of(f"run.dir={folder}", "conversation.count=2", "conversation.turns=4", "judging.form=both", *overrides)
    code = run_converse(config, ["expertchat"], sink, backends={"a": double, "b": double, "third": double}, embedder=embedder)
    return code, sink, embedder


FORMS = [
    ("<think>\n", "\n</think>\n\n", False), ("", "</think>", True), ("[THINK]", "[/THINK]", False), ("analysis", "assistantfinal", False),
]  # fmt: skip


@pytest.mark.parametrize(("begin", "end", "opens"), FORMS)
def test_thoughts_are_in_the_transcript_and_nobody_is_shown_them(tmp_path: Path, begin: str, end: str, opens: bool) -> None:
    double = thinker(begin, end, opens)
    code, sink, embedder = converse(tmp_path / "run", double, "experts.a.thinking=true", "experts.b.thinking=true")
    assert code == 0
    turns = [turn for one in lines(tmp_path / "run", "transcripts") for turn in one["turns"]]
    assert len(turns) == 8 and all(SECRET in turn["thinking"] and SECRET not in turn["text"] and turn["text"] for turn in turns)
    shown = [message.content for request in double.requests for message in request.messages] + [r.prefix for r in double.requests]
    assert not any(SECRET in text for text in shown)  # partner and judge
    assert embedder.texts and not any(SECRET in text for text in embedder.texts)
    assert not any(SECRET in line["text"] + line["analysis"] for line in lines(tmp_path / "run", "wim"))
    assert all(SECRET in answer["text"] for answer in lines(tmp_path / "run", "answers") if answer.get("text"))  # as it was written
    streamed = sink.of(TextStreamed)
    assert streamed and not any(SECRET in event.text for event in streamed)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    # Eight turns of "A zebra. Depth: maybe 3? Rating: [[2]]": seven words each.
    assert (summary["turns_thought"], summary["words_thought"], summary["turns_all_thinking"]) == (8, 8 * 7, 0)


def test_topics_are_proposed_without_thoughts(tmp_path: Path) -> None:
    double = Double(lambda request: f"<think>{SECRET}</think>Bees {request.key[:5]}" if "/topic/" in request.key else babble(request))
    double.info = ModelInfo("double", 100_000)
    config = config_of("topics=models", "conversation.count=1", f"run.dir={tmp_path / 'run'}", "conversation.turns=2")
    from expertchat.talk.converse import run_converse

    assert run_converse(config, ["expertchat"], Collect(), backends={"a": double, "b": double}, embedder=BagOfWords()) == 0
    assert [topic["text"] for topic in lines(tmp_path / "run", "topics")] == ["Bees c0000"]


def test_a_model_that_thinks_though_it_is_asked_not_to_is_reported_once(tmp_path: Path) -> None:
    _, sink, _ = converse(tmp_path / "run", thinker(), "experts.a.thinking=true")
    told = [note.text for note in sink.of(Note) if "thinking=false asks it not to" in note.text]
    assert len(told) == 1 and told[0].startswith("expert b ")  # of eight turns, and of its judgements
    _, sink, _ = converse(tmp_path / "other", Double())
    assert not [note for note in sink.of(Note) if "think" in note.text]


@pytest.mark.parametrize("opens", [False, True])
def test_a_reply_that_is_all_thinking_is_blank_and_says_what_helps(tmp_path: Path, opens: bool) -> None:
    double = Double(lambda r: ("" if opens else "<think>") + f"A {SECRET}." if "-by-" not in r.key else babble(r))
    double.info = ModelInfo("double", 100_000, opens_thinking=opens)
    converse(tmp_path / "run", double, "experts.a.thinking=true", "judging.analysis=false", "judging.form=sampled")
    turn, other = lines(tmp_path / "run", "transcripts")[0]["turns"][:2]
    assert (turn["text"], turn["thinking"]) == (other["text"], other["thinking"]) == ("", f"A {SECRET}.")
    assert turn["note"] == "all thinking: raise experts.a.decoding.reply.max_new_tokens or set experts.a.thinking=false"
    assert other["note"].endswith("or take a model that does not think")  # it was asked not to
    assert not any(SECRET in message.content for request in double.requests for message in request.messages)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["turns_all_thinking"] == summary["turns_thought"] == summary["turns"]


# -- judges ---------------------------------------------------------------------------------------------------------------


def scripted(text: str, opens: bool = False) -> ScriptedBackend:
    backend = ScriptedBackend(lambda request: text)
    backend.info = replace(backend.info, opens_thinking=opens)
    return backend


@pytest.mark.parametrize(("begin", "opens"), [("<think>", False), ("", True)])
def test_a_stop_string_in_a_thinking_block_ends_nothing(begin: str, opens: bool) -> None:
    text = f"{begin}\nDepth: maybe 3? Or 4?</think>A clear answer.\nDepth: 7"
    request = GenerateRequest("k/analysis", (Message("user", "Judge."),), Decoding("greedy", 50), stop=("\nDepth:",))
    (answer,) = scripted(text, opens).generate([request])
    assert answer.text.endswith("</think>A clear answer.") and "maybe 3" in answer.text
    (cut,) = scripted(f"{begin}\nDepth: maybe 3? Or 4?", opens).generate([request])
    assert cut.text.endswith("Or 4?")
    # With a prefix the answer is outside of all blocks, whatever the prompt's end is without one.
    (begun,) = scripted("It is fine.\nDepth: 7", opens).generate([replace(request, prefix="Well:")])
    assert begun.text == "It is fine."


class Letters:
    """A tokenizer whose tokens are letters."""

    def __init__(self) -> None:
        self.added_tokens_decoder: dict[int, Any] = {}

    def decode(self, ids: list[int], **more: Any) -> str:
        return "".join(map(chr, ids))


def written(text: str, stop: tuple[str, ...], thinking: bool = False) -> Completion:
    """What a row makes of a text that comes letter by letter."""
    row = Row(Pieces(Letters()), 0, [65], 1000, stop, thinking)
    for letter in text:
        row.add(ord(letter), ends=False)
        if row.finish is not None:
            break
    return row.completion([65], 0.0)


def test_a_row_matches_stop_strings_outside_of_thinking_blocks() -> None:
    for begin, thinking in (("<think>", False), ("", True)):
        text = f"{begin}\nDepth: maybe 3?</think>Clear.\nDepth: 7"
        answer = written(text, ("\nDepth:",), thinking)
        assert (answer.text, answer.finish, answer.unshown) == (f"{begin}\nDepth: maybe 3?</think>Clear.", "stop", "stop")
    assert written("\nDepth: 3", ("\nDepth:",)).text == ""


def test_a_backend_tells_its_rows_whether_they_begin_inside_a_block() -> None:
    for opens, prefix, inside in ((True, "", True), (True, "Depth:", False), (False, "", False)):
        backend = SimpleNamespace(info=ModelInfo("m", 100, opens_thinking=opens), pieces=Pieces(Letters()))
        request = GenerateRequest("k", (Message("user", "Judge."),), Decoding("greedy", 50), prefix=prefix, stop=("!",))
        row = LocalBackend.row(backend, request, [65])  # type: ignore[arg-type]
        for letter in "Oh! I":
            if row.finish is None:
                row.add(ord(letter), ends=False)
        assert row.text(last=True) == ("Oh! I" if inside else "Oh")


@pytest.mark.parametrize("form", ["sampled", "both"])
def test_a_number_in_a_judges_thoughts_is_no_rating(form: Any) -> None:
    def reply(request: GenerateRequest) -> str:
        kind = request.key.rsplit("/", 1)[1]
        return {"wim": "<think>Depth: 3</think>How honey is made.", "analysis": "<think>\nDepth: maybe 3?\n</think>\nClear."}.get(
            kind, "<think>Depth: 3. So 3" if kind == "depth" else "<think>2?</think> 7"
        )

    records, double = judge(judging_config(form=form), reply, prompts="standard")
    depth, clarity = records["c0003/a-by-b/depth"], records["c0003/a-by-b/clarity"]
    assert isinstance(depth, Rating) and (depth.value, depth.fault, clarity.value) == (None, "thinking", 7)
    wim = records["c0003/a-by-b/wim"]
    assert (wim.text, wim.analysis) == ("How honey is made.", "Clear.")
    later = [r.prefix for r in double.requests if r.prefix] + [m.content for r in double.requests for m in r.messages]
    assert not any("maybe 3" in text for text in later)  # neither a rating nor the WIM question goes on after thoughts


# -- training -------------------------------------------------------------------------------------------------------------


def candidates_of(reply: Any) -> tuple[Any, Any, dict[str, Any]]:
    """A dialogue whose candidates are what `reply` says, its pairs and its figures."""
    double = Double(lambda r: reply(r) if "-by-" not in r.key and "/k" in r.key[5:] else babble(r))
    bundle, _, _ = talk("judging.form=sampled", double=double)
    scores = scored([bundle], dpo_config().rules, None)
    pairing = make_pairs(choices([bundle], {s.id: s.value for s in scores}, "b"), dpo_config("pairs.min_margin=0.0").pairs, 2)
    return bundle, pairing, round_figures([bundle], scores, pairing)


def test_candidates_that_think_are_in_no_pair_and_counted() -> None:
    def some(request: GenerateRequest) -> str:
        return f"<think>A {SECRET}?</think>{babble(request)}" if request.key.endswith("/k0") else babble(request)

    bundle, pairing, figures = candidates_of(some)
    first = [one.candidates[0] for one in bundle.sampled]
    assert all(c.altered == "thinking" and c.thinking == f"A {SECRET}?" and SECRET not in c.text for c in first)
    assert not any("/k0" in str(pair.provenance[which]) for pair in pairing.pairs for which in ("chosen", "rejected"))
    assert (figures["thinking"], figures["altered"], figures["nulls"]) == (2, 0, 0)  # two histories of three candidates
    said, *_ = remarks(figures, "a")
    assert said.startswith("2 of 6 candidates thought before they spoke") and "experts.a.thinking=false" in said


@pytest.mark.parametrize("text", ["<think>A zebra?</think>Bees dance.", "<think>A zebra?", "<think>\n\n</think>\n\nBees dance."])
def test_a_round_whose_every_candidate_thinks_says_so(text: str) -> None:
    _, pairing, figures = candidates_of(lambda request: text)
    assert not pairing.pairs and (figures["thinking"], figures["altered"], figures["nulls"]) == (6, 0, 0)
    said, *_ = remarks({**figures, "cut_rate": 0.0}, "b")
    assert said.startswith("all 6 candidates thought") and "nothing can be learnt" in said and "experts.b.thinking=false" in said
    assert "6 candidates that thought before they spoke (experts.*.thinking=false asks them not to)" in why_nothing([figures])


def test_programs_and_words_know_nothing_of_thoughts() -> None:
    _, _, figures = candidates_of(lambda request: "<think>" + "zebra zebra " * 50 + "</think>" + babble(request))
    _, _, plain = candidates_of(babble)
    assert figures["distinct_2"] == plain["distinct_2"] and figures["repeats"] == plain["repeats"]


def test_a_training_that_cannot_learn_from_thoughts_says_so_after_its_first_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertchat.preferences.candidates.altered", lambda reply, answer: "thinking")
    code, sink = train(tmp_path / "run", "rounds=1", "evaluation.every=0", "evaluation.histories=1", "evaluation.final=1")
    kinds = [(event.kind, getattr(event, "text", "")) for event in sink.events if event.kind in ("note", "round_finished")]
    first = kinds.index(("round_finished", ""))
    said = [text for _, text in kinds[:first] if text.startswith("round 1: all ")]
    assert len(said) == 1 and "candidates thought before they spoke" in said[0] and "experts.a.thinking=false" in said[0]
    end = sink.events[-1]
    assert code == 1 and "candidates that thought before they spoke" in end.reason
    figures = [line["figures"] for line in lines(tmp_path / "run", "metrics") if line["kind"] == "round"]
    assert [f["kl"] for f in figures] == [None]  # how far the policy has moved is not told from thoughts either


@pytest.mark.parametrize("which", ["base", "policy"])
def test_an_evaluation_of_a_reply_that_is_all_thinking_has_no_outcome(tmp_path: Path, which: str) -> None:
    silent, speaks = Double(lambda request: f"<think>A {SECRET}."), Double(lambda request: f"<think>A {SECRET}?</think>{babble(request)}")
    other = Double(lambda r: f"<think>A {SECRET}." if r.key.endswith("/base") else f"A bee. {len(r.messages)} {r.key}")
    stage = Stage(
        tmp_path, staged_config("evaluation=pointwise", "evaluation.by=partner_reference", "conversation.loop_similarity=1.0"),
        base=other if which == "base" else Double(), policy=speaks if which == "base" else silent,
    )  # fmt: skip
    assert stage.prepare()
    figures = stage.evaluate().figures
    assert (figures["n"], figures["nulls"]) == (0, 6)
    compared = lines(tmp_path / "evaluations", "a-r0006")
    (problem,) = {one["problem"] for one in compared}
    assert problem.startswith(f"{which} said nothing, the reply is all thinking: raise experts.a.decoding.reply.max_new_tokens")
    assert all(SECRET in one["reply"]["thinking"] and SECRET not in one["reply"]["text"] for one in compared)


# -- models ---------------------------------------------------------------------------------------------------------------

BEGIN = "{% if add_generation_prompt %}<|im_start|>assistant\n"
HEAD = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + BEGIN
SWITCH = "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
TEMPLATES = {
    HEAD + SWITCH: "can think: asked not to by its chat template's enable_thinking",
    HEAD + "<think>\n{% endif %}": "thinks: its chat template opens a thinking block, which is closed at once",
    "{% set seen = m.content.split('</think>')[-1] %}" + HEAD + "{% endif %}": "may think: its chat template knows thinking blocks",
    "Reasoning: {{ reasoning_effort }}" + HEAD + "{% endif %}": "can think: asked not to by its chat template's reasoning_effort",
    HEAD + "I am thinking.{% endif %}": None,
}  # fmt: skip


@pytest.mark.parametrize(("template", "said"), TEMPLATES.items())
def test_models_says_what_a_template_makes_of_thinking(tmp_path: Path, template: str, said: str | None) -> None:
    assert thinks(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    found = thinks(tmp_path)
    assert found is None if said is None else str(found).startswith(said)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": [{"name": "default", "template": template}]}))
    assert thinks(tmp_path) == found
    (tmp_path / "chat_template.jinja").write_text(template)
    assert thinks(tmp_path) == found
    if found:
        stream = io.StringIO()
        one = {"name": "mine", "state": "complete", "size": 0, "folder": "/m", "about": "", "path": "/m", "problem": None, "get": ()}
        print_models({"models": [{**one, "thinks": found}], "others": [], "models_dir": None}, stream)
        assert "mine" in stream.getvalue() and "think" in stream.getvalue()


# -- old folders ----------------------------------------------------------------------------------------------------------


def test_a_run_of_before_goes_on_and_is_read() -> None:
    now = {"experts": {"a": {"thinking": False, "path": "x"}}, "third": None, "show_thinking": True}
    assert differences({"experts": {"a": {"path": "x"}}, "third": None}, now) == []
    now["experts"]["a"]["thinking"] = True
    assert differences({"experts": {"a": {"path": "x"}}, "third": None}, now) == ["experts.a.thinking: was False, is True"]
    assert Turn.model_validate({"speaker": "a", "text": "Hi."}).thinking is None


@pytest.mark.parametrize(("command", "words"), [("converse", ["+experiment=chat"]), ("online_dpo", ["+experiment=embedded"])])
def test_a_config_of_an_earlier_version_is_no_other_config(command: str, words: list[str]) -> None:
    """tests/earlier holds what a version before has written: whoever adds a key says in ADDED what it means where there is none, and
    whoever changes a default says in AS_BEGUN what such a run goes on with."""
    before = yaml.safe_load((Path(__file__).parent / "earlier" / f"{command}.yaml").read_text("utf-8"))
    now = load(command, words).model_dump(mode="json")
    if "topics" in before:  # the embedded world had 24 topics then: such a run is told that its list is another one
        assert len(differences(before["topics"], now["topics"])) == 1
        now["topics"]["list"] = before["topics"]["list"]
    assert differences_from_begun(before, now) == []
    # Side by side such runs are not the same.
    risen = ["reward.repeat_penalty: was 0.4, is 0.0", "reward.repeat_cosine: was 0.7, is 0.85"] if "reward" in now else []
    risen += ["evaluation.topics: was 6, is 20"] if "evaluation" in now else []
    assert (differences(before, now), len(differences(now, before))) == (risen, len(risen))
    old = TurnFinished.model_validate({"kind": "turn_finished", "conversation": "c", "index": 0, "turn": {"speaker": "a", "text": "Hi."}})
    assert old.turn.thinking is None


def test_a_run_of_before_goes_on_with_the_default_of_its_time(tmp_path: Path) -> None:
    now = load("dpo", ["data.path=rows.jsonl", "model=smollm2_135m"])
    plain = now.model_dump(mode="json")
    before = {**plain, "evaluation": {key: value for key, value in plain["evaluation"].items() if key != "choosing"} | {"topics": 6}}
    (tmp_path / "config.yaml").write_text(as_yaml(before))
    folder = RunFolder(tmp_path, plain, [])
    try:
        assert folder.as_begun(now).evaluation == now.evaluation.model_copy(update={"topics": 6})
        assert folder.notes == ["the run goes on with evaluation.topics=6, as an earlier version began it; a new one has 20"]
    finally:
        folder.close()
    given = {**plain, "evaluation": plain["evaluation"] | {"topics": 12}}
    assert differences_from_begun(before, given) == ["evaluation.topics: was 6, is 12"]  # that somebody asks for
    own = {**plain, "evaluation": plain["evaluation"] | {"topics": 6}}
    assert differences_from_begun(own, plain) == ["evaluation.topics: was 6, is 20"]  # and that somebody has asked for since


def test_an_expert_knows_what_its_prompts_end_with() -> None:
    expert = make_expert("a", config_of("experts.a.thinking=true").experts["a"], ModelInfo("m", 100, opens_thinking=True))
    read = expert.read_reply("Hm.</think>Bees.")
    assert (read.text, read.thinking, read.thought, read.unended) == ("Bees.", "Hm.", True, False)
    assert expert.read_reply("Hm.").unended and expert.read_reply("Hm.").text == ""
    assert expert.read_answer(" 7", prefix="Depth:").text == "Depth: 7"  # the prefix stands after the block's end
    third = make_expert("third", config_of().experts["a"], ModelInfo("m", 100))
    assert third.thoughts.silent().startswith("all thinking: raise third.decoding")
    assert Thoughts("dr_jones", "m", True).silent() == (
        "all thinking: raise experts.dr_jones.decoding.reply.max_new_tokens or set experts.dr_jones.thinking=false"
    )


