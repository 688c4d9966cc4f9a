"""A server in the same job as a run: who gets which GPUs, what is checked, what the script says; and the plan of such a job."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from expertchat import cli
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.plan.job import Gpu, parse_gpus
from expertchat.plan.memory import GIB, Lora, adapter, shape_of
from expertchat.plan.run import serving_of
from expertchat.plan.shapes import PUBLISHED
from expertchat.plan.vllm import Serving
from expertchat.slurm.beside import beside_problems, check_server, served_by
from expertchat.slurm.submit import run_submit
from tests.alike import records
from tests.cluster import Cluster, until
from tests.submitted import events, log, submit, turns, wait_done

ROOT = Path(__file__).parents[1]

MIXTRAL = shape_of(PUBLISHED["mistralai/Mixtral-8x7B-Instruct-v0.1"])
LLAMA = shape_of(PUBLISHED["meta-llama/Meta-Llama-3-8B-Instruct"])
SEAT = ["model@experts.b=server", "experts.b.url=runs/day1-server", "experts.b.model=mixtral"]
GPTQ = "TheBloke/Mixtral-8x7B-Instruct-v0.1-GPTQ"
SERVED = f"{GPTQ} server.name=mixtral server.python=python3 server.gpus=2 model.context_length=8192 model.dtype=fp16"


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `expertchat submit` is told of Llama 3 that learns from a served Mixtral, on four GPUs of 16 GB."""
    for name in ("Meta-Llama-3-8B-Instruct", "Mixtral-8x7B-Instruct-v0.1-GPTQ", "Mixtral-8x7B-Instruct-v0.1-AWQ", "all-mpnet-base-v2"):
        (tmp_path / f"{name}.tar").touch()
        (tmp_path / f"{name}.tar.sha256").write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EXPERTCHAT_MODELS", raising=False)
    return ["online_dpo", "cluster=beluga", f"cluster.archives={tmp_path}", "+experiment=llama3_mixtral_4x16", "run.dir=runs/day1",
            "experts.a.quantization=auto", *SEAT, "--dry-run"]  # fmt: skip


def told(*words: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    assert run_submit(list(words), found.append) == 0
    return found[0]


def test_two_gpus_for_vllm_two_for_training(job: list[str], tmp_path: Path) -> None:
    said = told(*job, "--serve", SERVED)
    assert said["about"].endswith("beside it a server of mixtral on the last 2 GPUs")
    notes = "\n".join(said["notes"])
    assert "memory plan: fits on 2 x v100 of 16 GiB" in notes  # what is trained has the other two
    assert "server: fits, mixtral in 4 bits by vLLM on 2 x 16 GiB" in notes
    place = tmp_path / "runs" / "day1" / "submission"
    script = (place / "job.sh").read_text()
    assert '\nsupervise expertchat serve --config "$RUN/submission/server.yaml" -- expertchat online_dpo --config' in script
    assert "--gpus-per-node=v100:4" in script and "Mixtral-8x7B-Instruct-v0.1-GPTQ" in script.split("EXPERTCHAT_STAGE=")[1].split("\n")[0]
    frozen = yaml.safe_load((place / "server.yaml").read_text())
    assert frozen["run"]["dir"].endswith("runs/day1-server") and frozen["server"]["gpus"] == 2


def test_what_is_wrong_with_a_server_beside_a_run(job: list[str], tmp_path: Path) -> None:
    cluster = load("submit", ["cluster=beluga", f"cluster.archives={tmp_path}"]).cluster
    config = served_by(SERVED, tmp_path / "day1")

    def doubted(server: dict[str, Any] | None = None, **model: Any) -> str:
        """What is wrong with a server on two of four V100 or more."""
        parts = {"server": config.server.model_copy(update=server or {}), "model": config.model.model_copy(update=model)}
        found = check_server(config.model_copy(update=parts), cluster, beside=True)
        return "\n".join([*found.problems, *found.doubts])

    assert doubted() == ""
    assert "server.gpus=5: there are 4 here" in doubted({"gpus": 5})
    assert "does not fit into vLLM on 1 x 16 GiB: 22.96 GiB of weights on each" in doubted({"gpus": 1})
    long = doubted(context_length=None)  # 32768, as Mixtral has it
    assert "its longest request is 32768 tokens, as the model has it; set model.context_length=23040 or less" in long
    old = doubted(path=GPTQ.replace("GPTQ", "AWQ"))
    assert "kernels for awq need a GPU of compute capability 7.5, a v100 has 7.0; take a folder in GPTQ" in old
    for words, said in (("'", "--serve ': is no line of words"), ("a b", "one model")):
        with pytest.raises(ConfigError, match=said):
            served_by(words, tmp_path)


def test_a_server_that_nobody_asks_is_refused(tmp_path: Path) -> None:
    served, asked = served_by(SERVED, tmp_path / "day1"), load("converse", [*SEAT[:1], f"experts.b.url={tmp_path}/day1-server", SEAT[2]])
    assert list(beside_problems(asked, served, 1, None)) == []
    other = served.model_copy(update={"run": served.run.model_copy(update={"dir": "runs/other"})})
    nobody, several, array = beside_problems(asked, other, 2, "an array")[::-1]
    assert nobody.startswith("--serve: nobody asks this server; give the model of an expert its folder: experts.b.url=runs/other")
    assert "started by srun" in several and "a server each" in array


@pytest.mark.parametrize("place", ["reward_model", "embedder"])
def test_whatever_is_served_may_be_asked(place: str, tmp_path: Path) -> None:
    served = served_by(SERVED, tmp_path / "day1")
    words = {"reward_model": ["+reward_model=server", "judging.judge=reward_model"], "embedder": ["embedder=server"]}[place]
    asked = load("converse", [*words, f"{place}.url={tmp_path}/day1-server", f"{place}.model=mixtral"])
    assert beside_problems(asked, served, 1, None) == []


@pytest.mark.slow
def test_a_server_as_a_job_of_its_own(job: list[str], tmp_path: Path) -> None:
    words = [*job[1:3], "run.dir=runs/mixtral", "cluster.gpus=2", "server.python=python3", "model.context_length=4096", "model.dtype=fp16"]
    said = told("serve", GPTQ, *words, "--dry-run")
    assert any("5 requests of 4096 at once" in note for note in said["notes"])
    script = (tmp_path / "runs" / "mixtral" / "submission" / "job.sh").read_text()
    assert '\nsupervise expertchat serve --config "$RUN/submission/config.yaml"\n' in script


# -- the plan ---------------------------------------------------------------------------------------------------------------


def test_the_arithmetic_of_a_server() -> None:
    served = Serving("m", MIXTRAL, tuple(parse_gpus("2x16")), bits=4, tokens=3072)
    # a layer: q, o 4096 x 4096; k, v 4096 x 1024; 8 experts of 3 x 4096 x 14336; 32 layers
    numbers = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 8 * 3 * 4096 * 14336)
    rest = 2 * (2 * 32000 * 4096 + 32 * (2 * 4096 + 8 * 4096) + 4096)  # embedding, head, norms and routers in fp16
    assert served.whole == numbers // 2 + numbers // 128 * 20 // 8 + rest  # half a byte each; a group's scale and zero: 20 bits
    assert served.weights == -(-served.whole // 2) and served.whole / GIB == pytest.approx(22.96, abs=0.01)
    # keys and values of a token: 2 x 8 heads x 128 x 2 bytes x 32 layers = 128 KiB, half of it on each
    assert served.held == served.cache // 65536 and served.at_once == served.held // 3072
    assert served.weights + served.cache + served.moment + served.reserve == int(16 * GIB * 0.9)
    assert sum(served.segments("b", served.gpus[0]).values()) == 16 * GIB
    mixed = replace(served, gpus=tuple(parse_gpus("1x24+1x16")))
    assert mixed.held == served.held and [mixed.segments("b", gpu)["free"] // GIB for gpu in mixed.gpus] == [9, 1]
    assert Serving("m", LLAMA, tuple(parse_gpus("1x16")), bits=16).problems()  # 15 GiB of 14.4
    split = Serving("m", LLAMA, (Gpu(80 * GIB),) * 3, bits=16)
    assert split.problems() == ["m: its 32 heads cannot be split evenly over 3 GPUs; give it 2"]


def test_the_plan_shows_the_servers_gpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan.json"
    words = ["plan", "gpus=4x16", "train.expert=a", "server.seat=b", "conversations=1"]
    assert cli.main([*words, "server.gpus=2", f"out={out}"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "mistralai/Mixtral-8x7B-Instruct-v0.1 in 4 bits by vLLM on 2 x 16 GiB: 11.48 GiB of weights on each" in shown
    plan = json.loads(out.read_text())
    assert [gpu["phase"] for gpu in plan["gpus"]][2:] == ["serving", "serving"] and plan["fits"]
    assert plan["gpus"][2]["holds"] == {"b": "1/2"} and "b" not in plan["gpus"][0]["holds"]


def test_a_server_that_takes_every_gpu_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "gpus=2x16", "server.seat=b", "server.gpus=2", "conversations=1"]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "no GPU is left for meta-llama/Meta-Llama-3-8B-Instruct" in said and "device=cpu" in said and "Traceback" not in said
    assert cli.main([*words, "experts.a.device=cpu", "embedder.device=cpu"]) == 0


def test_who_learns_stands_on_both(capsys: pytest.CaptureFixture[str]) -> None:
    config = load("plan", ["train.expert=a", "server.seat=a", "server.rank=16"])
    assert set(config.here) == {"a", "b"} and set(load("plan", ["server.seat=a"]).here) == {"b"}
    served = serving_of(config)
    assert served is not None and replace(served, gpus=tuple(parse_gpus("1x16"))).adapters == 3 * adapter(LLAMA, Lora(16)).weights // 2


# -- on a real Slurm --------------------------------------------------------------------------------------------------------

ASKS = ["conversation.count=2", "conversation.turns=2", "embedder.path=embedded:embedder", "model@experts.b=server", "experts.b.model=m"]


def stand_in(tmp_path: Path, *more: str) -> list[str]:
    """The words by which the stand-in is served."""
    variables = [f"PYTHONPATH={ROOT / 'tests' / 'stand_in'}:{ROOT}", f"STAND_IN_TOLD={tmp_path / 'told'}", *more]
    quoted = ",".join(f'"{one}"' for one in variables)
    return ["embedded:llama", "server.name=m", f"server.python={sys.executable}", f"server.environment=[{quoted}]"]


@pytest.mark.slow
def test_a_server_and_its_run_in_one_job_on_gpus_of_their_own(slurm: Cluster, tmp_path: Path) -> None:
    words = shlex.join([*stand_in(tmp_path), "server.gpus=[0,1]"])
    job = submit(slurm, tmp_path / "run", "converse", *ASKS, f"experts.b.url={tmp_path}/run-server", "--serve", words)
    wait_done(slurm, job, tmp_path / "run")
    assert json.loads((tmp_path / "told").read_text())["environment"]["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert "the server is stopped: the command beside it is done" in log(tmp_path / "run")
    assert not (tmp_path / "run-server" / "address.json").exists()


@pytest.mark.slow
def test_a_run_and_its_server_go_on_after_the_time_limit(slurm: Cluster, tmp_path: Path) -> None:
    folder, words = tmp_path / "run", shlex.join([*stand_in(tmp_path, "STAND_IN_SLOW=0.2"), "server.gpus=1"])
    asks = [*ASKS, "conversation.turns=20", "conversation.loop_similarity=1.0", "judging.wim.enabled=false", "judging.z=0"]
    job = submit(slurm, folder, "converse", *asks, f"experts.b.url={tmp_path}/run-server", "--serve", words)
    until(lambda: turns(folder) >= 4, 300, "four turns", lambda: log(folder)[-2000:])
    slurm.call(["scancel", "--signal=USR1", "--batch", job])  # as Slurm does before the end
    wait_done(slurm, job, folder)
    assert "requeued (1 of 20 times at most)" in log(folder)
    spoken = [(event["conversation"], event["index"]) for event in events(folder, "turn_finished")]
    assert len(spoken) == len(set(spoken)) == sum(len(line["turns"]) for line in records(folder, "transcripts"))  # none lost, none twice
    assert len(events(tmp_path / "run-server", "run_started")) == 2


@pytest.mark.slow
def test_a_run_finds_a_server_that_is_a_job_of_its_own(slurm: Cluster, tmp_path: Path) -> None:
    server = submit(slurm, tmp_path / "served", "serve", *stand_in(tmp_path), "cluster.gpus=1")
    run = submit(slurm, tmp_path / "run", "converse", *ASKS, f"experts.b.url={tmp_path}/served", "server.wait=200", "cluster.gpus=1")
    wait_done(slurm, run, tmp_path / "run")
    slurm.call(["scancel", server])
    slurm.wait(server, 100)
    assert "SIGTERM" in (tmp_path / "served" / "events.jsonl").read_text()
    assert not (tmp_path / "served" / "address.json").exists()
