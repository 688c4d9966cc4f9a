"""What is measured in texts: by hand, by the libraries' own figures, and through the command."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from expertchat import cli
from expertchat.backends.folders import EMBEDDED
from expertchat.backends.local import LocalBackend
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.doors.metrics import check
from expertchat.metrics import overlap
from expertchat.metrics.columns import columns_of
from expertchat.metrics.kept import Kept
from expertchat.metrics.likely import Likelihood, Likelihoods
from expertchat.metrics.loaded import find_embedder, load_model
from expertchat.metrics.measuring import Row, Tools, likelihood_figures, measure
from expertchat.metrics.overlap import Bleu, Chrf, Words, rouge
from expertchat.metrics.run import Plan, _notes, run_metrics, summed
from expertchat.metrics.summing import added, labels, means
from expertchat.records import Message, Turn
from expertchat.records.lab import Item, Text
from expertchat.sources.read import read_items
from expertchat.views.metrics import markdown, print_metrics
from tests.scripted import BagOfWords

torch.set_num_threads(1)
FOUND, UNDER = "the cat was found under the bed", "the cat was under the bed"


def item(name: str, *texts: str, systems: Sequence[str | None] = (), group: str = "", **more: Any) -> Item:
    names = [*systems, None, None]
    made = [Text(text=text, system=names[i]) for i, text in enumerate(texts)]
    return Item(id=name, source="s", texts=made, group=group or name, **more)


# -- by hand --------------------------------------------------------------------------------------------------------------


def test_rouge_by_hand() -> None:
    """7 words against 6. All 6 of the reference stand in the text: precision 6/7, recall 6/6. Of the text's 6 pairs of words 4 stand among
    the reference's 5 ("was found" and "found under" do not, "was under" is not said): 4/6 and 4/5. The longest common subsequence is
    the whole reference: 6/7 and 6/6.
    """
    found = rouge(FOUND, UNDER)
    wanted = {"rouge1": (6 / 7, 1.0, 12 / 13), "rouge2": (4 / 6, 4 / 5, 8 / 11), "rougeL": (6 / 7, 1.0, 12 / 13)}
    for name, figures in wanted.items():
        assert [found[f"{name}_{part}"] for part in ("precision", "recall", "f1")] == pytest.approx(figures)
    # F1 = 2PR / (P + R): 2 (6/7) / (13/7) = 12/13 and 2 (4/6) (4/5) / (22/15) = 8/11. Of a perfect text it is 1, and not 0.71.
    assert rouge(UNDER, UNDER)["rouge1_f1"] == 1.0


def test_words_of_any_script_are_words() -> None:
    """rouge-score's own tokenizer makes "gr" and "er" of größer; and case folds ß to ss."""
    from rouge_score.rouge_scorer import RougeScorer

    assert Words().tokenize("Größer als das HAUS, größte!") == ["grösser", "als", "das", "haus", "grösste"]
    assert rouge("Die Stadt ist größer.", "die stadt ist grösser")["rouge1_f1"] == 1.0
    # 1 of 2 words in common; by the library alone 3 of "gr", "er", "stadt" and "gr", "er", "dorf"
    assert rouge("größer Stadt", "größer Dorf")["rouge1_f1"] == pytest.approx(1 / 2)
    own = RougeScorer(["rouge1"]).score("größer Dorf", "größer Stadt")["rouge1"].fmeasure
    assert own == pytest.approx(2 / 3)
    assert rouge("蜂蜜很甜", "蜂蜜很苦")["rouge1_f1"] == pytest.approx(3 / 4)  # a character is a word


def test_rouge_is_the_librarys_own_figure_where_its_words_are_ours() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    text, reference = "Tides rise because the moon pulls; they are rising twice", "The moon pulls the sea, so tides rise twice a day"
    for stemmer, used in (("none", False), ("english", True)):
        own = RougeScorer(list(overlap.ROUGE), use_stemmer=used).score(reference, text)
        found = rouge(text, reference, stemmer)
        for name, score in own.items():
            parts = (score.precision, score.recall, score.fmeasure)
            assert [found[f"{name}_{part}"] for part in ("precision", "recall", "f1")] == pytest.approx(list(parts))
    assert rouge("die Häuser", "das Haus", "german")["rouge1_f1"] == pytest.approx(1 / 2)  # both are "haus"


def test_bleu_by_hand() -> None:
    """FOUND against UNDER: 6 of 7 words, 4 of 6 pairs, 2 of 5 triples, 0 of 4 fours, which counts as a half of one; the text is longer, so
    there is no penalty: (6/7 * 4/6 * 2/5 * 1/8) ** (1/4) = 0.0286 ** 0.25 = 0.411.
    """
    bleu = Bleu()
    score, counts = bleu.score(FOUND, UNDER)
    assert counts == [6, 4, 2, 0, 7, 6, 5, 4, 7, 6]
    assert score == pytest.approx(100 * (6 / 7 * 4 / 6 * 2 / 5 * 1 / 8) ** (1 / 4)) == pytest.approx(41.11, abs=0.01)
    # all that is said is right, but 4 words of 6: exp(1 - 6/4) = 0.607
    assert bleu.score("the cat was under", UNDER)[0] == pytest.approx(100 * math.exp(-1 / 2))
    # two words have no triples: the mean is over two orders (effective order), 1 and 1, and exp(1 - 6/2)
    assert bleu.score("the cat", UNDER)[0] == pytest.approx(100 * math.exp(-2))


def test_bleu_and_chrf_of_many_texts_are_the_librarys_own() -> None:
    from sacrebleu.metrics import BLEU, CHRF

    texts = [FOUND, "Das Haus ist größer.", "tides rise twice a day"]
    references = [UNDER, "Das Haus war größer.", "the tides rise twice each day"]
    bleu, chrf = Bleu(), Chrf()
    counts = [bleu.score(text, reference)[1] for text, reference in zip(texts, references, strict=True)]
    assert bleu.pooled([sum(column) for column in zip(*counts, strict=True)]) == pytest.approx(
        BLEU().corpus_score(texts, [references]).score
    )
    assert chrf.pooled(texts, references)[0] == pytest.approx(CHRF().corpus_score(texts, [references]).score)
    assert bleu.signature(texts, references).startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_chrf_by_hand() -> None:
    """ "abc" against "abd": 2 of 3 letters, 1 of 2 pairs, 0 of 1 triples, and no longer ones: (2/3 + 1/2 + 0) / 3 = 7/18, precision and
    recall alike, so chrF is that whatever beta is."""
    assert Chrf().score("abc", "abd") == pytest.approx(100 * 7 / 18)


def test_perplexity_by_hand() -> None:
    """Two tokens of probability 1/2 and 1/8: -(ln 2 + 3 ln 2), -2 ln 2 a token, perplexity exp(2 ln 2) = 4; over 8 bytes -ln 2 / 2."""
    found = likelihood_figures(Likelihood(math.log(1 / 2) + math.log(1 / 8), tokens=2, size=8))
    assert found["perplexity"] == pytest.approx(4.0) and found["logp_token"] == pytest.approx(-2 * math.log(2))
    assert found["logp_byte"] == pytest.approx(-math.log(2) / 2)


# -- rows and figures -----------------------------------------------------------------------------------------------------

PLAIN = columns_of(["distinct", "repeats", "length"])


def test_a_row_has_a_figure_or_a_reason() -> None:
    said = [Turn(speaker="b", text="Tides rise. Why?")]
    rows = measure(
        [item("x", "Tides rise. Tides rise. It is größer.", "  ... ", turns=said)], columns_of(["repeats", "length", "rouge"]), Tools()
    )
    values = rows[0].values
    # of three sentences one repeats the first; with the turn before it two do
    assert values["repeats"] == pytest.approx(1 / 3) and values["repeats_earlier"] == pytest.approx(2 / 3)
    # "tides rise why" and "tides rise tides rise it is größer": 2 of 3 and 7 words are shared, 2 * 2 / 10
    assert values["likeness_earlier"] == pytest.approx(4 / 10)
    assert (values["words"], values["characters"], values["tokens"]) == (7.0, 37.0, None)
    assert "model=NAME" in rows[0].problems["tokens"] and rows[0].problems["rouge1_f1"] == "there is no reference"
    assert set(rows[1].values.values()) == {None} and set(rows[1].problems.values()) == {"the text is empty"}
    alone = measure([item("x", "word")], columns_of(["distinct", "repeats"]), Tools())[0]
    before = "nothing was said before"
    assert alone.problems == {"distinct_2": "it has fewer than 2 words", "repeats_earlier": before, "likeness_earlier": before}


def lengths(*pairs: tuple[int, int], groups: str = "") -> list[Row]:
    items = [
        item(f"p{i}", "w " * one, "w " * two, systems=("long", "short"), group=groups[i] if groups else "")
        for i, (one, two) in enumerate(pairs)
    ]
    return measure(items, columns_of(["length"]), Tools())


def test_means_and_paired_differences_by_hand() -> None:
    """Words 3, 5, 7 against 1, 2, 6: means 5 and 3, differences 2, 3, 1 with the mean 2."""
    rows = lengths((3, 1), (5, 2), (7, 6), groups="tuv")
    systems = labels(rows)
    words = next(one for one in means(rows, systems, columns_of(["length"]), seed=0) if one["name"] == "words")
    assert [(name, one["n"], one["mean"]) for name, one in words["systems"].items()] == [("long", 3, 5.0), ("short", 3, 3.0)]
    (difference,) = words["differences"]
    assert (difference["first"], difference["second"], difference["n"], difference["mean"]) == ("long", "short", 3, 2.0)
    # Three groups with the differences 2, 3 and 1, whose standard deviation is 1: 2 -+ 4.303 (Student's t of two degrees) / sqrt(3)
    assert (difference["low"], difference["high"]) == (pytest.approx(2 - 2.484, abs=0.1), pytest.approx(2 + 2.484, abs=0.1))


def test_groups_of_two_sources_that_are_called_alike_are_two() -> None:
    """Dialogues of two runs have the same names. Of one source all texts have 1 word, of the other 3: six groups of means 1, 1, 1, 3, 3, 3,
    whose standard deviation is sqrt(6 / 5) = 1.095; the mean has an error of 1.095 / sqrt(6) = .447, and Student's t of 5 reaches 2.571 of
    them, 1.15. Put together by their names they would be three groups of mean 2 each, which do not vary at all."""
    rows = [Row(item(f"{source}{g}", "bees " * words, group=f"g{g}").model_copy(update={"source": source}), 0, {"words": float(words)})
            for source, words in (("one", 1), ("two", 3)) for g in range(3)]  # fmt: skip
    (figure,) = means(rows, ["all"] * 6, [column for column in columns_of(["length"]) if column.name == "words"], 0)
    own = figure["systems"]["all"]
    assert (own["n"], own["mean"]) == (6, 2.0)
    assert (own["low"], own["high"]) == (pytest.approx(2 - 1.15, abs=0.1), pytest.approx(2 + 1.15, abs=0.1))


def test_a_pair_of_one_name_is_told_apart_by_place() -> None:
    assert labels(measure([item("x", "a", "b", systems=("m", "m"))], PLAIN, Tools())) == ["first", "second"]
    assert labels(measure([item("x", "a", "b")], PLAIN, Tools())) == ["first", "second"]
    assert labels(measure([item("x", "a"), item("y", "b", systems=("m",))], PLAIN, Tools())) == ["all", "m"]


def test_a_text_that_stands_in_several_pairs_is_one_text() -> None:
    """A base of "tides rise" and "winds blow" beside two versions of a policy, and three texts two by two: twice the same text would be
    half as distinct. Two samples that are alike, each beside one of its own, are two."""
    compared = [item(f"{i}/v{v}", text, "moon pulls", systems=("base", f"v{v}"), group=str(i))
                for v in (1, 2) for i, text in enumerate(("tides rise", "winds blow"))]  # fmt: skip
    said = {"a": "tides rise", "b": "winds blow", "c": "bees dance"}
    three = [item(f"r/{one}-{two}", said[one], said[two], systems=(one, two), group="r") for one, two in ("ab", "ac", "bc")]
    samples = [item(f"s{i}", "tides rise", "winds blow", systems=("base", "v1"), group="s") for i in range(2)]

    def found(items: list[Item]) -> dict[str, tuple[int, float | None]]:
        config = load("metrics", ["source.path=[x]", "measures=[distinct]"])
        values = summed(config, measure(items, columns_of(["distinct"]), Tools()), Plan([], Tools()))
        assert values["items"] == len(items)
        figure = next(one for one in values["together"] if one["name"] == "distinct_1_all")
        return {name: (one["n"], one["mean"]) for name, one in figure["systems"].items()}

    assert found(compared) == {"base": (2, 1.0), "v1": (2, 0.5), "v2": (2, 0.5)}
    assert found(three) == {"a": (1, 1.0), "b": (1, 1.0), "c": (1, 1.0)}
    assert found(samples) == {"base": (2, 0.5), "v1": (2, 0.5)}


def test_perplexity_of_all_texts_weighs_by_tokens() -> None:
    """-6 over 3 tokens, -1 over 1 and -2 over 1: exp(9/5); the mean of the three perplexities would be another number."""
    rows = lengths((1, 1), (2, 2), (3, 3), groups="tuv")[::2]
    for row, counts in zip(rows, ([-6.0, 3, 9], [-1.0, 1, 5], [-2.0, 1, 4]), strict=True):
        row.counts["likelihood"] = counts
    perplexity, by_byte = added(rows, ["all"] * 3, 0, None)
    found = perplexity["systems"]["all"]
    assert found["mean"] == pytest.approx(math.exp(9 / 5)) and by_byte["systems"]["all"]["mean"] == pytest.approx(-9 / 18)
    assert found["low"] < found["mean"] < found["high"] and found["low"] * found["high"] == pytest.approx(found["mean"] ** 2)
    few = added(rows[:2], ["all"] * 2, 0, None)[0]["systems"]["all"]
    assert (few["low"], few["mean"]) == (None, pytest.approx(math.exp(7 / 4)))  # two groups say nothing of others


def test_intervals_of_all_texts_do_not_reach_beyond_what_a_figure_can_be() -> None:
    """Three texts, two of them word for word the reference and one nothing of it; three that are nearly sure, and one that is not."""
    rows = lengths((1, 1), (2, 2), (3, 3), groups="tuv")[::2]
    whole, none = [6.0, 5.0, 4.0, 3.0, 6.0, 5.0, 4.0, 3.0, 6.0, 6.0], [0.0, 0.0, 0.0, 0.0, 6.0, 5.0, 4.0, 3.0, 6.0, 6.0]
    for row, bleu, likely in zip(rows, (whole, whole, none), ([-0.01, 10, 30], [-9.0, 2, 9], [-0.02, 10, 30]), strict=True):
        row.counts |= {"bleu": bleu, "likelihood": likely}
    found = {one["name"]: one["systems"]["all"] for one in added(rows, ["all"] * 3, 0, Bleu().pooled)}
    assert (found["bleu_all"]["low"], found["bleu_all"]["high"]) == (0.0, 100.0) and found["logp_byte_all"]["high"] == 0.0
    assert found["perplexity_all"]["low"] == 1.0


def test_bleu_has_slopes_by_which_draws_that_are_alike_by_luck_have_an_interval() -> None:
    bleu, counts = Bleu(), [6.0, 4.0, 2.0, 0.0, 7.0, 6.0, 5.0, 4.0, 7.0, 6.0]
    assert bleu.pooled([6.001, *counts[1:]]) > bleu.pooled(counts) == bleu.pooled([*counts[:3], -1e-14, *counts[4:]])
    # Texts of two kinds, as many of each in every group: nothing varies by group, and the interval is half that of independent texts.
    rows = lengths(*[(1, 1)] * 6, groups="ttuuvv")[::2]
    for i, row in enumerate(rows):
        row.counts["bleu"] = counts if i % 2 else [2.0, 1.0, 0.0, 0.0, 7.0, 6.0, 5.0, 4.0, 7.0, 6.0]
    (found,) = added(rows, ["all"] * 6, 0, bleu.pooled)
    assert found["systems"]["all"]["high"] - found["systems"]["all"]["low"] > 10


@pytest.mark.parametrize(
    ("groups", "says"),
    [(1, "one group (dialogue or topic): no"), (2, "only 2 groups (dialogues or topics): no interval"), (3, "the intervals are wide")],
)
def test_what_few_groups_say(groups: int, says: str) -> None:
    rows = lengths((1, 1), (2, 2), (3, 3), groups="tuv")
    assert any(says in note for note in _notes(rows, labels(rows), groups))


def test_similarity_is_the_cosine_of_the_embedder() -> None:
    one = item("x", "moon sea", reference="moon sea", topic="moon")
    found = measure([one], columns_of(["similarity"]), Tools(embedder=BagOfWords()))[0]
    # (1, 1) / sqrt(2) against itself, and against (1, 0): 1 / sqrt(2)
    assert found.values == pytest.approx({"similarity_reference": 1.0, "similarity_context": 1 / math.sqrt(2)})


def test_the_embedder_follows_who_wrote_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded one measures the texts of embedded models alone. What is chosen by itself is not fetched."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = load("metrics", ["source.path=[x]"]).embedder
    own, which = find_embedder(config, ["embedded:llama v2", "embedded:mixtral"])
    assert own is not None and which == "embedder: embedded:embedder"
    for systems in (["embedded:llama", "gpt"], [None], []):
        found, why = find_embedder(config, systems)
        assert (found is None and "all-mpnet-base-v2" in why) or (found is not None and "mpnet" in found.name)


# -- likelihoods ----------------------------------------------------------------------------------------------------------


@lru_cache
def llama() -> Any:
    return load("metrics", ["model=embedded_llama"]).model


@pytest.fixture(scope="module")
def backend() -> LocalBackend:
    return load_model(llama(), 0)


def plain(prompt: Sequence[int], reply: Sequence[int]) -> float:
    """The sum of the reply's log-probabilities by transformers' own loss, its mean a token where labels are not -100."""
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED / "llama")
    labels_1_T = torch.tensor([[*(-100 for _ in prompt), *reply]])
    with torch.inference_mode():
        loss = model(torch.tensor([[*prompt, *reply]]), labels=labels_1_T).loss
    return -float(loss) * len(reply)


TURNS = [Turn(speaker="b", text="Let us talk about tides. What do you know about the sun?"), Turn(speaker="a", text="The sun pulls too.")]
SAID = "Tides from the sun are about half as strong as lunar tides."


def test_likelihoods_are_those_of_a_plain_pass_masked_to_the_reply(backend: LocalBackend) -> None:
    one = item("x", SAID, topic="tides", turns=TURNS[:1])
    for context in ("view", "chat"):
        tool = Likelihoods(backend, llama(), context)
        (found,) = tool.score([(one, SAID)])
        messages = tool._messages(one, one.turns)
        prompt, reply = backend.renderer.answered(messages), backend.renderer.reply(messages, Message("assistant", SAID), end=False)
        assert found.logp == pytest.approx(plain(prompt, reply), abs=1e-3) and found.tokens == len(reply) and found.size == len(SAID)
    assert Likelihoods(backend, llama()).context == "view"


def test_a_whole_dialogue_is_scored_turn_by_turn_and_batches_change_nothing(backend: LocalBackend) -> None:
    tool = Likelihoods(backend, llama())
    turns = [*TURNS, Turn(speaker="b", text="I agree."), Turn(speaker="a", text=SAID)]
    whole = item("w", f"{TURNS[1].text} {SAID}", topic="tides", turns=turns, whole=True)
    parts = [item("x", TURNS[1].text, topic="tides", turns=turns[:1]), item("y", SAID, topic="tides", turns=turns[:3])]
    asked = [(one, one.texts[0].text) for one in (whole, *parts)]
    found = tool.score(asked)
    assert found[0].logp == pytest.approx((found[1].logp or 0) + (found[2].logp or 0), abs=1e-3)
    assert found[0].size == found[1].size + found[2].size
    for one, alone in zip(asked, found, strict=True):
        assert tool.score([one])[0].logp == pytest.approx(alone.logp, abs=1e-3)


def test_long_texts_go_through_in_parts_and_too_long_ones_not_at_all(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    tool, one = Likelihoods(backend, llama()), item("x", SAID, topic="tides", turns=TURNS)
    (whole,) = tool.score([(one, SAID)])
    monkeypatch.setattr("expertchat.metrics.likely.CHUNK", 4)
    assert tool.score([(one, SAID)])[0].logp == pytest.approx(whole.logp, abs=1e-3)
    holds = backend.info.context_length
    many = item("y", SAID, topic="tides", turns=TURNS * (holds // 16))
    (cut,) = tool.score([(many, SAID)])
    assert cut.logp is not None and "oldest turns not shown: context full" in (cut.note or "")
    (none,) = tool.score([(one, SAID * (holds // 10))])
    assert none.logp is None and f"holds {holds}" in (none.problem or "")


def test_what_a_killed_command_has_computed_is_not_computed_again(backend: LocalBackend, tmp_path: Path) -> None:
    asked = [(item(name, SAID, topic=topic, turns=TURNS), SAID) for name, topic in (("x", "tides"), ("y", "the sun"))]
    path = tmp_path / "rows.jsonl.part"
    first = Likelihoods(backend, llama(), kept=Kept(path, llama()))
    alone = first.score(asked[:1])
    path.write_text(path.read_text() + '{"key": "torn')  # kill -9 while a line was written
    again = Likelihoods(backend, llama(), kept=Kept(path, llama()))
    computed: list[int] = []
    again._compute = lambda requests: computed.append(len(requests)) or first._compute(requests)  # type: ignore[func-returns-value,method-assign]
    assert again.score(asked)[0].logp == alone[0].logp and computed == [1]
    assert Kept(path, llama().model_copy(update={"dtype": "bf16"}))._key(((1,), [(2,)])) != again.kept._key(((1,), [(2,)]))


def test_a_text_that_nothing_stands_before_is_read_alone(backend: LocalBackend) -> None:
    (found,) = Likelihoods(backend, llama(), "none").score([(item("x", SAID), SAID)])
    ids = backend.tokenizer(SAID)["input_ids"]
    assert found.logp == pytest.approx(plain(ids[:1], ids[1:]), abs=1e-3) and found.tokens == len(ids) - 1
    assert found.size == len(SAID) - len(backend.tokenizer.decode(ids[:1], skip_special_tokens=True))


# -- the command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Pairs of two systems with references, in three groups; one text is empty, one reference is lacking."""
    rows = [
        item("p0", FOUND, UNDER, systems=("one", "two"), reference=UNDER, group="g0", turns=TURNS, topic="cats"),
        item("p1", "Tides rise twice.", "Tides are größer.", systems=("one", "two"), reference="Tides rise.", group="g1", topic="tides"),
        item("p2", "", "Wax | is soft.", systems=("one", "two"), group="g2", topic="bees"),
    ]
    folder = tmp_path / "items"
    folder.mkdir()
    (folder / "items.jsonl").write_text("".join(f"{row.to_json()}\n" for row in rows))
    return folder


def measured(source: Path, *words: str) -> int:
    """What the command does, without the command line."""
    config = load("metrics", [f"source.path=['{source}']", *words])
    return run_metrics(config, read_items(config.source), print_metrics, markdown)


def test_the_command_writes_a_row_a_text_and_a_figure_a_system(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, table, figures, paper = (source / name for name in ("rows.jsonl", "table.csv", "figures.json", "table.md"))
    words = ["metrics", str(source), "model=embedded:llama", "measures=[rouge, bleu, chrf, likelihood, length]", f"rows={rows}"]
    assert cli.main([*words, f"out={figures}"]) == 0 and not (source / "rows.jsonl.part").exists()
    shown = capsys.readouterr().out
    kept = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [(row["item"], row["system"]) for row in kept] == [(f"p{i}", name) for i in range(3) for name in ("one", "two")]
    assert kept[0]["rouge1_precision"] == pytest.approx(6 / 7) and kept[0]["rouge2_precision"] == pytest.approx(4 / 6)
    assert all(kept[0][name] is not None for name in ("bleu", "chrf", "perplexity", "tokens"))
    assert kept[4]["perplexity"] is None and kept[4]["problems"]["perplexity"] == "the text is empty"
    assert kept[5]["rouge1_f1"] is None and kept[5]["problems"]["rouge1_f1"] == "there is no reference"
    values = json.loads(figures.read_text())
    assert values["systems"] == ["one", "two"] and (values["items"], values["texts"], values["groups"]) == (3, 6, 3)
    perplexity = next(one for one in values["means"] if one["name"] == "perplexity")
    assert perplexity["systems"]["one"]["n"] == 2 and perplexity["differences"][0]["n"] == 2
    assert "bleu: nrefs:1|" in shown and "one - two" in shown and "1 of 6 texts are empty" in shown and "only 3 groups" in shown
    assert measured(source, "measures=[length]", f"rows={source / 'rows.csv'}", f"out={table}") == 0
    kept_csv = list(csv.DictReader(io.StringIO((source / "rows.csv").read_text())))
    assert kept_csv[4]["words"] == "" and "words: the text is empty" in kept_csv[4]["problems"] and kept_csv[0]["words"] == "7.0"
    lines = list(csv.DictReader(io.StringIO(table.read_text())))
    assert {(line["system"], line["minus"]) for line in lines} == {("one", ""), ("two", ""), ("one", "two")}
    assert measured(source, "measures=[length, rouge]", f"out={paper}") == 0
    assert paper.read_text().startswith("| measure | texts | one | two | one - two |\n")


def test_without_references_or_a_model_it_says_what_is_left_out(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "items.jsonl").write_text(item("x", "Tides rise.", topic="tides").to_json() + "\n")
    assert measured(source) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "left out, there is no reference: ROUGE, BLEU, chrF and similarity to the reference; a column of references: reference=COLUMN"
        in shown
    )
    assert "left out, no model is named: log-likelihood and perplexity; any model: model=NAME" in shown
    assert "no interval can be given" in shown and "nothing was said before" in shown
    (source / "items.jsonl").write_text(item("x", " ").to_json() + "\n")
    assert measured(source, "measures=[length]") == 1


def test_wrong_words_are_one_message(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["metrics", str(source / "nowhere"), "rows=rows.txt", "out=table.xls", "model=/no/such/model", "measures=[rouge, rogue]"]
    assert cli.main(words) == 2
    told = capsys.readouterr().err
    for part in ("nowhere: no such file or folder", "rows: must end in .csv, .jsonl, but is 'rows.txt'", "out: must end in", "rogue"):
        assert part in told
    assert "model.path=/no/such/model: no such folder" in told and "Traceback" not in told


def test_an_embedder_behind_an_address_is_not_passed_over(source: Path) -> None:
    """Similarities by another embedder than the one that was named would be taken for those of that one."""
    found = [
        list(check(load("metrics", [f"source.path=['{source}']", "embedder=server", *more]), True))
        for more in (("measures=[similarity]",), ("measures=[length]",))
    ]
    assert [len(problems) for problems in found] == [1, 0] and str(found[0][0]).startswith("embedder.backend=server: similarities")


def test_a_missing_package_is_one_message(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertchat.metrics.overlap.find_spec", lambda name: None)
    config = load("metrics", [f"source.path=['{source}']", "measures=[rouge, bleu, chrf, length]"])
    with pytest.raises(ConfigError) as told:
        run_metrics(config, [item("x", "a", reference="a")], print_metrics, markdown)
    assert told.value.problems == [
        'measures: rouge needs the package rouge-score: pip install "expertchat[lab]", or leave it out',
        'measures: bleu and chrf need the package sacrebleu: pip install "expertchat[lab]", or leave it out',
    ]
    assert run_metrics(config, [item("x", "a")], lambda values: None, markdown) == 0  # without references none of them is needed


def test_the_drawing_is_harmless(source: Path) -> None:
    values: dict[str, Any] = {}
    config = load("metrics", [f"source.path=['{source}']", "measures=[length]"])
    evil = item("x", "a b", "c", systems=("\x1b[2Jevil|[red]", "two"))
    run_metrics(config, [evil], values.update, markdown)
    out = io.StringIO()
    print_metrics(values, out)
    assert "\x1b" not in out.getvalue() + markdown(values) and "[red]" in out.getvalue() and "evil\\|\\[red\\]" in markdown(values)
