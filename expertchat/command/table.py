"""The commands, each with all that others must know of it. A line here and a file in doors/ make a new one.

What a line names is imported when it is wanted: `expertchat --help` reads this table and nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple


class Command(NamedTuple):
    """One command. Places are "module:name" inside of this package, as "doors.converse:run". (A dataclass would cost --help 5 ms more.)"""

    name: str
    help: str  # its line of `expertchat --help`
    door: str  # run(arguments) -> exit code
    words: str = ""  # what stands between its name and KEY=VALUE
    # -- its config; None: it reads its arguments itself
    root: str | None = None  # its file conf/ROOT.yaml
    config: str | None = None  # the class that its values are checked by
    composed: bool = True  # whether Hydra composes its overrides; those of submit are another command's
    overrides: str | None = None  # overrides(words) -> overrides, of words that are none yet
    added: tuple[str, ...] = ()  # groups that it has no choice of yet: +experiment=NAME, +model@third=NAME
    # -- before it starts
    check: str | None = None  # check(config, here) -> what keeps it from being run
    models: str | None = None  # models(config) -> (path, models_dir) of each model that it may fetch; None: it never asks the network
    # -- how it runs
    resumes: bool = False  # whether it is a run: with a folder, run.dir, in which it goes on
    jobs: bool = False  # whether it may run as jobs: by submit, or its sweep on Slurm. Its config has run and view
    parts: bool = False  # whether the tasks of an array may share its dialogues out (conversation.part)
    work: str | None = None  # a command.work.Work: how long a job will take, by earlier runs
    gib: float = 0.7  # main memory of one process with the embedded models, as measured on a CPU


def find(place: str) -> Any:
    """What stands at "module:name" of this package."""
    module, _, name = place.partition(":")
    return getattr(import_module(f"expertchat.{module}"), name)


# In the order of `expertchat --help`.
_ALL = (
    Command(
        "converse", "two experts talk, rate each other and say what is missing", "doors.converse:run",
        root="converse", config="talk.config:ConverseConfig", added=("model@third", "model@moderator", "reward_model", "experiment"),
        check="doors.converse:check", models="command.check_runs:named", overrides="doors.converse:meant", resumes=True, jobs=True,
        parts=True, work="doors.converse:WORK",
    ),
    Command(
        "online_dpo", "rounds of conversation, judgement and DPO: the experts learn from each other", "doors.online_dpo:run",
        root="online_dpo", config="training.config:OnlineDpoConfig",
        added=("model@third", "model@moderator", "reward_model", "experiment", "control"),
        check="doors.online_dpo:check", models="command.check_runs:named", overrides="doors.online_dpo:meant", resumes=True, jobs=True,
        work="doors.online_dpo:WORK", gib=0.9,
    ),
    Command(
        "rloo", "online_dpo's rounds with a policy gradient: each reply against the others to its history", "doors.rloo:run",
        root="rloo", config="training.config:PolicyGradientConfig",
        added=("model@third", "model@moderator", "reward_model", "experiment", "control"),
        check="doors.rloo:check", models="command.check_runs:named", resumes=True, jobs=True, work="doors.rloo:WORK", gib=0.9,
    ),
    Command(
        "grpo", "the same by GRPO: each reply against its group, token by token", "doors.grpo:run",
        root="grpo", config="training.config:PolicyGradientConfig",
        added=("model@third", "model@moderator", "reward_model", "experiment", "control"),
        check="doors.grpo:check", models="command.check_runs:named", resumes=True, jobs=True, work="doors.grpo:WORK", gib=0.9,
    ),
    Command(
        "sft", "teach a model by rows of prompts and answers, or by a run's best dialogues: expertchat sft FILE|RUN", "doors.sft:run",
        words="FILE|RUN [--show N]", root="sft", config="training.sft_config:SftConfig", check="doors.sft:check", models="doors.sft:named",
        overrides="command.taught:taught", resumes=True, jobs=True, work="doors.sft:WORK", gib=0.9,
    ),
    Command(
        "build_pairs", "pairs for DPO out of rated texts: expertchat build_pairs SOURCE judge=truth model=embedded_llama",
        "doors.build_pairs:run", words="SOURCE [SOURCE ...]", root="build_pairs", config="building.config:BuildConfig",
        added=("judge@judges.NAME",), check="doors.build_pairs:check", models="doors.build_pairs:named",
        overrides="doors.build_pairs:meant", resumes=True, jobs=True,
    ),
    Command(
        "dpo", "train a model on pairs or judged replies that are there: expertchat dpo FILE|RUN [train=kto]", "doors.dpo:run",
        words="FILE|RUN", root="dpo", config="training.dpo_config:DpoConfig", added=("model@third",), check="doors.dpo:check",
        models="doors.dpo:named", overrides="doors.dpo:in_full", resumes=True, jobs=True, work="doors.dpo:WORK", gib=0.9,
    ),
    Command(
        "reward_model", "train a model that gives texts a number, from pairs, ratings, labels: expertchat reward_model SOURCE [kind=...]",
        "doors.reward_model:run", words="SOURCE [SOURCE ...]", root="reward_model", config="reward_models.config:RewardModelTraining",
        check="doors.reward_model:check", models="doors.reward_model:named", overrides="doors.reward_model:overrides",
        resumes=True, jobs=True, work="doors.reward_model:WORK", gib=1.1,
    ),
    Command(
        "posts", "synthetic posts of a neighbourhood, of personas and topics, none like another: expertchat posts languages=[en,de]",
        "doors.posts:run", root="posts", config="posts.config:PostsConfig", added=("language@languages.NAME",), check="doors.posts:check",
        models="command.check_runs:named", overrides="doors.posts:meant", resumes=True, jobs=True,
    ),
    Command(
        "best_of_n", "n replies to each prompt, one chosen by a judge, judged again by another: expertchat best_of_n [RUN|TABLE]",
        "doors.best_of_n:run", words="[SOURCE ...]", root="best_of_n", config="choosing.config:BestOfNConfig",
        added=("judge@judges.NAME", "experiment"), check="doors.best_of_n:check", models="doors.best_of_n:named",
        overrides="doors.best_of_n:meant", resumes=True, jobs=True, work="doors.best_of_n:WORK",
    ),
    Command(
        "talk", "a prompt loop with a model, or with what a run has trained: expertchat talk MODEL|RUN", "doors.talk:run",
        words="MODEL|RUN", root="talk", config="prompting.config:TalkConfig", check="doors.talk:check", models="doors.talk:named",
    ),
    Command(
        "interview", "ask an expert about a dialogue without a trace in it: expertchat interview RUN --turn c0001/4 [--ask FILE]",
        "doors.interview:run",
    ),
    Command(
        "branch", "a dialogue goes on from any turn, otherwise: expertchat branch RUN c0001/3 experts.b=MODEL [--edit TEXT]",
        "doors.branch:run",
    ),
    Command(
        "serve", "a model behind an address, by vLLM, for any number of runs: expertchat serve MODEL",
        "doors.serve:run", words="MODEL [-- COMMAND ...]", root="serve", config="serving.config:ServeConfig", check="doors.serve:check",
        models="doors.serve:named", overrides="doors.serve:meant", resumes=True, jobs=True,
    ),
    Command(
        "judge", "judge what exists, again and in other ways: expertchat judge RUN|TABLE judge=expected", "doors.judge:run",
        words="SOURCE [SOURCE ...]", root="judge", config="lab.config:LabConfig", added=("judge@judges.NAME",), check="doors.judge:check",
        models="doors.judge:named", overrides="doors.judge:meant", resumes=True, jobs=True, work="doors.judge:WORK",
    ),
    Command(
        "pick", "which of several texts of a row is the best, in every order: expertchat pick TABLE texts=[rule,base,best]",
        "doors.pick:run", words="TABLE", root="pick", config="picking.config:PickConfig", check="doors.pick:check",
        models="doors.pick:named", overrides="doors.pick:meant", resumes=True, jobs=True,
    ),
    Command(
        "counts", "what counts and shares that others have reported can carry: expertchat counts FILE.yaml", "doors.counts:run",
    ),
    Command(
        "label", "people rate and compare texts, in the terminal or a browser: expertchat label SOURCE [serve=true]", "doors.label:run",
        words="SOURCE", root="label", config="labels.config:LabelConfig", check="doors.label:check", models="doors.label:named",
    ),
    Command(
        "audit", "how good is a judge: its agreement, leanings and steadiness, with intervals: expertchat audit SOURCE [SOURCE ...]",
        "doors.audit:run", words="SOURCE [SOURCE ...]", root="audit", config="audit.config:AuditConfig", check="doors.audit:check",
    ),
    Command("wim", "does the WIM score reward what it says: expertchat wim RUN [RUN ...] [--out FILE.json]", "doors.wim:run"),
    Command("arms", "one table of several training runs: expertchat arms RUN [RUN ...] [--out FILE.md|.csv|.json]", "doors.arms:run"),
    Command(
        "metrics", "ROUGE, BLEU, perplexity, repeats and more of texts that are there: expertchat metrics SOURCE [reference=COLUMN]",
        "doors.metrics:run", words="SOURCE ...", root="metrics", config="metrics.config:MetricsConfig",
        added=("reward_model@classifiers.NAME",), check="doors.metrics:check",
        models="doors.metrics:named",
    ),
    Command(
        "tokens", 'how likely each token is to a model: expertchat tokens MODEL "TEXT", expertchat tokens RUN --turn c0001/3',
        "doors.tokens:run", words='MODEL "TEXT" | RUN --turn NAME', root="tokens", config="metrics.config:TokensConfig",
        check="doors.tokens:check", models="doors.tokens:named",
    ),
    Command(
        "merge", "full weights from a base and what a run has trained: expertchat merge adapter=RUN out=FOLDER", "doors.merge:run",
        root="merge", config="training.merge_config:MergeConfig", check="doors.merge:check",
    ),
    Command(
        "study", "a whole study, step by step, from its texts to its tables: expertchat study NAME [smoke|small|full]", "doors.study:run",
    ),
    Command(
        "submit", "a command as a Slurm job that goes on by itself: expertchat submit online_dpo +experiment=embedded cluster=narval",
        "doors.submit:run", words="COMMAND", root="submit", config="slurm.config:SubmitConfig", composed=False,
    ),
    Command("report", "one HTML file with figures and all transcripts: expertchat report RUN|FOLDER ...", "doors.report:run"),
    Command("runs", "the runs of a folder with their states: expertchat runs [FOLDER ...]", "doors.runs:run"),
    Command(
        "merge_runs", "the tasks of an array, or runs that differ in their seeds, as one run: expertchat merge_runs RUN [RUN ...]",
        "doors.merge_runs:run",
    ),
    Command("watch", "follow or replay a run: expertchat watch RUN [--speed X] [--conversation ID]", "doors.watch:run"),
    Command(
        "bench", "how fast a model runs here: one by one, batched, through the engine, and the limit", "doors.bench:run",
        root="bench", config="bench.config:BenchConfig", check="doors.bench:check", models="doors.bench:named",
    ),
    Command(
        "models", "which models are here and whole: expertchat models, expertchat models verify [NAME ...]", "doors.models:run",
        root="models", config="plan.config:ModelsConfig", check="doors.models:check",
    ),
    Command(
        "plan", "will it fit, and what goes on which GPU: expertchat plan gpus=4x16", "doors.plan:run",
        root="plan", config="plan.config:PlanConfig", check="doors.plan:check",
    ),
    Command(
        "world", "the embedded models: expertchat world build (train them again), check (measure them)", "doors.world:run",
        words="build|check", root="world", config="world.config:WorldConfig", check="doors.world:check",
    ),
)  # fmt: skip
COMMANDS = {command.name: command for command in _ALL}
