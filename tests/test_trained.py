"""What a run has trained, wherever a model is: found, refused, on top of the base that others speak with, worked in where it learns on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from expertchat.backends.folders import find_folder
from expertchat.backends.learnt import find_learnt, misfit, weights_of
from expertchat.backends.loading import load_backend
from expertchat.backends.local import LocalBackend
from expertchat.backends.reward_folders import classifier_problem
from expertchat.backends.trained import as_trained, merged, voices, work_in
from expertchat.backends.voice import bare
from expertchat.command.checks import problems_of
from expertchat.command.compose import load
from expertchat.command.named_models import model_overrides, with_models
from expertchat.config import ConfigError
from expertchat.doors.judge import named_judges
from expertchat.doors.tokens import taken
from expertchat.folder import embedded
from expertchat.folder.embedded import models_id
from expertchat.folder.run import Hub
from expertchat.plan.planner import Trained, _cast
from expertchat.records import ExpertRef
from expertchat.sources.runs import is_of, system_name
from expertchat.talk.cast import load_cast
from expertchat.training.merge import run_merge
from expertchat.training.merge_config import MergeConfig
from expertchat.views.sides import model_name
from tests import trained_runs
from tests.scripted import BagOfWords, Collect, config_of

IDS = torch.arange(24).view(1, 24) * 7 % 300


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """one: of the base; two: on top of one; last: the last layer's own weights."""
    found = tmp_path_factory.mktemp("runs")
    trained_runs.run(found / "one")
    trained_runs.run(found / "two", trained=str(found / "one"), seed=5)
    trained_runs.weights(found / "last")
    return found


def llama() -> LocalBackend:
    return LocalBackend.load(find_folder("embedded:llama"), "embedded:llama", 0, dtype="fp32", device="cpu")


def logits(backend: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = backend.model(IDS).logits
    return found


# -- found ----------------------------------------------------------------------------------------------------------------


def test_a_run_a_round_and_a_folder_are_found(place: Path) -> None:
    one = find_learnt(str(place / "one"))
    assert (one.folder, one.adapter, one.base, one.shares, one.shown) == (place / "one/adapter", True, "embedded:llama", True, "one")
    assert one.expert["family"] == "world" and one.below is None
    third = find_learnt(str(place / "one/rounds/000003"))
    assert (third.folder.name, third.shown) == ("adapter", "one round 3")
    two = find_learnt(str(place / "two"))
    assert [layer.shown for layer in two.layers] == ["one", "two"] and not two.shares
    last = find_learnt(str(place / "last"))
    assert (last.adapter, last.base, last.shares) == (False, "embedded:llama", False)


def test_what_was_trained_on_other_embedded_models_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one, last = find_learnt(str(place / "one")), find_learnt(str(place / "last"))
    assert (one.embedded, one.revision, last.embedded) == (models_id(), None, models_id())
    assert misfit(one, "embedded:llama", None) is None
    monkeypatch.setattr(embedded, "MODELS", tmp_path)  # as if the package's were others
    for name in ("one", "two", "last"):
        problem = misfit(find_learnt(str(place / name)), "embedded:llama", None)
        assert problem is not None and problem.startswith("was trained on the embedded models ") and "train it again" in problem
    words = [f"experts.a.trained={place / 'two'}", "experts.a.path=embedded:llama", "run.dir=none"]
    assert [one for one in problems_of("converse", load("converse", words)) if "was trained on" in one]
    with pytest.raises(ConfigError, match="was trained on the embedded models"):
        run_merge(MergeConfig(adapter=str(place / "one"), out=str(tmp_path / "out"), base=None, dtype="fp32", device="cpu"))
    monkeypatch.undo()
    trained_runs.told(trained_runs.adapter(tmp_path / "old"), revision=None)  # as one of before is
    assert find_learnt(str(tmp_path / "old")).embedded == embedded.FIRST
    trained_runs.told(tmp_path / "old", revision="another", task_type="SEQ_CLS")  # a reward model's says it in the same place
    assert str(classifier_problem(tmp_path / "old")).startswith("was trained on the embedded models another, and the package holds ")
    trained_runs.told(tmp_path / "old", revision=models_id())
    assert classifier_problem(tmp_path / "old") is None


def test_what_is_none_is_said_once(place: Path, tmp_path: Path) -> None:
    def said(word: Path | str) -> str:
        with pytest.raises(ConfigError) as caught:
            find_learnt(str(word))
        (problem,) = caught.value.problems
        return problem

    assert "no such folder; name a run" in said(tmp_path / "none")
    assert "is no run, and holds neither adapter_config.json nor weights.safetensors" in said(tmp_path)
    assert "it is a whole model already: name it as the model's path" in said(find_folder("embedded:llama"))
    broken = trained_runs.run(tmp_path / "run")
    file = broken / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{broken / 'adapter'} is broken: adapter_model.safetensors has" in said(broken)
    file.unlink()
    assert "lacks adapter_model.safetensors" in said(broken)
    (broken / "rounds/000003/DONE").unlink()
    assert "was not written to its end (it has no DONE); name another round" in said(broken / "rounds/000003")
    (broken / "adapter/adapter_config.json").unlink()
    assert "is a run of online_dpo that has trained no adapter (yet)" in said(broken)
    (broken / "rounds/000003/DONE").touch()
    assert f"has kept no adapter yet: name one of its rounds, as {broken / 'rounds/000003'}" in said(broken)
    trained_runs.told(broken / "rounds/000003/adapter", task_type="SEQ_CLS")
    assert "is a reward model, which says no words: reward_model.path takes it" in said(broken / "rounds/000003")
    trained_runs.told(broken / "rounds/000003/adapter", peft_type="IA3", task_type="CAUSAL_LM")
    assert "an adapter of the kind IA3; only LORA is loaded" in said(broken / "rounds/000003")
    (broken / "rounds/000003/adapter/adapter_config.json").write_text("[]")
    assert "its adapter_config.json cannot be read (it is no JSON object)" in said(broken / "rounds/000003")
    gone = trained_runs.run(tmp_path / "gone", trained=str(tmp_path / "none"))
    assert "was trained on top of trained=" in said(gone) and "no such folder" in said(gone)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["experts.a.trained={one}", "experts.a.path=embedded:mixtral"], "was trained from embedded:llama, not from embedded:mixtral"),
        (["experts.a.trained={one}", "experts.a.backend=scripted", "experts.a.script=x"], "backend=scripted has no weights"),
        (["experts.a.trained={last}", "experts.a.quantization=nf4"], "is trained weights, which nf4 weights cannot take"),
        (["experts.a.trained={two}", "experts.a.quantization=nf4"], "is an adapter on top of another training, which nf4"),
        (["model@experts.a=auto", "experts.a.trained={one}/none"], "experts.a.trained={one}/none: no such folder"),
    ],
)
def test_the_door_refuses_what_does_not_fit(words: list[str], problem: str, place: Path) -> None:
    names = {name: str(place / name) for name in ("one", "two", "last")}
    with pytest.raises(ConfigError) as caught:
        config = load("converse", ["run.dir=none", *(word.format(**names) for word in words)])
        raise ConfigError(problems_of("converse", config))
    found = [one for one in caught.value.problems if "trained" in one]
    assert len(found) == 1 and problem.format(**names) in found[0]


def test_a_quantised_learner_is_sent_to_merge(place: Path) -> None:
    config = load("online_dpo", ["run.dir=none", f"experts.a.trained={place / 'one'}", "experts.a.quantization=nf4"])
    found = [one for one in problems_of("online_dpo", config) if "trained" in one]
    assert len(found) == 1 and f"expertchat merge adapter={place / 'one'} out=FOLDER" in found[0]


def test_what_is_parted_among_processes_is_sent_to_merge_too(place: Path) -> None:
    config = load("online_dpo", ["run.dir=none", f"experts.a.trained={place / 'one'}", "train.sharding=fsdp"])
    assert any("cannot be spread over processes (train.sharding=fsdp): merge it once" in one for one in problems_of("online_dpo", config))


def test_bench_takes_it(place: Path) -> None:
    def problems(model: str) -> list[str]:
        return problems_of("bench", load("bench", [f"bench.model={model}", f"bench.trained={place / 'one'}"]))

    assert problems("embedded:llama") == [] and "not from random:llama:28M" in problems("random:llama:28M")[0]


def test_an_adapter_of_another_shape_is_refused(place: Path, tmp_path: Path) -> None:
    """embedded:llama's q_proj takes another width than the tiny model's that calls itself by the same name."""
    from tests import tiny

    other = tiny.build(tmp_path / "llama", "llama3")
    config = load("converse", ["run.dir=none", f"experts.a.path={other}", f"experts.a.trained={place / 'one'}"])
    assert any("was trained from embedded:llama" in one for one in problems_of("converse", config))
    trained_runs.told(place / "one/rounds/000003/adapter", base_model_name_or_path="elsewhere/llama")
    config = load("converse", ["run.dir=none", f"experts.a.path={other}", f"experts.a.trained={place / 'one/rounds/000003'}"])
    (found,) = [one for one in problems_of("converse", config) if "trained" in one]
    assert "is of another model than" in found and "_proj has" in found


# -- in one word ------------------------------------------------------------------------------------------------------------


def test_a_run_is_a_model_in_one_word(place: Path) -> None:
    one = str(place / "one")
    assert model_overrides(one)[:3] == ["model=embedded_llama", "model.path='embedded:llama'", f"model.trained='{one}'"]
    config = load("tokens", [*with_models([f"model={one}"])])
    assert (config.model.path, config.model.family, config.model.trained) == ("embedded:llama", "world", one)
    judged = load("judge", list(named_judges(["source.path=[x]", "judge=expected", f"model={one}"])))
    assert judged.judges.root["expected"].model.trained == one
    talk = load("converse", with_models([f"model@experts.b={one}", f"+model@third={one}"], None))
    assert talk.experts["b"].trained == talk.third.trained == one and talk.experts["b"].path == "embedded:llama"
    assert with_models(["model@experts.a=smollm", "model=a,b", "model=null"]) == ["model@experts.a=smollm", "model=a,b", "model=null"]


def test_the_tokens_of_a_text_are_those_of_what_a_run_has_trained(place: Path) -> None:
    one = str(place / "one")
    assert f"model.trained='{one}'" in taken([one, "a text"])[1]
    assert taken([one, "--turn", "c0001/3"])[1] == [f"run='{one}'"] and taken([one])[1] == [f"run='{one}'"]


def test_the_path_may_be_left_away(place: Path) -> None:
    config = load("converse", ["model@experts.a=auto", f"experts.a.trained={place / 'one'}"])
    assert config.experts["a"].path == "embedded:llama"


# -- on top of the base -------------------------------------------------------------------------------------------------------


def test_voices_share_the_base(place: Path) -> None:
    base, one = logits(llama()), find_learnt(str(place / "one"))
    backend = llama()
    made = voices(backend, {"plain": None, "one": one, "third": find_learnt(str(place / "one/rounds/000003"))})
    assert len({id(bare(found.model)) for found in made.values()}) == 1
    worked_in = logits(merged(llama(), one))
    for _ in range(2):  # whoever spoke last
        assert torch.equal(logits(made["plain"]), base)
        assert torch.allclose(logits(made["one"]), worked_in, atol=1e-4) and not torch.allclose(worked_in, base, atol=1e-2)
        assert not torch.allclose(logits(made["third"]), worked_in, atol=1e-2)
    assert made["one"].info.name == "embedded:llama + one" and made["plain"].info.name == "embedded:llama"


def test_weights_and_adapters_on_top_of_each_other_are_worked_in(place: Path, tmp_path: Path) -> None:
    two = as_trained(llama(), find_learnt(str(place / "two")))
    one = merged(llama(), find_learnt(str(place / "one")))
    before = logits(one)
    work_in(one.model, find_learnt(str(trained_runs.adapter(tmp_path / "adapter", seed=5))), "m")
    assert torch.allclose(logits(two), logits(one), atol=1e-4) and not torch.allclose(logits(two), before, atol=1e-2)
    last = as_trained(llama(), find_learnt(str(place / "last")))
    assert not torch.allclose(logits(last), before, atol=1e-2) and last.info.name == "embedded:llama + last"
    values = {"adapter": str(place / "two"), "out": str(tmp_path / "out"), "dtype": "fp32", "device": "cpu"}
    run_merge(MergeConfig.model_validate(values))
    whole = LocalBackend.load(tmp_path / "out", "out", dtype="fp32", device="cpu")
    assert torch.allclose(logits(whole), logits(two), atol=1e-4)


def test_a_model_is_loaded_as_it_was_trained(place: Path) -> None:
    config = load("tokens", model_overrides(str(place / "one"))).model
    assert torch.allclose(logits(load_backend(config, 0)), logits(merged(llama(), find_learnt(str(place / "one")))), atol=1e-4)


def test_who_shares_weights() -> None:
    """a learns from the base, so whoever else speaks with an adapter on that base has weights of his own; without a learner all share."""

    class Of:
        def __init__(self, shares: bool) -> None:
            self.shares = shares

    whole, base = {"a": "B", "b": "B+x", "c": "B+y", "d": "B"}, {"a": "B", "b": "B", "c": "B", "d": "B"}
    learnt: Any = {"b": Of(True), "c": Of(False)}
    assert weights_of(whole, base, learnt, ()) == {"a": "B", "b": "B", "c": "B+y", "d": "B"}
    assert weights_of(whole, base, learnt, ["a"]) == {"a": "B", "b": "B+x", "c": "B+y", "d": "B"}
    assert weights_of(whole, base, learnt, ["b"]) == {"a": "B", "b": "B+x", "c": "B+y", "d": "B"}


def test_the_cast_loads_the_base_once(place: Path) -> None:
    one = place / "one"
    words = ["model@experts.b=embedded_llama", f"experts.b.trained={one}", "judging.wim.enabled=false", "judging.z=0"]
    config = config_of(*words)
    cast = load_cast(config, Hub(Collect()), None, BagOfWords())
    a, b = cast.backends["a"], cast.backends["b"]
    assert bare(a.model) is bare(b.model) and torch.equal(logits(a), logits(llama()))
    assert cast.experts["b"].ref.trained == "one" and cast.experts["a"].ref.trained is None
    assert any(str(one / "adapter") in note for note in cast.notes)
    from expertchat.plan.memory import Lora

    seats = dict(config.experts.items())
    assert len(_cast(seats, config.embedder)[0]) == 1 and len(_cast(seats, config.embedder, ["b"])[0]) == 2
    learning = load_cast(config, Hub(Collect()), None, BagOfWords(), [Trained("b", Lora(4, "attention"), 1, 64, False)])
    a, b = learning.backends["a"], learning.backends["b"]
    assert a.model is not b.model and bare(b.model) is b.model
    assert torch.allclose(logits(b), logits(merged(llama(), find_learnt(str(one)))), atol=1e-4)


def test_systems_are_told_apart() -> None:
    assert system_name("m", 2, "run") == "m + run v2"
    assert model_name(ExpertRef(family="world", model="embedded:llama", trained="run")) == "llama + run"
    assert is_of("m + run", "m") and is_of("m v3", "m") and not is_of("m2", "m") and not is_of(None, "m")
