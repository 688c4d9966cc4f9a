"""The folder of `expertchat judge`: items, judges, opinions and what models answered, each appended once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError
from expertchat.events import AnyEvent, OpinionGiven
from expertchat.folder.embedded import noted
from expertchat.folder.jsonl import read_json, read_lines, read_records
from expertchat.folder.reader import read_config
from expertchat.folder.run_folder import RunFolder
from expertchat.folder.writing import replace
from expertchat.lab.config import JudgeConfig, JudgesConfig, LabConfig
from expertchat.records import Answer, Item, JudgeRef, Opinion
from expertchat.text.sentences import as_yaml

REMEDY = "restore it or name another run.dir"


def with_earlier_judges(config: LabConfig, folder: Path) -> tuple[LabConfig, list[str]]:
    """The config with the judges that the folder has already, and the names of those that are new to it.

    So judges are added to a run, and each name of one stands for one same judge.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        return config, []
    judges, now = read_config(file, "name another run.dir").get("judges"), config.judges.root
    if not isinstance(judges, Mapping):
        return config, []  # it is no such run, which opening it will say
    try:
        earlier = {name: _here(judge, config.models_dir) for name, judge in judges.items() if name not in now}
    except ValueError:
        raise ConfigError(f"run.dir: {folder} has judges of another version; name another run.dir") from None
    whole = JudgesConfig.model_construct(root=earlier | now)
    return config.model_copy(update={"judges": whole}), [name for name in now if name not in judges]


def _here(judge: Any, models_dir: str | None) -> JudgeConfig:
    """A judge as a run has kept it, its model looked for where this machine has its models."""
    found = JudgeConfig.model_validate(judge)
    if found.model is None:
        return found
    return found.model_copy(update={"model": found.model.model_copy(update={"models_dir": models_dir})})


class LabFolder(RunFolder):
    """A judges' folder that this process writes. `added`: judges that were not there when it was begun.

    Raises ConfigError as RunFolder does, and in `begin` where it holds the items of something else.
    """

    logs: tuple[str, ...] = ("events", "items", "judges", "opinions", "answers")

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        command_line: list[str],
        say: Callable[[str], None] = lambda text: None,
        added: Sequence[str] = (),
    ) -> None:
        self.added = list(added)
        super().__init__(folder, config, command_line, say)
        self.items: Sequence[Item] = ()
        self.judges: Sequence[JudgeRef] = ()
        self.opinions: dict[str, Opinion] = {}
        self.answers: dict[str, Answer] = {}
        self._kept = 0
        self._judges: set[str] = set()
        self._told: set[str] = set()  # opinions whose event is written

    def _check(self) -> None:
        before, known = self.config, {name: judge for name, judge in self.config["judges"].items() if name not in self.added}
        self.config = {**before, "judges": known}  # what was not there cannot differ
        try:
            super()._check()
        finally:
            self.config = before
        if self.added:
            self._refuse_other_models()  # also of a run that was done
            self.summary = None

    def begin(self, items: Sequence[Item], judges: Sequence[JudgeRef]) -> None:
        """`open`, and keep what is judged and by whom. What was there stays, and is not written again."""
        self.items, self.judges = items, judges
        self.open()
        if self.added and self.resumed:
            with self.writing():
                told = (read_json(self.folder / "provenance.json") or {}) | noted(self.config)
                replace(self.folder / "provenance.json", json.dumps(told, indent=2) + "\n", mode=0o600)
                (self.folder / "summary.json").unlink(missing_ok=True)  # first: with the new judge in its config it would look done
                replace(self.folder / "config.yaml", as_yaml(self.config), sync=True)
        for item in items[self._kept :]:
            self.append("items", item)
        for judge in judges:
            if judge.id not in self._judges:
                self.append("judges", judge)
        for opinion in self.opinions.values():
            if opinion.id not in self._told:  # killed between the opinion and its event
                self.append("events", OpinionGiven(time=time.time(), opinion=opinion))

    def find(self) -> None:
        """Read what an earlier start has left, and see that it is of the same items."""
        for kept, item in zip(read_records(self.folder / "items.jsonl", Item, REMEDY), self.items, strict=False):
            if kept.to_json() != item.to_json():
                what = f"item {kept.id} is another one now" if kept.id == item.id else f"where {kept.id} was is {item.id}"
                raise ConfigError(f"source: has changed since {self.folder} was begun: {what}; restore it, or name another run.dir")
            self._kept += 1
        if sum(1 for _ in read_lines(self.folder / "items.jsonl")) > len(self.items):
            raise ConfigError(f"source: holds fewer items than when {self.folder} was begun; restore it, or name another run.dir")
        self._judges = {judge.id for judge in read_records(self.folder / "judges.jsonl", JudgeRef, REMEDY)}
        self.opinions = {one.id: one for one in read_records(self.folder / "opinions.jsonl", Opinion, REMEDY)}
        self.answers = {one.id: one for one in read_records(self.folder / "answers.jsonl", Answer, REMEDY)}
        told = (line.get("opinion") for _, line in read_lines(self.folder / "events.jsonl"))
        self._told = {str(opinion.get("id")) for opinion in told if isinstance(opinion, dict)}

    def keep(self, answer: Answer) -> None:
        """Append what a model answered, once."""
        self.append_new("answers", self.answers, answer)

    def send(self, event: AnyEvent) -> None:
        """Write an event, and the opinion that it carries before it, each once."""
        if self.passes(event):
            return
        if isinstance(event, OpinionGiven):
            if not self.append_new("opinions", self.opinions, event.opinion):
                return
            self.sync_now_and_then()
        self.append("events", event)
