"""A frozen config: written whole, read again without conf/, changed key by key; and what is said of a file that is none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat import cli
from expertchat.command.compose import compose, config_class, load
from expertchat.command.frozen import freeze, load_frozen
from expertchat.command.launch import Job, run
from expertchat.command.table import COMMANDS
from expertchat.config import ConfigError, conf_dir, may_name, validate

# What a command asks for.
MORE = {
    "merge": ["adapter=runs/one", "out=merged"], "audit": ["source.path=[judged]"], "build_pairs": ["+judge@judges.mine=truth"],
    "pick": ["texts=[a,b]"], "serve": ["model.path=folder"],
}  # fmt: skip


def experiments() -> list[tuple[str, str]]:
    """Every experiment with its command, which its second line names."""
    files = sorted((conf_dir() / "experiment").glob("*.yaml"))
    return [(file.read_text("utf-8").splitlines()[1].removeprefix("# ").partition(":")[0], f"+experiment={file.stem}") for file in files]


COMPOSED = [*((command, *MORE.get(command, [])) for command, entry in COMMANDS.items() if entry.root), *experiments()]


@cache
def plain(command: str, *overrides: str) -> str:
    return freeze(load(command, overrides))


@pytest.fixture(autouse=True, scope="module")
def nothing_in_the_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EXPERTCHAT_MODELS", raising=False)
        yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The frozen config of `expertchat converse`."""
    path = tmp_path / "config.yaml"
    path.write_text(plain("converse"), "utf-8")
    return path


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_frozen("converse", path, overrides)
    return caught.value.problems


@pytest.mark.parametrize("more", [(), ("conversation.count=1",)])
def test_an_experiment_of_another_command_is_told_whose_it_is(more: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        load("converse", ["+experiment=three_learn", *more])
    assert caught.value.problems == [
        "+experiment=three_learn: is no experiment of converse, it belongs to online_dpo, rloo, grpo: "
        "expertchat online_dpo +experiment=three_learn"
    ]


@pytest.mark.parametrize(("command", "wrong"), [("converse", "conversation.count=x"), ("judge", "repeats=x")])  # judge has no experiments
def test_so_is_an_experiment_that_chooses_in_no_group(command: str, wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(command, ["+experiment=embedded_both", wrong])
    first, second = [problem for problem in caught.value.problems if not problem.startswith("source.")]
    assert first.startswith(f"+experiment=embedded_both: is no experiment of {command}, it belongs to online_dpo")
    assert second.startswith(wrong.partition("=")[0])


# -- there and back -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", COMPOSED, ids=" ".join)
def test_a_frozen_config_is_the_same_config(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPERTCHAT_MODELS", "/models")
    config = load(words[0], words[1:])
    (tmp_path / "c.yaml").write_text(freeze(config), "utf-8")
    assert load_frozen(words[0], tmp_path / "c.yaml") == config


# Of the odd characters more than chance would bring: line ends of all kinds, what YAML and Hydra read as theirs.
text = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\r\t\x85\u2028\ufeff'\"#:-${}~ 0"), min_size=1)
number = st.floats(0, 1e9, allow_nan=False)


@settings(deadline=None, max_examples=15)  # the first of an experiment composes it
@given(
    st.sampled_from(experiments()), st.none() | text, st.lists(text.filter(str.strip), min_size=1), st.integers(0, 2**63 - 1),
    st.dictionaries(text.filter(may_name), text, min_size=1, max_size=3), number,
)  # fmt: skip
def test_any_values_come_back(
    tmp_path_factory: pytest.TempPathFactory, words: tuple[str, str], folder: str | None, topics: list[str], seed: int,
    categories: dict[str, str], weight: float,
) -> None:  # fmt: skip
    values = yaml.safe_load(plain(*words))
    values["run"] = {"dir": folder, "seed": seed}
    values["topics"] |= {"source": "list", "list": topics}
    values["judging"] |= {"categories": categories, "weights": dict.fromkeys(categories, weight + 1e-9)}
    config = validate(config_class(words[0]), values)
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(freeze(config), "utf-8")
    assert load_frozen(words[0], path) == config


def test_a_run_is_done_again_from_the_config_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    jobs: list[Job] = []
    (tmp_path / "c.yaml").write_text(plain("converse", "run.dir=there", "conversation.turns=3"), "utf-8")
    monkeypatch.setattr("expertchat.command.compose.conf_dir", lambda: tmp_path / "nowhere")  # conf/ is not looked at
    assert run("converse", ["--config", "c.yaml", "run.seed=7"], lambda job: jobs.append(job) or 0) == 0  # type: ignore[func-returns-value]
    [job] = jobs
    assert (job.config.run.dir, job.config.run.seed, job.config.conversation.turns) == ("there", 7, 3)
    assert (job.overrides, job.jobs) == (["--config", "c.yaml", "run.seed=7"], 1)
    assert run("converse", ["--config=c.yaml"], lambda job: 3) == 3


def test_a_model_of_the_hub_is_noticed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertchat.command.launch.problems_before", lambda *_: [])  # that it is not here is for the other tests
    for word, noticed in (("run.seed=1", False), ("experts.b.path=someone/model", True)):
        monkeypatch.setenv("HF_HUB_OFFLINE", "")
        monkeypatch.delenv("HF_HUB_OFFLINE")
        assert run("converse", ["--config", str(file), word], lambda job: 0) == 0
        assert ("HF_HUB_OFFLINE" not in os.environ) is noticed


# -- changes --------------------------------------------------------------------------------------------------------------


def test_values_are_written_as_hydra_wants_them(file: Path) -> None:
    given = ["conversation.turns=3", "topics.source=list", "topics.list=[a, 'b, c']", "run.dir=\"x y\"", "conversation.max_tokens=9",
             "judging.categories={depth: 'How deep?'}", "conversation.max_tokens=null", "models_dir=2026"]  # fmt: skip
    config = load_frozen("converse", file, given)
    composed = load("converse", given)
    assert config == composed and config.judging.categories["depth"] == "How deep?" and len(config.judging.categories) > 1


@pytest.mark.parametrize(
    ("environment", "in_file", "override", "found"),
    [
        (None, None, None, None),
        (None, "/file", None, "/file"),
        ("/machine", "/file", None, "/machine"),
        ("/machine", "/file", "/line", "/line"),
    ],
)
def test_models_are_looked_for_on_this_machine(
    environment: str | None, in_file: str | None, override: str | None, found: str | None, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if environment:
        monkeypatch.setenv("EXPERTCHAT_MODELS", environment)
    values: dict[str, Any] = yaml.safe_load(file.read_text("utf-8")) | {"models_dir": in_file}
    file.write_text(yaml.safe_dump(values), "utf-8")
    config = load_frozen("converse", file, [f"models_dir={override}"] if override else [])
    assert {config.experts["a"].models_dir, config.experts["b"].models_dir, config.embedder.models_dir} == {found}
    one = load_frozen("converse", file, ["experts.a.models_dir=/own"])
    assert one.experts["a"].models_dir == "/own" and one.experts["b"].models_dir == (environment or in_file)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("conversation.turnz=3", "conversation.turnz: unknown key; did you mean conversation.turns?"),
        ("third.path=x", "third.path: unknown key; did you mean third?"),
        ("xyzzy=1", "xyzzy: unknown key; the file shows"),
        ("topics=list", "topics=list: the groups of a frozen config are chosen"),
        ("model@experts.a=llama3_8b", "the groups of a frozen config are chosen"),
        ("+experiment=chat", "the groups of a frozen config are chosen"),
        ("~third", "the groups of a frozen config are chosen"),
        ("run.seed=1,2", "run.seed=1,2: is a sweep or a list, and --config is one run"),
        ("topics.list=[a", "topics.list=[a: is no override"),
        ("run.dir=${run.seed}", "is not filled in beside --config"),
        ("conversation.turns=0", "conversation.turns: Input should be greater than or equal to 1, but is 0"),
    ],
)
def test_a_wrong_change_is_named(override: str, said: str, file: Path) -> None:
    [problem] = problems(file, override)
    assert said in problem


# -- files that are none --------------------------------------------------------------------------------------------------


def test_a_file_of_another_version_is_named_with_all_its_keys(file: Path) -> None:
    values = yaml.safe_load(file.read_text("utf-8"))
    del values["conversation"]["opener"], values["engine"]
    values["conversation"]["turnz"] = 3
    file.write_text(yaml.safe_dump(values), "utf-8")
    first, *rest = problems(file, "run.seed=-1")
    assert "was not written by this version" in first
    assert sorted(line.split(":")[0] for line in rest) == ["conversation.opener", "conversation.turnz", "engine", "run.seed"]


def test_what_is_missing_can_be_given(file: Path) -> None:
    values = yaml.safe_load(file.read_text("utf-8"))
    del values["conversation"]["opener"]
    file.write_text(yaml.safe_dump(values), "utf-8")
    assert problems(file)[1:] == ["conversation.opener: is missing"]  # though it has a default: the run that is continued had none
    assert load_frozen("converse", file, ["conversation.opener=b"]).conversation.opener == "b"


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is no config"), (b"- a\n", "is no config"), (b"a: [b", "is no YAML"), (b"\xff\xfe", "is no YAML"), (None, "No such file")],
)
def test_a_file_that_is_no_config_gets_one_message(
    content: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content)
    assert cli.main(["converse", "--config", str(path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line and str(path) in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config"], "names no file"),
        (["--config", "a", "--config=b"], "a run has one config, and here are 2: a, b"),
        (["--config", "a", "-m", "run.seed=0,1"], "leave -m or --config away"),
        (["--config", "a", "--cfg", "job"], "leave --cfg or --config away"),
    ],
)
def test_what_does_not_go_together_gets_one_message(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["converse", *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


def test_help_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0 and cli.main(["online_dpo", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--config RUN/config.yaml" in out and "--config FILE" in out and "hydra/launcher=submitit_slurm" in out


def test_compose_is_what_conf_says_and_frozen_is_what_it_was(file: Path) -> None:
    assert load_frozen("converse", file) == validate(config_class("converse"), compose("converse"))
