"""The model card of what a run has trained: README.md of the adapter's folder, every figure read from the run's own files."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from expertchat.backends.folders import is_hub_id, resolve_path
from expertchat.backends.gguf import is_gguf
from expertchat.backends.learnt import trained_name
from expertchat.backends.packaged import PREFIX
from expertchat.config import ConfigError, ModelConfig
from expertchat.folder.reader import RunReader
from expertchat.preferences.config import RewardConfig
from expertchat.records import Metrics, Speaker
from expertchat.text.sentences import listed, shown_path
from expertchat.trackers.tracking import FINAL
from expertchat.training.config import OnlineConfig, OnlineDpoConfig, PolicyGradientTrain, UpdateConfig

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes for --max-lora-rank
MOST = 12  # evaluations that are shown
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
PAPERS = {  # of a training method, and of what is the same with all
    "dpo": {"DPO": "2305.18290", "online DPO": "2402.04792"}, "rloo": {"RLOO": "2402.14740"}, "grpo": {"GRPO": "2402.03300"},
}  # fmt: skip
WIM = {"WIM": "2603.04429"}


def model_card(config: OnlineConfig, run_folder: Path, learner: Speaker | None = None) -> str:
    """The card of the adapter of `learner` (None: of the one that learns, or of the first). Raises ConfigError for broken metrics.jsonl."""
    seat = learner or config.learners[0]
    model = config.experts[seat]
    mine = [m for m in RunReader(run_folder).metrics() if m.learner == seat]
    lora, dpo, name = config.train.method == "lora", config.train.update == "dpo", config.train.update
    front = {
        **base_model(model.path),
        "library_name": "peft" if lora else "transformers",
        "pipeline_tag": "text-generation",
        "tags": [*(["dpo"] if dpo else [name]), "expertchat", *(["lora"] if lora else []), *(["online-dpo", "trl"] if dpo else [])],
    }
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {shown_path(model.path)}, trained by {'online DPO' if dpo else name.upper()}\n\n{_about(config, lora)}",
        "## Against its base\n\n" + _evaluations([m for m in mine if m.kind == "evaluation"]),
        "## The run\n\n" + _rounds([m for m in mine if m.kind == "round"]),
        "## Config\n\n" + table(["", ""], _settings(config, model, seat)),
        "## How to use it\n\n" + how_to_use(config.train, model),
    ]
    return "\n\n".join(parts) + "\n"


def merged_card(base: str, source: Path, dtype: str) -> str:
    """The card of a merged model; what `source`'s own card says of its run is taken over."""
    card = source / "README.md"
    body = card.read_text("utf-8") if card.is_file() else ""
    front = {**base_model(base), "library_name": "transformers", "pipeline_tag": "text-generation", "tags": _methods(body)}
    text = (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {shown_path(base)}, merged\n\n"
        f"{shown_path(base)} with the weights that a run of ExpertChat has trained worked in, in {dtype}. It is loaded like its base.\n"
    )
    start, end = body.find("## Against its base"), body.find("## How to use it")
    return text + (f"\n{body[start:end].rstrip()}\n" if 0 <= start < end else "")


def _methods(card: str) -> list[str]:
    """The tags of a merged model: the methods that the card of what was merged has."""
    try:
        front = yaml.safe_load(card.split("---")[1]) if card.startswith("---") else {}
    except yaml.YAMLError:
        front = {}
    tags = front.get("tags") if isinstance(front, dict) else None
    kept = [str(tag) for tag in tags if tag not in ("lora", "trl", "online-dpo")] if isinstance(tags, list) else []
    return kept or ["expertchat"]


def base_model(path: str) -> dict[str, str]:
    """base_model for the front matter, where the hub can know it: it refuses the names of folders."""
    return {"base_model": path} if is_hub_id(path) else {}


def _about(config: OnlineConfig, lora: bool) -> str:
    several = len(config.experts.seats) > 2
    experts = NUMBERS.get(len(config.experts.seats), str(len(config.experts.seats)))
    names = {
        "partner": "every partner" if several else "the partner",
        "partner_reference": ("every" if several else "the") + " partner as it was before training", "self": "the speaker itself",
        "moving": "the speaker itself", "reference": "the speaker as it was before training", "third": "a third model",
        "reward_model": "a reward model",
    }  # fmt: skip
    judge, several_judge = listed([names[one] for one in config.judging.judges]), len(config.judging.judges) > 1
    rates = "rate several replies to the same history and say" if several_judge else "rates several replies to the same history and says"
    made = "LoRA adapter" if lora else "set of weights"
    dpo, name = config.train.update == "dpo", config.train.update
    trainer = "[TRL](https://github.com/huggingface/trl)'s DPO trainer" if dpo else f"the training method {name.upper()}"
    papers = PAPERS.get(name, {}) | WIM
    of_groups = "and each reply is made\nlikelier by as much as it is better than the others to the same history."
    learnt = "and the better reply is preferred\nto the worse." if config.train.rows == "pairs" else of_groups
    lines = [
        f"A {made} from {trainer} in ExpertChat: {experts} experts talk about a topic,",
        f"{judge} {rates} what is missing in them (WIM), {learnt}",
        *([f"This is the arm `{config.arm}`."] if config.arm else []),
        f"Methods: {', '.join(f'[{name}](https://arxiv.org/abs/{number})' for name, number in papers.items())}.",
    ]
    return "\n".join(lines) + "\n\nEvery figure on this page was written by the run itself."


# -- figures ------------------------------------------------------------------------------------------------------------

ROWS = {"pairs": "pairs", "groups": "histories"}  # what the rows of a step are
Column = tuple[str, str, str]  # title, name of the figure, how it is written
EVALUATED: Sequence[Column] = (
    ("n", "n", ".0f"), ("win rate", "win_rate", ".1%"), ("of like length", "win_rate_length_matched", ".1%"), ("wins", "wins", ".0f"),
    ("ties", "ties", ".0f"), ("losses", "losses", ".0f"), ("tokens a reply", "tokens_policy", ".1f"),
    ("distinct true facts", "distinct_policy", ".2f"), ("of them, times the base's", "distinct_ratio", ".2f"),
    ("repeats", "repeats_policy", ".2f"), ("accuracy", "accuracy_policy", ".3f"), ("measured by a program", "measure_policy", ".3g"),
    ("of it, more than the base", "measure_difference", "+.3g"),
)  # fmt: skip
ROUNDS: Sequence[Column] = (
    ("KL to the base, nats a reply", "kl", ".3g"), ("log ratio of the pairs", "log_ratio", ".3g"),
    ("reward", "reward_mean", ".3f"), ("measured by a program", "measured", ".3g"), ("margin", "margin", ".3f"),
    ("margin over the rewards' spread", "margin_scaled", ".2f"), ("spread of the rewards in a history", "spread", ".3f"),
    ("rating", "rating_mean", ".2f"), ("WIM score", "wim_mean", ".3f"),
    ("tokens a reply", "length", ".1f"), ("distinct-2", "distinct_2", ".3f"), ("repeats", "repeats", ".3f"), ("entropy", "entropy", ".3f"),
    ("loss", "loss", ".3f"), ("accuracy of the implicit reward", "accuracy", ".1%"), ("null rate", "null_rate", ".1%"),
    ("cut at the token limit", "cut_rate", ".1%"),
)  # fmt: skip


def _evaluations(found: Sequence[Metrics]) -> str:
    if not found:
        return "Not evaluated in this run."
    if len(found) > MOST:
        best = max(found, key=lambda m: number(m.figures, "win_rate") or 0.0)
        keep = {id(m) for m in (*found[: MOST // 2], best, *found[-(MOST // 2) + 1 :])}
        found = [m for m in found if id(m) in keep]
    columns = [column for column in EVALUATED if any(number(m.figures, column[1]) is not None for m in found)]
    rows = [[when(m), str(m.figures.get("judge")), *(figure(m.figures, name, form) for _, name, form in columns)] for m in found]
    drawn = table(["rounds", "judge", *(title for title, _, _ in columns)], rows)
    said = "The trained model against its base on held-out topics; in brackets 95 % intervals, in parentheses the base."
    if any(m.id.endswith(FINAL) for m in found):
        said += " Final: the weights that the run has kept, on histories by which none were chosen."
    return f"{said}\n\n{drawn}"


def when(evaluation: Metrics) -> str:
    """After which round an evaluation was made."""
    if evaluation.id.endswith(FINAL) and evaluation.weights_of not in (None, evaluation.round):
        return f"{evaluation.round}, final (weights of round {evaluation.weights_of})"
    return f"{evaluation.round}, final" if evaluation.id.endswith(FINAL) else str(evaluation.round)


def _rounds(found: Sequence[Metrics]) -> str:
    """Totals over the rounds, then the first round's figures beside the last one's."""
    if not found:
        return "No round was finished."
    pairs, ties, groups, flat, steps = (
        sum(number(m.figures, name) or 0 for m in found) for name in ("pairs", "ties", "groups", "flat", "steps")
    )
    of_groups = any("groups" in m.figures for m in found)
    trained = f"{groups:,.0f} histories with their replies" if of_groups else f"{pairs:,.0f} preference pairs"
    lines = [f"{len(found)} rounds, {trained}, {steps:,.0f} steps"]
    if flat:
        lines[0] += f"; {flat:,.0f} histories whose replies were all worth the same were left out"
    if pairs + ties:
        lines[0] += f"; {ties / (pairs + ties):.1%} of all pairs were ties and left out"
    if equal := sum(number(m.figures, "equal") or 0 for m in found):
        lines[0] += f"; {equal:,.0f} times there was no other text"
    first, last = found[0].figures, found[-1].figures
    rows = [
        [title, figure(first, name, form), figure(last, name, form)]
        for title, name, form in ROUNDS
        if number(first, name) is not None or number(last, name) is not None
    ]
    return f"{lines[0]}.\n\n" + table(["", "first round", "last round"], rows)


def number(figures: Mapping[str, Any], name: str) -> float | None:
    """A figure that is a number."""
    value = figures.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def figure(figures: Mapping[str, Any], name: str, form: str) -> str:
    """A figure with its interval and the base's, where it has them; a dash where it was not measured."""
    value, low, high = (number(figures, key) for key in (name, f"{name}_low", f"{name}_high"))
    base = number(figures, name.replace("_policy", "_base")) if name.endswith("_policy") else None
    if value is None:
        return "–"
    interval = f" [{low:{form}}, {high:{form}}]" if low is not None and high is not None else ""
    return format(value, form) + interval + (f" ({base:{form}})" if base is not None else "")


# -- config and use -----------------------------------------------------------------------------------------------------


def _settings(config: OnlineConfig, model: ModelConfig, seat: Speaker) -> list[list[str]]:
    train, judging, reward = config.train, config.judging, config.reward
    partners = [f"`{shown_path(partner.path)}` (expert {name})" for name, partner in config.experts.items() if name != seat]
    revision = f" at `{model.revision}`" if model.revision else ""
    settings = {
        "base": f"`{shown_path(model.path)}`{revision} ({model.dtype}, quantization {model.quantization})"
        + (f", with what `{trained_name(model.trained)}` had trained worked into it" if model.trained else ""),
        "partner" if len(partners) == 1 else "partners": ", ".join(partners),
        "learner": config.learner,
        "judge": f"{' + '.join(judging.judges)}, z = {judging.z:g} (share of the WIM score in the reward), form {judging.form}"
        + (f", combined by {judging.combine}" if len(judging.judges) > 1 else ""),
        **({"principles": ", ".join(judging.principles)} if judging.principles is not None else {}),
        "WIM": f"wording {judging.wim.wording}" if judging.wim.enabled else "off",
        "rounds": f"{config.rounds} of {config.conversation.count} dialogues of {config.conversation.turns} turns",
        "candidates": f"{config.candidates.count} replies to the same history",
        **_of_method(config),
        "trained": f"LoRA rank {train.rank}, alpha {train.alpha:g}, dropout {train.dropout:g}" if train.method == "lora" else train.method,
        "optimizer": f"AdamW, learning rate {train.learning_rate:g} ({train.schedule}), {train.batch} {ROWS[train.rows]} a step, "
        f"epochs {train.epochs}",
        "reward": f"source {_source(reward)}, WIM texts {reward.wim}, sign {reward.sign:+d}, penalties: length {reward.length_penalty:g}, "
        f"repeats {reward.repeat_penalty:g}",
        "seed": str(config.run.seed),
    }
    return [[key, value] for key, value in settings.items()]


def _source(reward: RewardConfig) -> str:
    weights = reward.weights or [1.0] * len(reward.functions)
    return " + ".join(f"{weight:g} x {name}" for weight, name in zip(weights, reward.functions, strict=True)) or reward.source


def _of_method(config: OnlineConfig) -> dict[str, str]:
    """The settings of the training method."""
    train = config.train
    if isinstance(config, OnlineDpoConfig):
        dpo = config.train
        return {
            "pairs": f"{config.pairs.mode}, margin at least {config.pairs.min_margin:g}",
            "loss": f"{', '.join(dpo.loss)}, beta {dpo.beta:g}, reference {dpo.reference}",
        }
    assert isinstance(train, PolicyGradientTrain)
    of_tokens = "" if train.normalise is None else f", normalised by {train.normalise}"
    return {
        "advantages": f"baseline of the {train.baseline}, over the standard deviation of {train.scale or 'nothing'}",
        "loss": f"{train.update.upper()}, beta {train.beta:g}, ratios clipped {train.clip[0]:g} below and {train.clip[1]:g} above 1"
        f"{of_tokens}",
    }


def how_to_use(train: UpdateConfig, model: ModelConfig) -> str:
    """What to do with a folder of trained weights of `model`."""
    if model.trained:
        before = f"what `{trained_name(model.trained)}` had trained"
        after = f"As full weights, for it goes onto its base with {before}, and not onto the base alone:"
        return "\n\n".join([after, _code("expertchat merge adapter=THE_RUN out=MERGED", "bash")])
    return _use(train, model) if train.method == "lora" else _use_weights(model)


def _use(train: UpdateConfig, model: ModelConfig) -> str:
    embedded, file, named = model.path.startswith("embedded:"), _gguf_file(model), _named(model.path)
    rank = next((rank for rank in RANKS if rank >= train.rank), train.rank)
    vllm = f"vllm serve {named} --enable-lora --max-lora-rank {rank} --lora-modules expert=THIS_FOLDER"
    late = embedded or file is not None  # served only as full weights
    served = [_code("vllm serve MERGED", "bash")] if late else ["With vLLM, which then has a model `expert`:", _code(vllm, "bash")]
    why = "it cannot find an embedded base by its name" if embedded else "an adapter fits the unpacked weights, not the GGUF file"
    given = "" if is_hub_id(model.path) or model.path.startswith(("embedded:", PREFIX)) else f" base={named}"
    return "\n\n".join([
        "With transformers and peft:", _code("\n".join(_python(model, file)), "python"), *([] if late else served),
        "As full weights:", _code(f"expertchat merge adapter=THIS_FOLDER{given} out=MERGED", "bash"),
        *([f"which vLLM serves too ({why}):", *served] if late else []),
    ])  # fmt: skip


def _python(model: ModelConfig, file: str | None) -> list[str]:
    """The lines that load the base and the adapter on it."""
    version = f', revision="{model.revision}"' if model.revision else ""
    embedded, base, how = model.path.startswith("embedded:"), f'base = "{_named(model.path)}"', ""
    if embedded:
        base = f'base = str(find_folder("{model.path}"))'
    elif file is not None:
        package = model.path.removeprefix(PREFIX).partition("/")[0] if model.path.startswith(PREFIX) else None
        base = f'base = find_spec("{package}").submodule_search_locations[0]' if package else 'base = "THE_FOLDER_THAT_HOLDS_IT"'
        version, how = f', gguf_file="{file}"', ", quantization_config=GgufConfig(dequantize=True)"
    return [
        *(["from importlib.util import find_spec", ""] if "find_spec(" in base else []),
        *(["from expertchat.backends.folders import find_folder"] if embedded else []),
        "from peft import PeftModel",
        f"from transformers import AutoModelForCausalLM, AutoTokenizer{', GgufConfig' if how else ''}",
        "",
        base,
        f'model = AutoModelForCausalLM.from_pretrained(base{version}{how}, dtype="auto", device_map="auto")',
        'model = PeftModel.from_pretrained(model, "THIS_FOLDER")',
        f"tokenizer = AutoTokenizer.from_pretrained(base{version})",
    ]


def _named(path: str) -> str:
    """A base as a command may name it elsewhere: where a folder lies on the machine of the run says nothing there."""
    local = not is_hub_id(path) and not path.startswith(("embedded:", PREFIX))
    return f"PATH_TO/{shown_path(path)}" if local else path.partition("#")[0]


def _gguf_file(model: ModelConfig) -> str | None:
    """The name of the GGUF file that the base is, where it is one."""
    if (plain := model.path.partition("#")[0]).endswith(".gguf"):
        return plain.rpartition("/")[2]
    with contextlib.suppress(ConfigError, OSError):
        place = resolve_path(model.path, model.models_dir)
        return place.name if isinstance(place, Path) and is_gguf(place) else None
    return None


def _code(text: str, language: str) -> str:
    return f"```{language}\n{text}\n```"


def _use_weights(model: ModelConfig) -> str:
    named = _named(model.path)
    return (
        f"The folder holds the trained weights alone. Full weights, as transformers and vLLM take them, come from them and from "
        f"`{named}`:\n\n" + _code(f"expertchat merge adapter=THIS_FOLDER base={named} out=MERGED", "bash")
    )


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(_text(cell) for cell in line)} |" for line in lines)


def _text(value: Any) -> str:
    """In a cell of a table: nothing that would end it."""
    return " ".join(str(value if value is not None else "–").replace("|", "\\|").split())
