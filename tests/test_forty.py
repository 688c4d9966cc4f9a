"""Forty and more bad command lines over all commands: exit code 2, every problem named, no traceback, nothing written."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from expertchat import cli

Err = pytest.CaptureFixture[str]
NO_GPU = "torch finds 0 GPUs"

# Each line: what is typed, and what must be named. `file` is a file, `thesis` a folder of somebody's, script.jsonl a good script.
BAD: list[tuple[str, list[str]]] = [
    # paths, all of them at once
    ("converse model@experts.a=auto experts.a.path=/nope model@experts.b=auto experts.b.path=./gone embedder.path=/lost",
     ["3 problems", "experts.a.path=/nope: no such folder", "experts.b.path=./gone", "embedder.path=/lost"]),
    ("converse model@experts.a=auto experts.a.path=/nope model@experts.b=auto experts.b.path=/nope",
     ["experts.a.path=/nope, experts.b.path=/nope: no such folder", "embedder=minilm"]),
    ("converse embedder=mpnet", ["all-mpnet-base-v2", "embedder=minilm", "hf download"]),
    ("converse experts.a.backend=scripted experts.b.backend=scripted", ["2 problems", "experts.a.script", "experts.b.script"]),
    ("converse experts.a.backend=scripted experts.a.script=no1 experts.b.backend=scripted experts.b.script=no2",
     ["2 problems", "experts.a.script: script no1", "experts.b.script: script no2"]),
    ("converse persona@experts.a.persona=file experts.a.persona.file=p1.yaml experts.a.persona.name=x persona@experts.b.persona=file "
     "experts.b.persona.file=p2.yaml experts.b.persona.name=y", ["2 problems", "experts.a.persona.file", "p1.yaml", "p2.yaml"]),
    ("converse topics=file topics.file=gone.txt persona@experts.a.persona=file experts.a.persona.file=p.yaml experts.a.persona.name=x "
     "experts.b.backend=scripted experts.b.script=no run.dir=file", ["4 problems", "gone.txt", "p.yaml", "script no", "run.dir=file"]),
    ("converse topics=file topics.file=thesis", ["topics.file", "thesis"]),
    ("converse embedder.path=embedded:embedder experts.a.url=http://h/v1 experts.a.model=m experts.b.backend=server experts.b.url=http://h/v1",
     ["experts.a.url=http://h/v1: nobody asks there", "experts.b.model: is not set", "begin with model@experts.b=server"]),
    ("converse embedder.path=embedded:embedder model@experts.b=server",
     ["2 problems", "experts.b.url: is not set", "experts.b.model: is not set"]),
    ("converse model@experts.b=server experts.b.url=here experts.b.model=m experts.b.key_from=mine decoding@experts.b.decoding=contrastive "
     "embedder.path=embedded:embedder",
     ["3 problems", "experts.b.url=here: is no address", "experts.b.key_from=mine", "contrastive search is not to be had"]),
    ("converse experts.a.family=lama experts.b.family=mixtrl", ["2 problems", "experts.a.family=lama", "experts.b.family=mixtrl"]),
    ("converse model@experts.a=auto experts.a.path=embedded:gemma", ["experts.a.path=embedded:gemma", "llama, mixtral"]),
    ("converse +model@third=auto third.path=/nope judging.judge=third embedder=auto", ["third.path=/nope"]),
    # wrong keys and wrong paths in one message
    ("converse conversation.trns=3 model@experts.a=auto experts.a.path=/nope",
     ["2 problems", "did you mean conversation.turns?", "experts.a.path=/nope"]),
    ("converse conversation.count=0 topics=file topics.file=gone.txt", ["2 problems", "conversation.count", "gone.txt"]),
    # the run's folder
    ("converse run.dir=file", ["run.dir=file: is a file"]),
    ("converse run.dir=file/inside", ["run.dir=file/inside", "is a file"]),
    ("converse run.dir=", ["run.dir: is empty"]),
    ("converse run.dir=thesis", ["thesis is not a run folder", "c.txt"]),
    ("converse run.dir=/proc/nope", ["run.dir=/proc/nope: cannot be written"]),
    ("converse run.dir=~nobody-of-that-name/x", ["run.dir=~nobody-of-that-name/x", "no home folder"]),
    # numbers and types
    ("converse judging.min_mass=nan engine.cache_gib=inf conversation.turns=3.5 run.seed=-1",
     ["4 problems", "judging.min_mass", "engine.cache_gib", "conversation.turns", "run.seed"]),
    ("converse engine.threads=100000000 conversation.count=99999999999999999999", ["engine.threads", "1024", "conversation.count"]),
    ("converse experts.a.decoding.reply.max_new_tokens=999999 experts.b.context_length=100",
     ["2 problems", "experts.a.decoding.reply.max_new_tokens=999999", "experts.b.decoding.reply.max_new_tokens=120", "100 tokens"]),
    ("converse judging.weights.depth=-1 judging.z=1 judging.wim.enabled=false", ["2 problems", "a weight is negative", "judging.z > 0"]),
    ("converse experts.a.path=''", ["experts.a.path: is empty"]),
    ("converse experts.a.device=tpu", ["experts.a.device", "cuda:1 or balanced", "'tpu'"]),
    # categories
    ("converse 'judging.weights={foo: 1}'", ["judging.weights has no foo", "+judging.weights.foo=", "depth"]),
    ("converse 'judging.categories={reward: x, taste: y}'", ["'reward' cannot be a category's name", "has no reward, taste"]),
    ("converse +judging.categories.wim=x", ["judging.categories: 'wim' cannot be a category's name"]),
    # Hydra
    ("converse ~experts.b", ["experts: there is only a; a dialogue has two or more", "+model@experts.NAME=MODEL"]),
    ("converse experts.c.path=x", ["experts.c.path=x: there is no experts.c yet; add it with +model@experts.c=NAME"]),
    ("converse moderator.path=x conversation.order=moderator", ["moderator.path=x: there is no moderator yet", "+model@moderator=NAME"]),
    ("converse third.path=x", ["there is no third model yet", "+model@third=NAME"]),
    ("converse 'run.dir=${x}' 'view=${view}'", ["2 problems", "'x' not found", "Recursive"]),
    ("converse 'run.dir=${oc.env:NO_SUCH_VARIABLE}'", ["variable NO_SUCH_VARIABLE is not set"]),
    ("converse topics=[a] judging=3", ["2 problems", "topics is a group", "everyday", "judging is a group", "numeric"]),
    ("converse model=nope +experiment=nope", ["2 problems", "model@experts.a, model@experts.b", "there is no experiment 'nope'"]),
    ("online_dpo control=nope", ["control=nope", "shuffled_wim"]),
    ("converse --config a.yaml --config a.yaml", ["a run has one config"]),
    ("converse --frobnicate", ["--frobnicate"]),
    ("converse -m run.seed=0,1 experts.a.backend=scripted experts.a.script=no1", ["script no1"]),
    ("converse -m hydra.sweep.dir=file run.seed=0,1", ["file", "cannot be written"]),
    ("converse topics=list \"topics.list=[it's life, tides]\"", ["'topics.list=[\"it'\"'\"'s life\",tides]'"]),
    # training
    ("online_dpo train.targets=[nope_proj,q_proj]", ["no linear layers named nope_proj;", "q_proj"]),
    ("online_dpo train=full experts.a.quantization=nf4 experts.a.dtype=bf16 topics=list topics.list=[tides] evaluation.topics=1000",
     ["3 problems", "quantization=none", "dtype=fp32", "evaluation.topics=1000"]),
    ("online_dpo train.rank=0 train.batch=7 train.micro_batch=2 train.learning_rate=inf", ["3 problems", "rank", "no multiple", "inf"]),
    ("online_dpo experts.a.backend=scripted experts.a.script=script.jsonl evaluation.judge=pairwise",
     ["cannot be trained", "evaluation.judge=pairwise"]),
    ("online_dpo learner=one topics=list topics.list=[sourdough] evaluation.topics=0", ["learner=one needs one model", "'sourdough'"]),
    # rows to teach
    ("sft", ["data.path: names nothing", "data=FILE"]),
    ("sft gone.txt data.evaluation=other.csv data.template=nope model=/nope run.dir=file",
     ["5 problems", "data.path=gone.txt", "data.evaluation=other.csv", "data.template=nope", "model.path=/nope", "run.dir=file"]),
    ("sft script.jsonl train=full model.dtype=bf16 train.batch=7 train.micro_batch=2 evaluation.ways=[]",
     ["2 problems", "no multiple", "evaluation.ways"]),
    ("sft script.jsonl train=dpo data.columns.promt=x",
     ["2 problems", "there is no train 'dpo'", "data.columns.promt", "did you mean data.columns.prompt"]),
    ("sft script.jsonl --show=many", ["--show many"]),
    ("submit sft gone.txt cluster=laptop cluster.time=never", ["2 problems", "data.path=gone.txt", "cluster.time"]),
    ("rloo train.normalise=reply train.epsilon=1", ["2 problems", "train.normalise=reply", "train.epsilon=1"]),
    ("rloo reward.functions=[wim,taste] 'reward.weights=[1]'", ["2 problems", "taste is none", "1 numbers for 2 functions"]),
    ("grpo train=lora", ["update=dpo", "rloo or grpo"]),
    ("grpo prompts.file=gone.txt evaluation=reward evaluation.measure=length reward.functions=[gone.py:f,script.jsonl:f]",
     ["script.jsonl:f is none"]),
    ("grpo prompts.file=gone.txt evaluation=reward evaluation.measure=length reward.functions=[gone.py:f]",
     ["2 problems", "prompts.file: gone.txt: no such file", "gone.py cannot be read"]),
    ("grpo prompts.column=x prompts.type=y", ["2 problems", "prompts.column=x", "prompts.type=y", "prompts.file=PATH"]),
    ("grpo +reward_model=default reward_model.path=gone reward_model.label=type judging.judge=reward_model",
     ["reward_model.label=type: turns of a dialogue have no type", "prompts.file=TABLE"]),
    ("talk embedded:llama prompts.samples=3 prompts.out=x.jsonl", ["2 problems", "prompts.out=x.jsonl", "prompts.file=PATH"]),
    ("talk embedded:llama prompts.file=gone.csv prompts.out=answers.csv decoding@model.decoding=greedy prompts.samples=2",
     ["3 problems", "prompts.file=gone.csv: cannot be read", "must end in .jsonl", "greedy gives equal answers"]),
    ("reward_model script.jsonl kind=types target=truth history=true", ["2 problems", "target=truth", "history=true has no effect"]),
    ("metrics script.jsonl classifier=/nope", ["classifiers.type.path=/nope"]),
    # studies
    ("submit study spels smoke --dry-run", ["there is no study 'spels'", "did you mean spells?"]),
    ("study spells --only tought", ["--only tought: there is no such step"]),
    ("study spels", ["there is no study 'spels'", "did you mean spells?"]),
    ("study spells tiny model=x view=lve wrd=1 tught.x=2",
     ["4 problems", "tiny: is no size", "view=lve: is none", "wrd=1", "no step 'tught'"]),
    # the other commands
    ("bench bench.model=/nope bench.out=file/x", ["2 problems", "bench.model=/nope", "bench.out=file/x"]),
    ("bench bench.out=thesis bench.rows=[] bench.tokens=0", ["3 problems", "bench.out=thesis", "bench.rows", "bench.tokens"]),
    ("merge adapter=thesis out=file base=/nope", ["3 problems", "adapter=thesis", "out=file", "base=/nope"]),
    ("merge", ["2 problems", "adapter", "out"]),
    ("plan gpus=4y16 conversations=0 out=file/x", ["3 problems", "gpus=4y16", "conversations", "out=file/x"]),
    ("plan gpus=1x16 embedder.path=/nope model@experts.a=auto experts.a.path=/gone experts.b.device=cuda:3",
     ["3 problems", "experts.a.path=/gone", "embedder.path=/nope", "experts.b.device=cuda:3"]),
    ("models models_dir=/nope out=file/x", ["2 problems", "models_dir=/nope", "out=file/x"]),
    ("models names=[nope,qwen]", ["2 problems", "nope:", "did you mean qwen3_4b?"]),
    ("world build out=file threads=0 experts=[c]", ["3 problems", "out=file", "threads", "'c'"]),
    ("submit", ["COMMAND"]),
    ("submit converse cluster=laptop run.dir=file topics=file topics.file=gone.txt cluster.time=never",
     ["3 problems", "run.dir=file", "gone.txt", "cluster.time"]),
    ("submit online_dpo cluster=laptop train.targets=[nope_proj] --array 1 --after x",
     ["3 problems", "nope_proj", "--array 1", "--after x"]),
    ("submit converse cluster=generic --dry-run experts.a.device=cuda:1", ["experts.a.device=cuda:1", "cluster.gpus=0"]),
    ("watch thesis", ["thesis is not a run"]),
    ("runs /nope /gone --out x.txt", ["3 problems", "/nope", "/gone", "--out x.txt"]),
    ("wim /nope", ["/nope: is no run and holds none"]),
    ("interview /nope --turn c0001/3 --ask why", ["/nope: is no run's folder"]),
    ("branch /nope c0001", ["c0001: names no turn; write DIALOGUE/NUMBER, as c0001/3"]),
    ("report /nope thesis --out x.txt --markdown x.html --follow 0",
     ["5 problems", "/nope: no such folder", "thesis: holds no run", "--out x.txt", "--markdown x.html", "--follow 0"]),
    ("arms /nope thesis --out x.txt", ["3 problems", "/nope", "thesis", "--out x.txt"]),
    ("merge_runs /nope thesis --out file", ["2 problems", "/nope", "thesis"]),
    # the judges' lab
    ("judge gone.csv other.jsonl judge=expected", ["2 problems", "source.path=gone.csv: no such file", "source.path=other.jsonl"]),
    ("judge script.jsonl", ["judges: nobody judges", "judge=expected"]),
    ("best_of_n gone.csv judge=expected judges.other.model.path=/nope",
     ["2 problems", "source.path=gone.csv", "judges.other.model.path=/nope"]),
    ("best_of_n chooser=length judge=length decoding@model.decoding=greedy",
     ["2 problems", "judges.other: is the chooser itself", "model.decoding.reply.method=greedy"]),
    ("best_of_n chooser=recorded judge=truth rule_text=best",
     ["2 problems", "judges.chooser: kind=recorded", "rule_text=best: is no rule"]),
    ("best_of_n script.jsonl judge=length instruction=Write context=view", ["2 problems", "instruction: holds no {text}", "context=view"]),
    ("pick gone.csv texts=[a,b] model=/nope rule=longest", ["rule=longest: picks in the place of a model"]),
    ("pick gone.csv texts=[a,a]", ["names a column twice"]),
    ("pick gone.csv texts=[a,b] min_mass=2", ["min_mass"]),
    ("pick gone.csv texts=[a,b]", ["2 problems", "source.path=gone.csv: no such file", "model: nobody picks"]),
    ("posts languages=[en] parts=9 count=2", ["parts=9: there are but 2 posts"]),
    ("posts languages=[en] apart=[gone] run.dir=file", ["3 problems", "model.family=world: ", "apart: gone", "run.dir=file"]),
    ("posts languages=[klingon]", ["language@languages.klingon", "embedded"]),
    ("counts", ["name one file"]),
    ("counts script.jsonl --out x.txt", ["--out x.txt: is written as .json or .md"]),
    # pairs
    ("build_pairs gone.csv judge=[length,truth] choose.high=1 choose.low=2", ["low=2 must be below high=1"]),
    ("build_pairs gone.csv judge=[length,truth]", ["judges: one judge scores the texts, but there are length, truth"]),
    ("build_pairs gone.csv judge=length model=/nope held_out.near=2",
     ["3 problems", "source.path=gone.csv", "model.path=/nope", "held_out.near"]),
    ("dpo gone.jsonl model=/nope", ["2 problems", "data.path=gone.jsonl: no such file", "model.path=/nope"]),
    ("dpo thesis train=kto train.micro_batch=1", ["train.micro_batch=1: kto holds each reply against another one"]),
    ("dpo thesis", ["data.path=thesis: holds no pairs.jsonl"]),
    ("audit gone", ["source.path=gone: no such file or folder"]),
    ("audit against=trth thesis", ["against", "'truth', 'label' or 'people'", "trth"]),
    ("plan gpus=4x16 server.seat=b server.gpus=5", ["server.gpus=5: there are 4 GPUs", "the last ones are the server's"]),
    ("plan gpus=4x16 server.seat=c train.expert=d", ["2 problems", "server.seat=c: is no expert", "train.expert=d: is no expert"]),
    ("serve", ["model.path: has no value"]),
    ("serve one two", ["serve takes one model: here are one, two", "behind --"]),
    ("serve nowhere/x model.quantization=nf4 model.trained=gone server.python=/no/python server.key_from=mine server.gpus=[1,1]",
     ["5 problems", "expertchat merge adapter=gone", "AWQ, GPTQ", "server.python=/no/python: is no program", "server.key_from=mine",
      "names a GPU twice"]),
    ("serve /nope server.container='nocontainer exec x'",
     ["2 problems", "there is no nocontainer here", "model.path=/nope: no such folder"]),
    ("serve embedded:llama server.options=[enforce-eager,--trust-remote-code] server.environment=[1A]",
     ["server.options: are vLLM's", "server.environment: are variables"]),
    ("label gone form=pairz", ["2 problems", "form=pairz", "did you mean pairs?", "source.path=gone"]),
    ("reward_model gone.csv model=/nope held_out.path=[lost.csv] run.dir=file",
     ["4 problems", "source.path=gone.csv", "held_out.path=lost.csv", "model.path=/nope", "run.dir=file"]),
    ("reward_model script.jsonl kind=pairwise threshold=3 first=x train.batch=7 train.micro_batch=2 model.quantization=nf4",
     ["5 problems", "threshold=3", "order=system", "kind=comparison", "no multiple", "model.quantization=nf4"]),
    ("reward_model script.jsonl kind=pairwse", ["kind", "pairwse"]),
    ("metrics gone.csv model=/nope", ["2 problems", "source.path=gone.csv", "model.path=/nope"]),
    ("tokens embedded:gemma hi", ["model.path=embedded:gemma", "llama, mixtral"]),
    ("talk", ["name a model, or a run that has trained one"]),
    ("talk embedded:llama embedded:mixtral", ["talk takes one model, or one run"]),
    ("talk embedded:gemma template=nope device=tpu", ["device"]),
    ("talk embedded:gemma template=nope", ["2 problems", "template=nope: is no file; take chat, none", "llama, mixtral"]),
    ("converse experts.a.trained=thesis experts.b.trained=gone",
     ["2 problems", "experts.a.trained=thesis: is no run, and holds neither", "experts.b.trained=gone: no such folder"]),
    ("tokens embedded:llama", ["there is no text", 'prompt="TEXT"']),
]  # fmt: skip


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # it reads the environment once
    for name in ("EXPERTCHAT_MODELS", "EXPERTCHAT_CLUSTER", "EXPERTCHAT_RUNS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "c.txt").write_text("years")
    (tmp_path / "script.jsonl").write_text(json.dumps({"text": "Hello."}) + "\n")


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(words: list[str], capsys: Err, tmp_path: Path) -> str:
    before = everything(tmp_path)
    code = cli.main(words)
    said = capsys.readouterr()
    assert code == 2, (code, said.out[-500:], said.err)
    assert "Traceback" not in said.out + said.err
    assert everything(tmp_path) == before
    for line in said.err.splitlines():  # what is suggested is never what was written
        if "did you mean" in line:
            assert line.split(": ")[0].lstrip(" -") != line.split("did you mean ")[1].split("?")[0]
    return said.err


@pytest.mark.parametrize(("line", "named"), BAD, ids=[line[:60] for line, _ in BAD])
def test_a_bad_command_line_is_told_whole_and_writes_nothing(line: str, named: list[str], capsys: Err, tmp_path: Path) -> None:
    said = refused(shlex.split(line), capsys, tmp_path)
    assert all(words in said for words in named), said


def test_there_are_more_than_forty_over_all_commands() -> None:
    assert len(BAD) > 40
    assert {line.split()[0] for line, _ in BAD} == set(cli.COMMANDS)


def test_devices_that_are_not_there_are_all_named(capsys: Err, tmp_path: Path) -> None:
    """The one test here that asks torch."""
    words = "converse experts.a.device=cuda:9 experts.b.device=cuda:8 embedder.device=cuda:7 topics=file topics.file=gone.txt"
    said = refused(words.split(), capsys, tmp_path)
    assert "4 problems" in said and all(f"cuda:{n}: torch finds" in said for n in (7, 8, 9))


# -- texts on the command line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("typed", "topics"), [
    ("topics.list=[寿司]", ["寿司"]),
    ("topics.list=[寿司, tides, тема о море]", ["寿司", "tides", "тема о море"]),
    ("topics.list=[été: la mer, ça va?]", ["été: la mer", "ça va?"]),
    ('topics.list=["寿司, 魚", پانی]', ["寿司, 魚", "پانی"]),
    (r"topics.list=[\${x}]", ["${x}"]),
    (r'topics.list=["\${oc.env:HOME} is text"]', ["${oc.env:HOME} is text"]),
    ("topics.list=[what is life?, a: b]", ["what is life?", "a: b"]),
])  # fmt: skip
def test_topics_of_any_script_are_taken_as_they_are_typed(typed: str, topics: list[str], tmp_path: Path) -> None:
    from expertchat.command.frozen import freeze
    from expertchat.command.launch import Job, run

    jobs: list[Job] = []

    def task(job: Job) -> int:
        jobs.append(job)
        return 0

    assert run("converse", ["topics=list", typed], task) == 0
    assert jobs[0].config.topics.list == topics
    (tmp_path / "c.yaml").write_text(freeze(jobs[0].config), "utf-8")  # a job of a cluster gets them so
    assert run("converse", ["--config", "c.yaml", typed], task) == 0
    assert jobs[1].config.topics.list == topics


@pytest.mark.parametrize(("typed", "corrected", "topics"), [
    ("topics.list=[it's life]", '''topics.list=["it's life"]''', ["it's life"]),
    ("topics.list=[l'été, 寿司]", '''topics.list=["l'été","寿司"]''', ["l'été", "寿司"]),
    ("topics.list=[a (b), c=d]", 'topics.list=["a (b)","c=d"]', ["a (b)", "c=d"]),
])  # fmt: skip
def test_what_hydra_cannot_read_is_shown_as_it_must_be_written(
    typed: str, corrected: str, topics: list[str], capsys: Err, tmp_path: Path
) -> None:
    from expertchat.command.compose import load

    said = refused(["converse", "topics=list", typed], capsys, tmp_path)
    assert said.splitlines() == [said.strip()]  # one message, and no second one that the list is empty
    shown = said.strip().rsplit("for the shell: ", 1)[1]
    assert shlex.split(shown) == [corrected]
    assert load("converse", ["topics=list", corrected]).topics.list == topics
