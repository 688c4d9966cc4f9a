"""The folder of `expertchat best_of_n`: prompts, candidates, what judges say and what was chosen, each appended once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expertchat.choosing.prompts import Asked
from expertchat.config import ConfigError
from expertchat.events import AnyEvent, CandidateChosen
from expertchat.folder.jsonl import read_lines, read_records
from expertchat.folder.run_folder import RunFolder
from expertchat.records import Answer, Candidate, ExpertRef, JudgeRef, Opinion, Prompt, Selection, Transcript

REMEDY = "restore it or name another run.dir"


class ChoosingFolder(RunFolder):
    """A folder of best_of_n that this process writes. Raises ConfigError as RunFolder does, and where it answers other prompts."""

    logs = ("events", "prompts", "transcripts", "candidates", "answers", "judges", "opinions", "selections")

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        command_line: list[str],
        say: Callable[[str], None] = lambda text: None,
        writes: bool = True,
    ) -> None:
        super().__init__(folder, config, command_line, say, writes)
        self.asked: Sequence[Asked] = ()
        self.histories: dict[str, Transcript] = {}
        self.candidates: dict[str, Candidate] = {}
        self.answers: dict[str, Answer] = {}
        self.opinions: dict[str, Opinion] = {}
        self.selections: dict[str, Selection] = {}
        self._prompts: set[str] = set()
        self._judges: set[str] = set()
        self._told: set[str] = set()

    def begin(self, asked: Sequence[Asked], judges: Sequence[JudgeRef]) -> None:
        """`open`, and keep what is answered and by whom it is judged. What was there stays, and is not written again."""
        self.asked = asked
        self.open()
        for one in asked:
            if one.id not in self._prompts:
                self.append("prompts", one.prompt)
        for judge in judges:
            if judge.id not in self._judges:
                self.append("judges", judge)
        for selection in self.selections.values():
            if selection.id not in self._told:  # killed between the record and its event
                self.append("events", CandidateChosen(time=time.time(), selection=selection))

    def find(self) -> None:
        """Read what an earlier start has left, and see that it answers the same prompts."""
        for kept, one in zip(read_records(self.folder / "prompts.jsonl", Prompt, REMEDY), self.asked, strict=False):
            if kept.to_json() != one.prompt.to_json():
                told = f"{kept.id} was {kept.origin} and is {one.prompt.origin}"
                raise ConfigError(f"source: has changed since {self.folder} was begun: {told}; restore it, or name another run.dir")
            self._prompts.add(kept.id)
        self.histories = {one.id: one for one in read_records(self.folder / "transcripts.jsonl", Transcript, REMEDY)}
        self._judges = {judge.id for judge in read_records(self.folder / "judges.jsonl", JudgeRef, REMEDY)}
        self.candidates = {one.id: one for one in read_records(self.folder / "candidates.jsonl", Candidate, REMEDY)}
        self.answers = {one.id: one for one in read_records(self.folder / "answers.jsonl", Answer, REMEDY)}
        self.opinions = {one.id: one for one in read_records(self.folder / "opinions.jsonl", Opinion, REMEDY)}
        self.selections = {one.id: one for one in read_records(self.folder / "selections.jsonl", Selection, REMEDY)}
        events = (line.get("selection") for _, line in read_lines(self.folder / "events.jsonl"))
        self._told = {str(one.get("id")) for one in events if isinstance(one, dict)}

    def left(self) -> list[Asked]:
        """The prompts of which something is not on disk: files that a broken machine left may end at different places."""
        candidates = Counter(one.transcript for one in self.candidates.values())
        opinions = Counter(one.item.partition("/")[0] for one in self.opinions.values())

        def whole(one: Asked) -> bool:
            found = self.selections.get(one.id)
            drawn = found is not None and one.id in self.histories and candidates[one.id] == len(found.keys) * bool(found.scores)
            return drawn and opinions[one.id] >= (found.opinions if found is not None else 0)

        return [one for one in self.asked if not whole(one)]

    def keep_answer(self, answer: Answer) -> None:
        """Append what a model answered, once."""
        self.append_new("answers", self.answers, answer)

    def keep_history(self, asked: Asked, experts: Mapping[str, ExpertRef]) -> None:
        """Append what was said before the reply to a prompt, once."""
        if asked.id not in self.histories:
            history = Transcript(
                id=asked.id, topic=asked.topic, experts=dict(experts), turns=list(asked.turns), seed=self.config["run"]["seed"],
                stop_reason="turns",
            )  # fmt: skip
            self.append_new("transcripts", self.histories, history)

    def keep_candidate(self, candidate: Candidate) -> None:
        """Append a candidate, once."""
        self.append_new("candidates", self.candidates, candidate)

    def keep_opinion(self, opinion: Opinion) -> None:
        """Append what a judge says, once."""
        if self.append_new("opinions", self.opinions, opinion):
            self.sync_now_and_then()

    def send(self, event: AnyEvent) -> None:
        """Write an event, and the selection that it carries before it, once."""
        if self.passes(event):
            return
        if isinstance(event, CandidateChosen) and not self.append_new("selections", self.selections, event.selection):
            return
        self.append("events", event)
