"""`expertchat sft`: a model is taught by rows of prompts and completions; perplexity and samples of held-out rows before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple, TypeVar

from expertchat.backends.base import Decoding, GenerateRequest
from expertchat.backends.likelihood import likelihoods
from expertchat.backends.local import LocalBackend
from expertchat.folder.jsonl import read_records
from expertchat.folder.reader import RunReader
from expertchat.records import Demonstration, Figure, Message, Sample
from expertchat.sources.demonstrations import read_demonstrations, shared
from expertchat.sources.instructions import find_template
from expertchat.sources.wording import Wording
from expertchat.text.sentences import shown_path
from expertchat.training.encoded import Checked, Encoded, Encoder, checked
from expertchat.training.method import Rows
from expertchat.training.offline import Offline
from expertchat.training.offline_card import offline_card
from expertchat.training.offline_config import SEAT
from expertchat.training.sft_config import SftConfig

T = TypeVar("T")
LOSSES = 200  # of the curve in the summary; steps.jsonl has all
NAMED = "prompt"  # the beginning of the ids of prompts that the config names


class _Wanted(NamedTuple):
    """A sample that is to be written."""

    id: str
    way: str
    row: Demonstration
    prompt: list[int]
    wanted: str | None


class SftRun(Offline[SftConfig]):
    """One run of `expertchat sft`."""

    command = "sft"
    figure, higher = "perplexity", False
    compared = False

    def read(self) -> None:
        """The rows of the files, or those that an earlier start has kept."""
        config = self.config
        self.given = self.as_kept(
            "demonstrations", Demonstration, lambda: read_demonstrations(config.data, config.run.seed, self.hub.say)
        )

    def prepare(self) -> None:
        backend, train = self.learner.backend, self.config.train
        most = min(train.max_tokens or backend.info.context_length, backend.info.context_length)
        encoder = Encoder(backend.renderer, backend.tokenizer, most)
        found = checked(self.given, encoder, self.config.data.cut == "cut")
        self.rows_found, self.held, self.choosing = found, found.part("evaluation"), found.part("choosing")
        if self.choosing:
            self.figure = "choosing_perplexity"
        self.epoch = [{"prompt_ids": one.prompt, "completion_ids": one.completion} for one in found.part("train")]
        for warning in warnings_of(self.given, found):
            self.warn(warning)
        self.wanted = self._wanted(encoder)

    def keep(self) -> None:
        self.keep_rows("demonstrations", self.given)

    def rows(self, number: int) -> Rows:
        return Rows(shown=self.part(self.epoch, number))

    def measured(self, number: int, final: bool) -> dict[str, Figure] | None:
        """How likely the held-out completions are, and what is written after some of their prompts."""
        with self.together():
            mine, others = (self._scored(self.ranks.mine(rows)) for rows in (self.held, self.choosing))
            samples = self._written(self.ranks.mine(self.wanted))
        sums, written, chosen = self.ranks.gather(mine), self.ranks.gather(samples), self.ranks.gather(others)
        if self.stop():
            return None
        self.keep_evaluation("samples", number, final, written)
        figures = perplexities(sums) | of_samples(written)
        if self.choosing:
            figures |= {"choosing_perplexity": perplexities(chosen)["perplexity"], "choosing": len(chosen)}
        if (base := self.store.metrics.get(f"evaluation-{SEAT}-0000")) is not None:
            figures |= {f"{name}_base": base.figures.get(name) for name in ("perplexity", "perplexity_byte", "exact")}
        return figures

    def _scored(self, rows: Sequence[Encoded]) -> list[Scored]:
        """How likely the completions of rows are."""
        found = likelihoods(self.learner.policy, [(tuple(one.prompt), [tuple(one.completion)]) for one in rows])
        return [
            Scored(likely[0].logp, len(one.completion), len(one.row.completion[0]["content"].encode()))
            for likely, one in zip(found, rows, strict=True)
        ]

    def nothing(self) -> str:
        if any(m.figures.get("skipped") for m in self.store.metrics.values()):
            return "no step was made: each one's loss or gradient was not finite; lower train.learning_rate, or set model.dtype=fp32"
        return f"no round had {self.ranks.world} rows or more, one for each process"

    def card(self) -> str:
        return offline_card(self.config, self.store.folder, self._about(), self._settings())

    def more(self) -> dict[str, object]:
        counts = self._counts()
        samples: dict[str, Any] = {"before": self._samples(0)}
        if self.learner.version:
            samples["after"] = self._samples(self.store.last, "-final")
        losses = [step.loss for step in RunReader(self.store.folder).steps()]
        known = {"rows": counts, "chosen_by": self.figure, "too_long": len(self.rows_found.too_long)}
        return {**known, "losses": thinned(losses), "samples": samples}

    def _about(self) -> str:
        """What the card says of the training."""
        words = {"chat": "the model's own chat template", "none": "prompts as they stand"}
        template = words.get(self.config.data.template, f"the template {shown_path(self.config.data.template)}")
        return (
            "trained by supervised fine-tuning with [TRL](https://github.com/huggingface/trl)'s SFT trainer in ExpertChat: the loss is "
            f"that of the completions alone, after {template}."
        )

    def _settings(self) -> dict[str, str]:
        """What of the config the card tells besides."""
        counts, data = self._counts(), self.config.data
        files = ", ".join(map(shown_path, data.path))
        to_choose = f"{counts['choosing']} to choose the round by, " if self.choosing else ""
        return {
            "rows": f"{counts['train']} to train on, {to_choose}{counts['evaluation']} held out, from {files}",
            "weights of": self._chosen_by(),
            "prompts": f"template {shown_path(data.template)}",
            "loss": f"{self.config.train.loss}, mean over the trained tokens of a step",
        }

    def _chosen_by(self) -> str:
        if not self.config.evaluation.keep_best or not (self.choosing or self.held):
            return "the last round"
        by = "to choose by" if self.choosing else "held out, which flatters it a little"
        return f"the best round, by its perplexity on the rows {by}"

    def _counts(self) -> dict[str, int]:
        parts = ("train", "choosing", "evaluation") if self.choosing else ("train", "evaluation")
        return {part: len(self.rows_found.part(part)) for part in parts}

    # -- samples ----------------------------------------------------------------------------------------------------

    def _wanted(self, encoder: Encoder) -> list[_Wanted]:
        """The prompts of some held-out rows (of trained ones where none are held out), those that the config names, in each way."""
        evaluation = self.config.evaluation
        rows = spread(self.held or self.rows_found.part("train"), evaluation.samples)
        shown = [(one.row, one.prompt, one.row.completion[0]["content"]) for one in rows]
        named = [self._named(i, text) for i, text in enumerate(evaluation.prompts)]
        shown += [(row, encoder.encode(row).prompt, None) for row in named]  # type: ignore[misc]
        return [_Wanted(f"{row.id}/{way}", way, row, prompt, wanted) for way in evaluation.ways for row, prompt, wanted in shown]

    def _named(self, at: int, text: str) -> Demonstration:
        """A prompt of the config as a row, worded as the rows are."""
        wording = Wording(find_template(self.config.data.template), self.config.data)
        return wording.row(f"{NAMED}{at}", text, "", "?", source="evaluation.prompts", ends="\n")

    def _written(self, wanted: Sequence[_Wanted]) -> list[Sample]:
        """What the model writes now."""
        evaluation = self.config.evaluation
        decodings = {
            "greedy": Decoding(method="greedy", max_new_tokens=evaluation.tokens),
            "sampled": Decoding(method="sampling", max_new_tokens=evaluation.tokens, temperature=evaluation.temperature,
                                top_p=evaluation.top_p),
        }  # fmt: skip
        backend = with_prompts(self.learner.policy, {one.id: one.prompt for one in wanted})
        replies = backend.generate([GenerateRequest(one.id, (Message("user", one.id),), decodings[one.way]) for one in wanted])
        return [
            Sample(id=one.id, prompt=one.row.prompt, rendered=one.row.rendered, way=one.way, text=reply.text, wanted=one.wanted,
                   tokens=reply.tokens, ended=reply.finish == "stop", policy_version=self.learner.version)
            for one, reply in zip(wanted, replies, strict=True)
        ]  # fmt: skip

    def _samples(self, number: int, end: str = "") -> list[dict[str, Any]]:
        """The samples of an evaluation, as the summary has them."""
        path = self.store.folder / "evaluations" / f"samples-{number:04d}{end}.jsonl"
        found = read_records(path, Sample, "remove it") if path.is_file() else ()
        return [
            {"id": one.id, "way": one.way, "prompt": one.prompt[-1]["content"], "text": one.text, "wanted": one.wanted} for one in found
        ]


class AsGiven:
    """A renderer for prompts that are token ids already: the text of a chat's only message is the name of one."""

    def __init__(self, renderer: Any, prompts: Mapping[str, list[int]]) -> None:
        self._renderer, self._prompts = renderer, prompts

    def encode(self, messages: Sequence[Message], prefix: str = "") -> list[int]:
        """The tokens of the prompt that is named."""
        return list(self._prompts[messages[0].content])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._renderer, name)


def with_prompts(backend: LocalBackend, prompts: Mapping[str, list[int]]) -> LocalBackend:
    """The same backend, to be asked for what follows these tokens by their names."""
    found = copy(backend)
    found.renderer = AsGiven(backend.renderer, prompts)  # type: ignore[assignment]
    return found


def thinned(values: Sequence[float | None], most: int = LOSSES) -> list[float | None]:
    """At most `most` values, each the mean of an equal share of them.

    >>> thinned([4.0, 2.0, 1.0, None], 2)
    [3.0, 1.0]
    """
    count = min(most, len(values))
    shares = [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]
    known = [[value for value in share if value is not None] for share in shares]
    return [sum(share) / len(share) if share else None for share in known]


def spread(rows: Sequence[T], count: int) -> list[T]:
    """At most `count` of the rows, evenly spread over them.

    >>> spread([0, 1, 2, 3, 4, 5], 3)
    [0, 2, 4]
    """
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


# -- figures --------------------------------------------------------------------------------------------------------------


class Scored(NamedTuple):
    """Of one completion: the sum of its tokens' log probabilities (nats), its tokens and its bytes (of its text, UTF-8)."""

    logp: float
    tokens: int
    size: int


def perplexities(found: Sequence[Scored]) -> dict[str, Figure]:
    """Perplexity a token and a byte over all completions, their end tokens among them. None where there are none, or a number is broken.

    >>> perplexities([Scored(-2 * math.log(2), 2, 4), Scored(-2 * math.log(8), 2, 4)])["perplexity"]  # exp(8 log 2 / 4) = 2^2
    4.0
    """
    tokens, size = sum(one.tokens for one in found), sum(one.size for one in found)
    total = sum(one.logp for one in found)
    counts: dict[str, Figure] = {"held_out": len(found), "held_out_tokens": tokens, "held_out_bytes": size}
    if not tokens or not size or not math.isfinite(total):
        return {"perplexity": None, "perplexity_byte": None, **counts}
    return {"perplexity": _exp(-total / tokens), "perplexity_byte": _exp(-total / size), **counts}


def _exp(value: float) -> float | None:
    return math.exp(value) if value < 700 else None


def of_samples(written: Sequence[Sample]) -> dict[str, Figure]:
    """How many of the greedy samples are word by word what the rows have (`exact` of `exact_n`), and how long they are."""
    known = [one for one in written if one.way == "greedy" and one.wanted is not None]
    exact = sum(one.text.strip() == (one.wanted or "").strip() for one in known)
    length = sum(one.tokens for one in written) / len(written) if written else None
    return {"exact": exact / len(known) if known else None, "exact_n": len(known), "length": length}


def warnings_of(rows: Sequence[Demonstration], found: Checked) -> list[str]:
    """What is to be said of the rows before they are trained on."""
    said = [*found.warnings, *shared(rows).told()]
    if not found.part("evaluation"):
        said.append("no row is held out, so there is no perplexity, and the last round is kept: see data.share and data.evaluation")
    return said
