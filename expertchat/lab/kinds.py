"""The kinds of judges that there are, and who makes which."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from expertchat.backends.reward_folders import compares
from expertchat.lab.config import JudgeConfig
from expertchat.lab.judge import Bench, LabJudge
from expertchat.lab.models import Between, Comparer, Rater, Scorer
from expertchat.lab.recorded import Recorded
from expertchat.lab.rules import Rule
from expertchat.records import Item

Maker = Callable[[str, JudgeConfig, Bench, Sequence[Item]], LabJudge]

# A new kind is a file of lab/, a value of JudgeConfig.kind and a line here.
KINDS: dict[str, Maker] = {
    "model": lambda name, judge, bench, items: (Comparer if judge.form == "pairwise" else Rater)(name, judge, bench),
    "reward_model": lambda name, judge, bench, items: (Between if _compares(judge) else Scorer)(name, judge, bench),
    "rule": lambda name, judge, bench, items: Rule(name, judge, bench.config.run.seed),
    "recorded": Recorded.of,
}


def _compares(judge: JudgeConfig) -> bool:
    """Whether its reward model reads two texts at once."""
    model = judge.reward_model
    return model is not None and model.backend == "local" and model.label is None and compares(model.path, model.revision, model.models_dir)


def judges_of(bench: Bench, items: Sequence[Item]) -> list[LabJudge]:
    """The judges of a run, in the order of its config. Raises ConfigError for one that cannot be made."""
    return [KINDS[judge.kind](name, judge, bench, items) for name, judge in bench.config.judges.items()]
