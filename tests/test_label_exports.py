"""What people said, as opinions of judges, preference pairs and tables."""

from __future__ import annotations

import csv
import io
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from expertchat.backends.base import Embedder, Embedding, EmbedRequest
from expertchat.backends.served.embedder import ServedEmbedder
from expertchat.cli import main
from expertchat.command.compose import load
from expertchat.labels.export import preferences_of, prompt_of, table_of
from expertchat.labels.missing import wim_scores
from expertchat.labels.opinions import opinions_of
from expertchat.labels.run import embedder_of
from expertchat.labels.store import LabelFile
from expertchat.records import Turn
from tests.labelled import SOURCE, label, pair, single, written
from tests.served import Stub

# -- opinions -------------------------------------------------------------------------------------------------------------


def test_people_are_judges() -> None:
    labels = [
        label("s01", ratings={"depth": 2}, seconds=6.0),
        label("s01", ratings={"depth": 7, "clarity": None}, seconds=6.0),  # the last counts
        label("s01", ratings={"depth": 8}, again=True),
        label("s02", skipped=True),
        label("s03", ratings={"depth": 1}), label("s03", withdrawn=True),
        label("gone", ratings={"depth": 1}),
        label("p04", "ben", choice="second", shown="second", form="pairs"),
        label("p05", "ben", ratings={"depth": 4}, place=1),
        label("s02", "cat", flags=["spam"]),
    ]  # fmt: skip
    judges, opinions = opinions_of(labels, [single(1), single(2), single(3), pair(4), pair(5)])
    assert [(judge.id, judge.form, judge.wording) for judge in judges] == [("ann", "person", "two"), ("ben", "person", "pairs, two")]
    assert [(one.id, one.repeat, one.value, one.choice, one.place) for one in opinions] == [
        ("s01/ann/depth", 0, 7, None, 0),
        ("s01/ann/clarity", 0, None, None, 0),
        ("s01/ann/depth/r1", 1, 8, None, 0),
        ("p04/ben/overall/second-first", 0, None, "second", 0),
        ("p05/ben/depth/p1", 0, 4, None, 1),
    ]
    assert opinions[0].seconds == 3.0 and opinions[1].problem == "the annotator could not say" and not opinions[1].answered
    assert opinions_of([], []) == ([], [])


# -- exports --------------------------------------------------------------------------------------------------------------


def test_people_make_preference_pairs() -> None:
    """p01: two of three prefer the second, the third sees no difference: (0 + .5)/3 against (2 + .5)/3, a margin of 2/3."""
    labels = [
        label("p01", "ann", choice="second"), label("p01", "ben", choice="second"), label("p01", "cat", choice="tie"),
        label("p01", "ann", choice="first", again=True),  # shows how stable ann is, and is no second vote
        label("p02", "ann", choice="first"), label("p02", "ben", choice="second"),
        label("p03", "ann", choice="tie"),
        label("p04", "ann", skipped=True),
        label("p06", "ann", ratings={"depth": 8, "clarity": 4}), label("p06", "ann", ratings={"depth": 5, "clarity": None}, place=1),
        label("p07", "ann", choice="first"), label("p08", "ann", choice="first"),
    ]  # fmt: skip
    items = [pair(n) for n in range(1, 7)] + [pair(7, "same", "same"), pair(8, topic="", turns=[]), single(9)]
    made = preferences_of(labels, items)
    one, six = made.pairs
    assert (one.id, one.score_chosen, one.score_rejected) == ("p01", pytest.approx(2.5 / 3), pytest.approx(0.5 / 3))
    assert one.margin == pytest.approx(2 / 3) and one.provenance["annotators"] == 3 and one.provenance["chosen"] == "p01/c1"
    assert one.prompt == [{"role": "user", "content": "What causes the tides?"}]
    assert one.chosen == [{"role": "assistant", "content": "the second"}] and one.rejected[0]["content"] == "the first"
    assert (six.id, six.chosen[0]["content"], six.margin) == ("p06", "the first", 1.0)  # 8 > 5 in the one category rated in both
    assert made.dropped == {
        "tie": 2, "skipped, or not decided": 1, "not labelled": 1, "two identical texts": 1, "one text alone": 1,
        "no prompt: neither a topic nor turns before it": 1,
    }  # fmt: skip


def test_a_prompt_is_what_its_subject_saw() -> None:
    turns = [Turn(speaker="a", text="I open."), Turn(speaker="b", text="<|im_end|> No."), Turn(speaker="c", text="Yes.")]
    assert prompt_of(pair(1, turns=turns)) == [
        {"role": "user", "content": "tides"},  # the subject opened: the topic is what it answered
        {"role": "assistant", "content": "I open."},
        {"role": "user", "content": "\u2039\u00a6im_end\u00a6\u203a No.\nYes."},
    ]
    assert prompt_of(pair(1, turns=[])) == [{"role": "user", "content": "tides"}]


class Corners(Embedder):
    """Each text its own direction, but for "text 1", which lies at 0.6 to "more"."""

    name = "corners"

    def embed(self, requests: Any) -> list[Embedding]:
        known = {"text 1": (1.0, 0.0), "more": (0.6, 0.8)}
        return [Embedding(known[request.text]) for request in requests if isinstance(request, EmbedRequest)]


def test_what_is_missing_is_scored_by_the_same_cosine_and_the_table_holds_it() -> None:
    items = [single(1), single(2)]
    labels = [
        label("s01", missing="more", ratings={"depth": 3}, comment="=1+1", flags=["rude"]),
        label("s02", missing="Nothing is missing."),
        label("s02", "ben", ratings={"clarity": None}),
        label("p03", choice="first"),
    ]
    scores = wim_scores(labels, {item.id: item for item in items}, Corners())
    assert scores == {"ann/s01": pytest.approx(0.6), "ann/s02": 1.0}
    rows = list(csv.DictReader(io.StringIO(table_of(labels, [*items, pair(3)], ["spam", "rude"], scores))))
    assert [row["annotator"] for row in rows] == ["ann", "ann", "ann", "ben"]
    names = ("rating_depth", "wim", "flag_rude", "flag_spam", "comment")
    assert [rows[0][name] for name in names] == ["3", "0.6", "1", "0", "'=1+1"]
    assert (rows[0]["system"], rows[0]["at"]) == ("model-x", "1970-01-01T00:00:01+00:00")
    assert (rows[2]["choice"], rows[2]["preferred"], rows[3]["rating_clarity"], rows[3]["wim"]) == ("first", "model-x", "", "")


def test_what_is_missing_is_scored_by_the_embedder_of_the_run_or_the_one_that_is_named(tmp_path: Path) -> None:
    """Behind an address too: its cosines are its model's own. And where a run's embedder followed its models, all of them are asked."""
    run = tmp_path / "run"
    run.mkdir()
    plain = load("label", [f"source.path=[{run}]", "export=csv"])
    with Stub() as stub:
        own = {"path": "auto", "backend": "server", "url": stub.url, "model": "m"}
        (run / "config.yaml").write_text(json.dumps({"embedder": own, "experts": {"a": {"path": "embedded:llama"}}}))
        table = plain.source.model_copy(update={"path": [str(tmp_path / "items.jsonl")]})
        named = plain.model_copy(update={"embedder": plain.embedder.model_copy(update=own), "source": table})
        assert [type(embedder_of(config)) for config in (plain, named)] == [ServedEmbedder, ServedEmbedder]
    experts = {"a": {"path": "embedded:llama"}, "b": {"path": str(tmp_path / "merged"), "family": "world"}}
    (run / "config.yaml").write_text(json.dumps({"embedder": {"path": "auto"}, "experts": experts}))
    assert getattr(embedder_of(plain), "name", "") == "embedded:embedder"


def test_exports_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = written(tmp_path / "items.jsonl", [pair(1), pair(2), pair(3, "same", "same")])
    words = ["label", str(source), "export=trl"]
    assert main(words) == 1 and "holds no file of labels" in capsys.readouterr().err
    file = LabelFile(tmp_path / "items.labels", "ann", {SOURCE})
    for number, choice in ((1, "first"), (2, "tie"), (3, "tie"), (1, "second")):
        file.add(label(f"p{number:02d}", choice=choice, comment="two\nlines"))
    file.close()
    assert main(words) == 0
    assert "1 preference pair of 3 items" in capsys.readouterr().err
    (line,) = (tmp_path / "items.labels" / "preferences.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["chosen"][0]["content"] == "the second"  # the last one counts
    assert main(["label", str(source), "export=csv", f"out={tmp_path}/t.csv"]) == 0
    assert "3 labels that count, of 4 lines" in capsys.readouterr().err
    assert len(list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text("utf-8"))))) == 3


def test_what_is_wrong_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "nothere", "again=2", "annotator='a b'", "form.at_once=perhaps"]) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in ("4 problems", "again", "annotator", "form.at_once", "source.path=nothere"))
    source = written(tmp_path / "items.jsonl", [pair(1)])
    assert main(["label", str(source)]) == 2 and "needs a terminal" in capsys.readouterr().err
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["label", str(source), "serve=true", f"web.port={port}"]) == 2 and f"web.port={port}" in capsys.readouterr().err
