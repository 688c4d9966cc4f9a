"""The door: help without heavy imports, Hydra's flags, sweeps, and the wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from expertchat import __version__, cli
from expertchat.command.launch import Job, run
from expertchat.config import ConfigError

ROOT = Path(__file__).parents[1]


def python(code: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["converze"], []])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    heavy = "{'torch', 'transformers', 'hydra', 'omegaconf', 'pydantic', 'rich', 'yaml', 'numpy'}"
    answer = python(f"import sys; from expertchat.cli import main; main({arguments!r}); print('HEAVY', sorted({heavy} & set(sys.modules)))")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.endswith("HEAVY []\n")


def test_composing_imports_no_torch() -> None:
    loaded = "{'torch', 'transformers'} & set(sys.modules)"
    answer = python(f"import sys; import expertchat.command.compose as c; c.load('converse'); print({loaded})")
    assert answer.stdout == "set()\n", answer.stderr


def test_help_names_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {command} " in text for command in cli.COMMANDS)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"expertchat {__version__}\n"


def test_help_of_a_command_shows_groups_options_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["converse", "--help"]) == 0
    text = capsys.readouterr().out
    for words in ("model@experts.a, model@experts.b, +model@third", "mixtral_8x7b  ", "decoding@experts.b.decoding", "contrastive  ",
                  "topics\n", "  +experiment\n", "llama3_vs_mixtral", "count: 4", "--multirun"):  # fmt: skip
        assert words in text
    assert cli.main(["world", "-h"]) == 0
    assert "build|check" in capsys.readouterr().out


def test_cfg_shows_the_composed_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["converse", "--cfg", "job", "-p", "conversation", "conversation.turns=3"]) == 0
    assert "turns: 3\n" in capsys.readouterr().out
    assert cli.main(["world", "--cfg", "job", "-p", "experts"]) == 0
    assert "- embedder\n" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["conversation.turns=3", "run.seed=7"], ["--run", "conversation.turns=3", "run.seed=7"]])
def test_a_job_gets_its_checked_config_and_overrides(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    jobs: list[Job] = []
    assert run("converse", arguments, lambda job: jobs.append(job) or 0) == 0  # type: ignore[func-returns-value]
    [job] = jobs
    assert (job.config.conversation.turns, job.config.run.seed, job.config.run.dir) == (3, 7, None)
    assert job.overrides == ["conversation.turns=3", "run.seed=7"]
    assert os.environ["HF_HUB_OFFLINE"] == "1"  # the models are in the package: nothing asks the network
    assert Path.cwd() == tmp_path and list(tmp_path.iterdir()) == []  # no stray folder of Hydra's


def sweep(arguments: list[str], codes: dict[int, int] | None = None) -> tuple[int, list[Job]]:
    jobs: list[Job] = []

    def task(job: Job) -> int:
        jobs.append(job)
        return (codes or {}).get(job.number, 0)

    try:
        return run("converse", arguments, task), jobs
    except SystemExit as stopped:
        return int(str(stopped.code)), jobs


def test_a_sweep_gives_each_job_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, jobs = sweep(["-m", "conversation.turns=2,4", "run.seed=0,1", "run.dir=out"])
    assert code == 0
    # 2 x 2 jobs, the last key fastest
    assert [(j.config.conversation.turns, j.config.run.seed) for j in jobs] == [(2, 0), (2, 1), (4, 0), (4, 1)]
    assert [j.config.run.dir for j in jobs] == ["out/0", "out/1", "out/2", "out/3"]
    assert [(j.number, j.jobs) for j in jobs] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert jobs[1].overrides == ["conversation.turns=2", "run.seed=1", "run.dir=out"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_sweeps_folder_may_stand_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "it's home"))
    _, jobs = sweep(["-m", "run.seed=0,1", "run.dir='~/out'"])
    assert [j.config.run.dir for j in jobs] == ["~/out/0", "~/out/1"]  # the run itself expands it
    assert (tmp_path / "it's home" / "out" / "multirun.yaml").exists() and not (tmp_path / "~").exists()


def test_folders_that_differ_by_themselves_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, jobs = sweep(["conversation.turns=2,4", "run.dir=out-${conversation.turns}", "-m"])
    assert [j.config.run.dir for j in jobs] == ["out-2", "out-4"]


def test_a_sweep_without_a_folder_puts_its_jobs_together_under_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, jobs = sweep(["-m", "run.seed=0,1"])
    first, second = (Path(j.config.run.dir) for j in jobs)
    assert first.parent == second.parent and first.parent.parent == Path("runs")
    assert (first.name, second.name) == ("0", "1")


@pytest.mark.slow
def test_a_sweep_ends_with_its_highest_code_and_at_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, jobs = sweep(["-m", "run.seed=0,1,2"], {0: 1, 1: 2})
    assert (code, len(jobs)) == (2, 3)
    code, jobs = sweep(["-m", "run.seed=0,1,2"], {1: 3})
    assert (code, len(jobs)) == (3, 2)


def test_no_job_of_a_sweep_runs_if_one_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    jobs: list[Job] = []
    with pytest.raises(ConfigError) as caught:
        run("converse", ["-m", "conversation.turns=4,0", "conversation.count=2,-1"], lambda job: jobs.append(job) or 0)  # type: ignore[func-returns-value]
    assert len(caught.value.problems) == 2 and not jobs
    with pytest.raises(ConfigError, match=r"topics.list=\[a: is no override"):
        run("converse", ["-m", "conversation.turns=4,0", "topics.list=[a"], lambda job: jobs.append(job) or 0)  # type: ignore[func-returns-value]
    assert not jobs
    assert list(tmp_path.iterdir()) == []


def test_one_hub_model_in_a_sweep_lets_all_its_jobs_use_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EXPERTCHAT_MODELS", raising=False)
    monkeypatch.setattr("expertchat.command.launch.problems_before", lambda *_: [])  # that they are not here is for the other tests
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    _, jobs = sweep(["-m", "model@experts.b=embedded_mixtral,mixtral_8x7b"])
    assert len(jobs) == 2 and "HF_HUB_OFFLINE" not in os.environ


def test_ctrl_c_before_a_run_began_is_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("expertchat.doors.converse.run", interrupted)
    assert cli.main(["converse"]) == 3


def test_a_bug_is_no_config_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(arguments: list[str]) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr("expertchat.doors.converse.run", broken)
    assert cli.main(["converse"]) == 1
    assert "RuntimeError: a bug" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m expertchat.cli converse --help | head -n 1"
    answer = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (len(answer.stdout.splitlines()), answer.stderr) == (1, "")


def test_the_wheel_holds_conf_and_world_and_works_alone(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    answer = subprocess.run(build, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    [wheel] = (tmp_path / "dist").glob("expertchat-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    conf = {f"expertchat/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    world = {str(path.relative_to(ROOT)) for kind in ("*.txt", "*.safetensors", "*.json")
             for path in (ROOT / "expertchat" / "world").rglob(kind)}  # fmt: skip
    assert conf | world <= names
    assert not any(name.startswith(("tests/", "runs/")) or "__pycache__" in name for name in names)
    # Unpacked elsewhere it finds the conf/ inside itself.
    alone = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(alone)
    command = [sys.executable, "-m", "expertchat.cli", "converse", "--info", "searchpath"]
    answer = subprocess.run(command, cwd=alone, env=os.environ | {"PYTHONPATH": str(alone)}, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    assert f"{alone}/expertchat/conf" in answer.stdout.replace("\n", "")
