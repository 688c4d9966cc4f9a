"""More than two experts: whose turn is next, what each is shown, when it ends, and runs of them that are broken off and resumed."""

from __future__ import annotations

import json
import math
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from expertchat.backends.base import ModelInfo, ScoreRequest
from expertchat.config import ConfigError, ConversationConfig
from expertchat.events import AnyEvent, ConversationStarted, Note
from expertchat.experts.base import ExpertChat, History
from expertchat.experts.registry import make_expert
from expertchat.records import Message, Speaker, Topic, Transcript, Turn
from expertchat.talk.conversation import Dialogue, check_first_prompts
from expertchat.talk.ending import silent, stuck
from expertchat.talk.order import Moderator, by_lot, opener_of
from expertchat.talk.scheduler import Scheduler
from expertchat.talk.topics import Proposals
from tests.cluster import until
from tests.proofs.kill import content, differing
from tests.scripted import BagOfWords, Collect, Double, config_of, run
from tests.test_conversation import by_turn
from tests.test_resume import contents, in_child
from tests.test_topics import topics_config
from tests.workers.forked import begin

SEATS = ("a", "b", "dr_jones")
STANDARD = ("model@experts.a=smollm2_135m", "persona@experts.a.persona=plain")
NAMED = (*STANDARD, "prompts@experts.a.prompts=standard", "experts.a.family=qwen")
THREE = ("+model@experts.dr_jones=embedded_llama",)


def experts(*words: str, seats: Sequence[Speaker] = SEATS, context: int = 100_000) -> dict[Speaker, ExpertChat]:
    info = ModelInfo("double", context, system_role=True, alternation=True)
    return {seat: make_expert(seat, config_of(*words).experts["a"], info, seats) for seat in seats}


def dialogue(double: Double, events: list[AnyEvent] | None = None, opener: Speaker = "a", **settings: Any) -> Dialogue:
    config = ConversationConfig.model_validate({"count": 1, "turns": 6, **settings})
    topic, tell = Topic(id="c0007", text="bees", source="list"), (events if events is not None else []).append
    return Dialogue(topic, opener, experts(), config, tell, dict.fromkeys(SEATS, double.count_tokens), seed=5)


def hold(one: Dialogue, double: Double, done: Sequence[Turn] = ()) -> Transcript:
    kept: list[Transcript] = []

    def flow() -> Any:
        kept.append((yield from one.flow(done)))

    assert Scheduler(dict.fromkeys([*SEATS, "moderator"], double), 4).run([flow()])
    return kept[0]


def order_of(transcript: Transcript) -> str:
    return " ".join(turn.speaker for turn in transcript.turns)


# -- whose turn is next -------------------------------------------------------------------------------------------------


def test_round_robin_begins_with_the_opener_and_openers_take_turns() -> None:
    double, events = Double(), list[AnyEvent]()
    transcript = hold(dialogue(double, events, opener="b"), double)
    assert order_of(transcript) == "b dr_jones a b dr_jones a"
    assert double.asked() == [f"c0007/t0{i}" for i in range(6)]
    assert list(transcript.experts) == list(SEATS)
    assert [event.opener for event in events if isinstance(event, ConversationStarted)] == ["b"]
    assert [opener_of(i, "alternate", SEATS) for i in range(4)] == ["a", "b", "dr_jones", "a"]
    assert opener_of(3, "dr_jones", SEATS) == "dr_jones"


def test_two_experts_alternate_in_every_order() -> None:
    double = Double()
    for order in ("round_robin", "random"):
        config = ConversationConfig.model_validate({"count": 1, "turns": 5, "order": order})
        two = experts(seats=("a", "b"))
        one = Dialogue(Topic(id="c", text="bees", source="list"), "b", two, config, lambda event: None, {}, seed=1)
        assert order_of(hold(one, double)) == "b a b a b"


def test_random_order_is_the_seeds_and_nobody_speaks_twice_running() -> None:
    double = Double()
    transcript = hold(dialogue(double, order="random", turns=12), double)
    speakers = [turn.speaker for turn in transcript.turns]
    assert speakers[0] == "a" and all(one != two for one, two in pairwise(speakers))
    for n in range(12):  # the same after any break
        assert hold(dialogue(Double(), order="random", turns=12), Double(), transcript.turns[:n]).turns == transcript.turns
    other = hold(replace(dialogue(double, order="random", turns=12), seed=6), double)
    assert order_of(other) != order_of(transcript)
    # Each of the two others comes next as often: 600 draws, a standard deviation of sqrt(600) / 2 = 12.
    drawn = Counter(by_lot(SEATS, [Turn(speaker="b", text="x")], f"{n}") for n in range(600))
    assert drawn.keys() == {"a", "dr_jones"} and abs(drawn["a"] - 300) < 60


def moderator(context: int = 100_000) -> ExpertChat:
    return make_expert("moderator", config_of(*STANDARD).experts["a"], ModelInfo("double", context), SEATS)


@dataclass
class Moderated:
    """A dialogue whose moderator gives in its n-th answer the probabilities `picks[n]` to a, b, dr_jones."""

    picks: Sequence[Sequence[float]]
    asked: list[ScoreRequest] = field(default_factory=list)
    events: list[AnyEvent] = field(default_factory=list)

    def hold(self) -> Transcript:
        double = Double(score=self._score)
        one = dialogue(double, self.events, order="moderator", turns=len(self.picks) + 1)
        return hold(replace(one, moderator=Moderator(moderator())), double)

    def _score(self, request: ScoreRequest) -> list[float]:
        self.asked.append(request)
        return [math.log(p) for p in self.picks[len(self.asked) - 1]]


def test_a_moderator_picks_the_likeliest_who_has_not_just_spoken() -> None:
    # After a: dr_jones is likeliest. After dr_jones: it is so again, but has just spoken; b is next of the others.
    one = Moderated([(0.2, 0.1, 0.6), (0.1, 0.2, 0.6)])
    transcript = one.hold()
    assert order_of(transcript) == "a dr_jones b" and [turn.note for turn in transcript.turns] == [None] * 3
    assert [request.key for request in one.asked] == ["c0007/t01/next", "c0007/t02/next"]
    assert one.asked[0].options == (" A.", " B.", " DR_JONES.") and one.asked[0].prefix == "It is the turn of expert"
    [message] = one.asked[1].messages
    said = [turn.text for turn in transcript.turns[:2]]
    assert f"<transcript>\nA: {said[0]}\nDR_JONES: {said[1]}\n</transcript>\nDR_JONES has just spoken" in message.content
    lines = [line for line in message.content.splitlines() if line.startswith("It is the turn of")]
    assert [line.split()[-1] for line in lines] == ["A.", "B.", "DR_JONES."]  # the next seat's first


def test_a_moderator_who_names_nobody_leaves_it_to_the_order() -> None:
    # The names hold 0.1 + 0.2 + 0.1 = 0.4 of the probability, or no number: the next seat. 0.5 is enough.
    one = Moderated([(0.1, 0.2, 0.1), (math.nan, 0.5, 0.5), (0.1, 0.3, 0.1)])
    transcript = one.hold()
    assert order_of(transcript) == "a b dr_jones b"
    said = "the moderator named nobody (the names hold {} of the probability): next in the order"
    assert [turn.note for turn in transcript.turns] == [None, said.format("40 %"), said.format("no number"), None]
    notes = [event.text for event in one.events if isinstance(event, Note)]
    assert notes[0] == f"c0007, turn 2: {said.format('40 %')}"


def test_a_moderator_is_shown_what_fits_its_context() -> None:
    double = Double()
    turns = [Turn(speaker=SEATS[i % 3], text=" ".join([f"turn{i}"] * 50)) for i in range(6)]
    request = Moderator(moderator(300), double.count_tokens).request("k", "bees", SEATS, turns)
    text = request.messages[-1].content
    assert double.count_tokens(request.messages) <= 300 - 16 and "turn5" in text and "turn0" not in text
    left = text.split("<transcript>\n(")[1].split()[0]
    assert f"turn{int(left) - 1}" not in text and f"turn{left}" in text


# -- what a speaker is shown --------------------------------------------------------------------------------------------

SAID = (Turn(speaker="a", text="Bees dance."), Turn(speaker="b", text="Why?"), Turn(speaker="dr_jones", text="To tell."))


def test_the_turns_of_others_begin_with_their_names() -> None:
    three = experts(*NAMED)
    system, *exchange = three["dr_jones"].view(History("bees", SAID))
    assert system.content.endswith(
        "\nYou are DR_JONES. With you talk A and B. What they say begins with their names; you say only what DR_JONES says."
    )
    assert exchange == [Message("user", "A: Bees dance.\nB: Why?"), Message("assistant", "To tell.")]
    _, *exchange = three["a"].view(History("bees", SAID))
    assert [message.role for message in exchange] == ["user", "assistant", "user"]
    assert exchange[0].content.startswith("Please open the discussion") and exchange[2].content == "B: Why?\nDR_JONES: To tell."
    two = experts(*NAMED, seats=("a", "b"))["a"].view(History("bees", SAID[:2]))
    assert two[-1] == Message("user", "Why?") and "With you talk" not in two[0].content


@pytest.mark.parametrize("words", [(), (*NAMED, "prompts@experts.a.prompts=small")])
def test_embedded_and_small_experts_see_no_names(words: tuple[str, ...]) -> None:
    *_, asked, own = experts(*words)["dr_jones"].view(History("bees", SAID))
    assert [asked, own] == [Message("user", "Bees dance.\nWhy?"), Message("assistant", "To tell.")]


def test_what_is_said_in_any_other_name_is_cut_off() -> None:
    reply = experts()["a"].read_reply("A: Bees dance. \nDr Jones: And the sun? \nB: It tells the way.")
    assert (reply.text, reply.beyond) == ("Bees dance.", "Dr Jones: And the sun? \nB: It tells the way.")
    reply = experts()["dr_jones"].read_reply("DR_JONES: It is the angle.\nB: Which angle do you mean?")
    assert (reply.text, reply.beyond) == ("It is the angle.", "B: Which angle do you mean?")


# -- when it ends -------------------------------------------------------------------------------------------------------


def test_it_ends_when_all_have_nothing_new_one_after_the_other() -> None:
    nothing = "I have nothing new to add on bees."
    shared = "I have shared what I know about bees."
    double = by_turn("Bees dance.", nothing, f"Well. {nothing}", "Bees make wax.", shared, f"That is so. {shared}", f"Yes: {nothing}")
    transcript = hold(dialogue(double, turns=9, loop_similarity=1.0), double)
    # Two of them in a row (turns 1 and 2) do not end it; turns 4, 5 and 6 do.
    assert transcript.stop_reason == "nothing_new" and len(transcript.turns) == 7


def test_silence_and_going_round_are_those_of_all() -> None:
    turns = [Turn(speaker=SEATS[i % 3], text=text) for i, text in enumerate(["Bees dance.", "", "...", ""])]
    assert not silent(turns[:3], 3) and silent(turns, 3) and silent(turns[:3], 2)
    rounds = ["bees dance in eights to tell where food is", "their wax is made by young bees at home", "a queen lays her eggs in wax cells"]
    again = [Turn(speaker=SEATS[i % 3], text=" ".join(reversed(text.split()))) for i, text in enumerate([*rounds[1:], rounds[0]])]
    whole = [*(Turn(speaker=SEATS[i % 3], text=text) for i, text in enumerate(rounds)), *again]
    assert stuck(whole, 0.9, 3) and not stuck(whole[:-1], 0.9, 3) and not stuck(whole, 0.9, 2)


def test_an_opening_prompt_that_does_not_fit_is_told_of_each() -> None:
    one = replace(dialogue(Double()), experts=experts(context=60))
    with pytest.raises(ConfigError) as found:
        check_first_prompts(one)
    assert [problem.split()[1].rstrip(":") for problem in found.value.problems] == list(SEATS)
    assert "lower experts.dr_jones.decoding.reply.max_new_tokens" in found.value.problems[2]


# -- topics and configs -------------------------------------------------------------------------------------------------


def test_all_propose_topics_by_turns() -> None:
    double, kept = Double(), list[Topic]()
    proposals = Proposals(experts(), topics_config(max_similarity=1.0), 7, kept.append, lambda event: None)
    assert Scheduler(dict.fromkeys(SEATS, double) | {"embedder": BagOfWords()}, 4).run([proposals.flow()])
    assert [topic.source for topic in kept] == ["a", "b", "dr_jones", "a", "b", "dr_jones", "a"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("~experts.b", "experts: there is only a; a dialogue has two or more: add one with +model@experts.NAME=MODEL"),
        ("+model@experts.C=embedded_llama", "experts.C: cannot be an expert's name; take at most 24 small letters"),
        ("+model@experts.third=embedded_llama", "experts.third: cannot be an expert's name"),
        ("+model@experts.base_a=embedded_llama", "experts.base_a: cannot be an expert's name"),
        ("model@experts.c=embedded_llama", "there is no experts.c yet; add it with +model@experts.c=embedded_llama"),
        ("model@experts.c=embedded_lama", "no model 'embedded_lama'; did you mean embedded_llama? there are"),
        ("persona@experts.c.persona=curious", "there is no experts.c yet; add it with +model@experts.c=NAME"),
        ("experts.skeptic.path=x", "there is no experts.skeptic yet; add it with +model@experts.skeptic=NAME"),
        ("model@moderator=auto", "there is no moderator yet; add it with +model@moderator=auto"),
        ("conversation.opener=c", "conversation.opener=c: is no expert; take alternate, or one of a, b"),
        ("conversation.order=moderator", "needs a model that picks who is next: add +model@moderator=NAME"),
        ("+model@moderator=smollm2_135m", "nobody asks it with conversation.order=round_robin; add conversation.order=moderator"),
        ("conversation.order=moderator +model@moderator=embedded_llama", "(family world) have no `moderate`"),
    ],
)
def test_what_cannot_be_is_said_with_its_remedy(words: str, said: str) -> None:
    with pytest.raises(ConfigError) as found:
        config_of(*words.split())
    assert len(found.value.problems) == 1 and said in found.value.problems[0]


# -- whole runs ---------------------------------------------------------------------------------------------------------


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize(("partners", "judges"), [("each", {"a": "b+dr_jones", "b": "a+dr_jones", "dr_jones": "a+b"}),
                                                  ("ring", {"a": "b", "b": "dr_jones", "dr_jones": "a"})])  # fmt: skip
def test_each_rates_each_or_the_next(tmp_path: Path, partners: str, judges: dict[str, str]) -> None:
    words = (*THREE, "conversation.count=2", "conversation.turns=3", f"judging.partners={partners}")
    assert run(tmp_path, *words) == 0
    wanted = {f"c000{i}/{subject}-by-{judge}" for i in range(2) for subject, names in judges.items() for judge in names.split("+")}
    assert {one["id"] for one in records(tmp_path, "rewards")} == {f"{key}/reward" for key in wanted}
    assert {one["id"] for one in records(tmp_path, "wim")} == {f"{key}/wim" for key in wanted}
    categories = config_of(*words).judging.categories
    assert {one["id"] for one in records(tmp_path, "ratings")} == {f"{key}/{category}" for key in wanted for category in categories}
    assert run(tmp_path, *words, sink=(again := Collect())) == 0  # by count, all of them are done
    assert not again.of(ConversationStarted)


def test_a_run_of_three_resumed_at_any_event_is_the_unbroken_run(tmp_path: Path) -> None:
    words = (*THREE, "conversation.count=3", "conversation.turns=4", "conversation.order=random", "topics.source=models")
    whole, sink = tmp_path / "whole", Collect()
    assert run(whole, *words, sink=sink) == 0
    expected = contents(whole)
    assert {topic["source"] for topic in expected["topics"].values()} == set(SEATS)

    class Killed(Collect):
        def __init__(self, after: int) -> None:
            super().__init__()
            self.after = after

        def send(self, event: AnyEvent) -> None:
            super().send(event)
            if len(self.events) == self.after:
                os._exit(9)  # at once, as a kill would: nothing is closed

    rng = random.Random(3)
    for number in range(4):
        folder = tmp_path / f"broken{number}"
        child = in_child(lambda folder=folder: run(folder, *words, sink=Killed(rng.randrange(2, len(sink.events)))))
        child.join()
        assert child.exitcode == 9
        assert run(folder, *words) == 0
        assert contents(folder) == expected


def test_with_a_moderator_a_run_goes_on_as_it_was(tmp_path: Path) -> None:
    def score(request: ScoreRequest) -> list[float]:
        if not request.key.endswith("/next"):
            return [math.log(0.09)] * 10
        best = len(request.messages[-1].content) % 3
        return [math.log(0.9 if i == best else 0.03) for i in range(3)]

    words = (*THREE, *[word.replace("experts.a", "moderator") for word in STANDARD], "conversation.order=moderator", "conversation.count=3")
    words = tuple("+" + word if word.startswith("model@moderator") else word for word in words)
    assert run(tmp_path / "whole", *words, double=Double(score=score)) == 0
    expected = contents(tmp_path / "whole")
    orders = {" ".join(turn["speaker"] for turn in one["turns"]) for one in expected["transcripts"].values()}
    assert not orders & {" ".join((SEATS * 3)[i : i + 8]) for i in range(3)}  # none of them simply goes round
    lines = (tmp_path / "whole" / "events.jsonl").read_text("utf-8").splitlines(keepends=True)
    cut = next(i for i, line in enumerate(lines) if '"turn_finished"' in line and '"index":3' in line)
    folder = tmp_path / "broken"
    folder.mkdir()
    for name in ("config.yaml", "provenance.json"):
        (folder / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    (folder / "topics.jsonl").write_bytes((tmp_path / "whole" / "topics.jsonl").read_bytes())
    (folder / "events.jsonl").write_text("".join(lines[: cut + 1]))
    assert run(folder, *words, double=Double(score=score)) == 0
    assert contents(folder) == expected


@pytest.mark.slow
def test_three_embedded_experts_killed_and_resumed(tmp_path: Path) -> None:
    """Once: `python -m tests.proofs.kill 5 +experiment=three` does it at many moments."""
    words = ("+experiment=three", "conversation.count=3", "conversation.turns=4", "run.seed=3", "view=none")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken = begin(["converse", *words, f"run.dir={whole}"])
    events, process = broken / "events.jsonl", begin(["converse", *words, f"run.dir={broken}"])
    wanted = random.Random(2).randrange(4, 40)  # killed as soon as so many events are on disk
    until(lambda: events.exists() and events.read_bytes().count(b"\n") >= wanted, 120, f"{wanted} events")
    process.kill()
    assert process.wait() == -9
    assert begin(["converse", *words, f"run.dir={broken}"]).wait() == 0 and unbroken.wait() == 0
    said = records(whole, "transcripts")
    assert all(list(one["experts"]) == ["a", "b", "c"] for one in said)
    assert {one["turns"][0]["speaker"] for one in said} == {"a", "b", "c"}
    assert not differing(content(whole), content(broken))
