"""conf/ composes and validates, file by file; what is wrong is named, all of it, with its value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from expertchat.backends.folders import resolve_path
from expertchat.command.compose import compose, config_class, load
from expertchat.command.launch import names_hub
from expertchat.config import ConfigError, DecodingConfig, ExpertsConfig, ModelConfig, PersonaConfig, conf_dir, validate
from expertchat.sources.instructions import find_template
from expertchat.studies.written import read_study
from expertchat.talk.config import ConverseConfig

CONF = conf_dir()
SLOTS = {
    "model": ["model@experts.a", "model@experts.b", "+model@third"],
    "prompts": ["prompts@experts.a.prompts"],
    "persona": ["persona@experts.b.persona"],
    "decoding": ["decoding@experts.a.decoding"],
    "judging": ["judging"],
    "topics": ["topics"],
    "embedder": ["embedder"],
    "experiment": ["+experiment"],
    "candidates": ["candidates"],
    "reward": ["reward"],
    "pairs": ["pairs"],
    "train": ["train"],
    "guards": ["guards"],
    "evaluation": ["evaluation"],
    "control": ["+control"],
    "cluster": ["cluster"],
    "principles": ["judging.principles"],
    "examples": ["judging.examples"],
    "reward_model": ["+reward_model"],
    "source": ["source"],
    "judge": ["+judge@judges.mine"],
    "form": ["form"],
    "classifier": ["classifier@model"],
    "data": ["data"],
    "language": ["+language@languages.mine"],
    "server": ["server"],
}
TAUGHT = ("data/taught", "evaluation/held_out", "train/sft_lora", "train/sft_full", "train/sft_last_layer")  # of sft
PREFERRED = ("data/preferred", "evaluation/against_base", "train/dpo_lora", "train/dpo_full", "train/dpo_last_layer", "train/kto")  # of dpo
TRAINING = ("candidates", "reward", "pairs", "train", "guards", "evaluation", "control")
REAL_WORDS = ["prompts@experts.a.prompts=standard", "prompts@experts.b.prompts=standard"]
# Options that ask the user for something.
NEEDED = {
    "merge": ["adapter=runs/one", "out=merged"],
    "sft": ["data.path=[rows.txt]"],
    "serve": ["model.path=folder"],
    "audit": ["source.path=[judged]"],
    "build_pairs": ["+judge@judges.mine=length"],
    "pick": ["texts=[a,b]"],
    "model/auto": ["{at}.path=folder"],
    "model/server": ["{at}.url=http://here:8000/v1", "{at}.model=m"],
    "embedder/server": ["embedder.url=http://here:8000/v1", "embedder.model=m"],
    "evaluation/reward": ["reward=length"],
    "topics/file": ["topics.file=topics.txt"],
    "topics/list": ["topics.list=[tides]"],
    "principles/constitution": REAL_WORDS,
    "judging/rules": ["+judging.categories.taste=good", "+judging.weights.taste=1"],
    "principles/critical_questions": REAL_WORDS,
    "examples/default": REAL_WORDS,
    "reward_model/default": ["reward_model.path=folder"],
    "reward_model/server": ["reward_model.url=http://here:8000/v1", "reward_model.model=m"],
    "judge/own": ["judges.mine.of=embedded:llama"],
    "judge/pairwise": ["judges.mine.model.path=folder"],
    "judge/principles": ["judges.mine.model.path=folder"],
    "judge/reward_model": ["judges.mine.reward_model.path=folder"],
    "persona/file": ["experts.b.persona.file=personas.yaml", "experts.b.persona.name=historian"],
}


def options() -> list[str]:
    return sorted(str(path.relative_to(CONF).with_suffix("")) for path in CONF.rglob("*.yaml"))


@pytest.mark.parametrize("option", options())
def test_every_file_composes_and_validates(option: str) -> None:
    group, _, name = option.rpartition("/")
    if not group:
        assert load(option, NEEDED.get(option, []))
        return
    command = "online_dpo" if group in TRAINING or option == "judging/candidates" else "converse"
    if group in ("instructions", "study"):  # no options of a config: data.template and `study` name them
        assert find_template(name) if group == "instructions" else read_study(name)
        return
    if option in TAUGHT:
        command = "sft"
    if option in PREFERRED:
        command = "dpo"
    if option in ("train/rloo", "train/grpo"):
        command = name
    if group == "cluster":
        command = "submit"
    if group in ("source", "judge"):
        command = "judge"
    if group == "language":
        command = "posts"
    if group == "form":
        command = "label"
    if group == "classifier":
        command = "reward_model"
    if group == "experiment":  # its second line says for which command it is
        command = (CONF / f"{option}.yaml").read_text("utf-8").splitlines()[1].removeprefix("# ").partition(":")[0]
    for slot in SLOTS[group]:
        needed = [text.format(at=slot.partition("@")[2]) for text in NEEDED.get(option, [])]
        assert isinstance(load(command, [f"{slot}={name}", *needed]), config_class(command))


def test_the_default_is_the_embedded_world() -> None:
    config = load("converse")
    assert (config.experts["a"].path, config.experts["b"].path) == ("embedded:llama", "embedded:mixtral")
    assert len(config.topics.list) == len(set(config.topics.list)) == 60
    assert set(config.judging.weights) == set(config.judging.categories)
    assert config.judging.wim.wording == "missing"


def test_nested_groups_are_chosen_from_the_command_line() -> None:
    config = load(
        "converse",
        ["prompts@experts.a.prompts=standard", "decoding@experts.b.decoding=sampling", "persona@experts.b.persona=skeptic"],
    )
    assert config.experts["a"].prompts != config.experts["b"].prompts
    assert config.experts["a"].decoding.reply.max_new_tokens == 120  # still decoding=embedded
    assert config.experts["b"].decoding.reply.temperature == 0.9
    assert (config.experts["a"].persona.name, config.experts["b"].persona.name) == ("expert", "skeptic")


def test_a_choice_goes_over_an_experiment() -> None:
    config = load("converse", ["+experiment=llama3_vs_mixtral", "decoding@experts.b.decoding=greedy", "conversation.count=3"])
    assert (config.experts["a"].family, config.experts["b"].family) == ("llama3", "mixtral")
    assert config.experts["a"].decoding.reply.method == "contrastive"
    assert config.experts["b"].decoding.reply.method == "greedy"
    assert (config.conversation.count, config.conversation.turns, config.topics.source) == (3, 8, "models")


@pytest.mark.parametrize("command", ["converse", "plan"])
def test_one_variable_names_the_folder_of_all_models(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    def folders(*overrides: str) -> set[str | None]:
        config = load(command, ["model@experts.a=llama3_8b", "model@experts.b=mixtral_8x7b", "embedder=mpnet", *overrides])
        assert config.experts["a"].path == "meta-llama/Meta-Llama-3-8B-Instruct"  # whatever the folder is
        return {config.models_dir, config.experts["a"].models_dir, config.experts["b"].models_dir, config.embedder.models_dir}

    monkeypatch.delenv("EXPERTCHAT_MODELS", raising=False)
    assert folders() == {None}
    assert folders("models_dir=/here") == {"/here"}
    monkeypatch.setenv("EXPERTCHAT_MODELS", "/models")
    assert folders() == {"/models"}
    assert folders("models_dir=/here") == {"/here"}


def test_a_model_in_that_folder_is_taken_before_the_hub(tmp_path: Path) -> None:
    here = tmp_path / "Qwen2.5-7B-Instruct"
    here.mkdir()
    assert resolve_path("Qwen/Qwen2.5-7B-Instruct", str(tmp_path)) == here
    assert resolve_path("Qwen/Qwen2.5-14B-Instruct", str(tmp_path)) == "Qwen/Qwen2.5-14B-Instruct"
    assert resolve_path("Qwen/Qwen2.5-7B-Instruct") == "Qwen/Qwen2.5-7B-Instruct"
    overrides = ["model@experts.a=qwen2_5_7b", "model@experts.b=qwen2_5_7b", "embedder.path=embedded:embedder"]
    assert names_hub("converse", [load("converse", overrides)])
    assert not names_hub("converse", [load("converse", [*overrides, f"models_dir={tmp_path}"])])


def test_only_a_hub_id_asks_for_the_network(tmp_path: Path) -> None:
    def hub(*overrides: str) -> bool:
        return names_hub("converse", [load("converse", overrides)])

    local = ["model@experts.a=auto", f"experts.a.path={tmp_path}"]
    assert not hub()
    assert hub("model@experts.b=qwen2_5_7b")
    assert hub("+model@third=qwen2_5_7b")
    assert hub(*local)  # embedder=auto is all-mpnet-base-v2 then
    assert not hub(*local, "embedder.path=embedded:embedder")
    assert not hub(*local, f"embedder.path={tmp_path}/missing")  # a folder that is not there is no hub id


def keys(model: type[BaseModel], place: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if kind is ExpertsConfig:  # names of the user's own: a and b are there
            for seat in ("a", "b"):
                found |= keys(ModelConfig, f"{place}{name}.{seat}.")
            continue
        inner = isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not DecodingConfig
        found |= keys(kind, f"{place}{name}.") if inner else {place + name}
    return found


def test_every_key_can_be_set_without_a_plus() -> None:
    """A key that pydantic knows and no YAML file holds could only be written as +key=value."""
    plain = compose("converse")

    def has(place: str) -> bool:
        node: Any = plain
        for part in place.split("."):
            if not isinstance(node, dict) or part not in node:
                return False
            node = node[part]
        return True

    assert {key for key in keys(ConverseConfig) if not has(key)} == {"third", "moderator", "reward_model"}


def test_problems_of_hydra_and_of_values_are_all_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load("converse", ["conversation.trns=3", "conversation.count=0", "model@experts.b=mixtrall", "judging.z=2", "topics.list=[]"])
    found = caught.value.problems
    assert len(found) == 5
    for words in (
        ("conversation.trns", "did you mean conversation.turns?"),
        ("model@experts.b=mixtrall", "did you mean mixtral_8x7b?", "qwen2_5_7b"),
        ("conversation.count", "greater than or equal to 1", "is 0"),
        ("judging.z", "less than or equal to 1", "is 2"),
        ("topics", "list is empty", "topics=models"),
    ):
        assert sum(all(word in problem for word in words) for problem in found) == 1, words


@pytest.mark.parametrize(("override", "words"), [
    ("conversation.turns=many", "conversation.turns: .* valid integer, but is .many."),
    ("conversation.count=true", "conversation.count: .* valid integer, but is True"),
    ("conversation.loop_similarity=nan", "finite number, but is nan"),
    ("conversation=3", "conversation: is a group with the keys count, turns"),
    ("experts.b=embedded_llama", r"experts\.b=embedded_llama: is a group of keys, .*; write model@experts\.b=embedded_llama$"),
    ("experts.b=some/model", r"write model@experts\.b=some/model$"),
    ("experts.b=embeded_llama", r"write model@experts\.b=NAME; did you mean embedded_llama\? auto, "),
    ("+conversation.trns=3", "did you mean turns"),
    ("+foo.bar=3", "foo: unknown key"),
    ("view=lve", "'live', 'plain', 'none' or 'step', but is 'lve'"),
    ("experts.a.device=gpu", "experts.a.device: must be auto|cpu"),
    ("experts.a.persona.brief='hi {topc}'", r"unknown \['topc'\]"),
    ("experts.a.persona.brief='hi {'", "double a brace"),
    ("experts.a.persona.brief=''", "neither a brief nor a file"),
    ("experts.a.prompts.judge='no place for text'", "judge: must use"),
    ("topics.list=[tides,'']", "empty topic"),
    ("topics.source=file", "file is not set"),
    ("judging.judge=third", r"\+model@third=NAME"),
    ("judging.wim.enabled=false", "judging.z > 0 needs judging.wim.enabled=true"),
    ("judging.weights.depth=-1", "negative"),
    ("decoding@experts.a.decoding=contrastive experts.a.decoding.reply.top_k=0", "top_k >= 1"),
    ("model@experts.a=auto", "experts.a.path: has no value; give it one: experts.a.path=VALUE"),
    ("topics=nothing", "there is no topics 'nothing'; there are embedded, everyday, file, list, models"),
    ("topic=models", "topic: unknown key; did you mean topics?"),
    ("model=auto", "model=auto: say whose: model@experts.a, model@experts.b"),
    ("experiment=chat", r"write \+experiment=chat"),
    ("+conversation.turns=3", "is there already; write it without the \\+"),
    ("conversation.turns=1,2", "add -m"),
    ("topics.list=[a", "is no override; write KEY=VALUE"),
    ("conversation", "is no override; write KEY=VALUE"),
    ("~conversation.foo", "conversation.foo: unknown key"),
    ("experts.a.path=${foo}", "Interpolation key 'foo' not found"),
    ("=3", "=3: "),
])  # fmt: skip
def test_one_message_a_problem(override: str, words: str) -> None:
    parts = override.split(" ") if " experts." in override else [override]
    with pytest.raises(ConfigError) as caught:
        load("converse", parts)
    assert len(caught.value.problems) == 1
    assert re.search(words, caught.value.problems[0]), caught.value.problems
    assert "\n" not in caught.value.problems[0]


def test_a_folder_topic_or_revision_may_look_like_a_number() -> None:
    config = load("converse", ["run.dir=2026", "topics.list=[1984, DNA]", "experts.a.revision=1234567"])
    assert (config.run.dir, config.topics.list, config.experts["a"].revision) == ("2026", ["1984", "DNA"], "1234567")


def test_validate_names_missing_keys() -> None:
    with pytest.raises(ConfigError, match="name: is missing"):
        validate(PersonaConfig, {"brief": "x"})


def test_the_personas_file_of_the_examples_is_sound() -> None:
    import yaml

    path = Path(__file__).parents[1] / "examples" / "personas.yaml"
    for name, brief in yaml.safe_load(path.read_text("utf-8")).items():
        assert "{topic}" in validate(PersonaConfig, {"name": name, "brief": brief}).brief
