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
    added: tuple[str, ...] = ()  # groups that it has no choice of yet: +experiment=NAME, +model@third=NAME
    # -- before it starts
    check: str | None = None  # check(config, here) -> what keeps it from being run
    models: str | None = None  # models(config) -> (path, models_dir) of each model that it may fetch; None: it never asks the network
    # -- how it runs
    resumes: bool = False  # whether it is a run: with a folder, run.dir, in which it goes on
    jobs: bool = False  # whether it may run as jobs: by submit, or its sweep on Slurm. Its config has experts, embedder, models_dir, view
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
        check="doors.converse:check", models="command.check_runs:named", resumes=True, jobs=True, parts=True, work="doors.converse:WORK",
    ),
    Command(
        "online_dpo", "rounds of conversation, judgement and DPO: the experts learn from each other", "doors.online_dpo:run",
        root="online_dpo", config="training.config:OnlineDpoConfig",
        added=("model@third", "model@moderator", "reward_model", "experiment", "control"),
        check="doors.online_dpo:check", models="command.check_runs:named", resumes=True, jobs=True, work="doors.online_dpo:WORK", gib=0.9,
    ),
    Command(
    ),
    Command(
        "label", "people rate and compare texts, in the terminal or a browser: expertchat label SOURCE [serve=true]", "doors.label:run",
        words="SOURCE", root="label", config="labels.config:LabelConfig", check="doors.label:check", models="doors.label:named",
