"""`expertchat interview RUN --turn c0001/4`: an expert is asked about a dialogue at a turn of it, and the run knows nothing of that.

Each question is asked by itself of the expert as it stood there: after the same turns, with the weights and the persona of then. So no
question leaves a trace in the dialogue, nor in the next question.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertchat.backends.base import Completion, GenerateRequest
from expertchat.config import ConfigError
from expertchat.experts.base import ExpertChat, History
from expertchat.experts.registry import make_expert
from expertchat.folder.reader import RunReader
from expertchat.folder.textfile import read_text
from expertchat.metrics.loaded import load_model
from expertchat.metrics.said import find_said, model_of, weights_of
from expertchat.records import Message, Speaker, Transcript

_FILE = re.compile(r"\S*[/.]\S*|.*\.[A-Za-z]\w{1,4}")  # what is meant as a file: no sentence in which a dot or a slash stands
ASIDE = "Outside of the discussion, which goes on without this: {question}"


@dataclass(frozen=True)
class Interview:
    """An expert at a turn of a dialogue: what it has said and heard up to and with that turn."""

    transcript: Transcript
    index: int
    seat: Speaker
    expert: ExpertChat
    backend: Any
    seed: int

    @property
    def turns(self) -> int:
        """How many turns it knows."""
        return self.index + 1

    def ask(self, questions: Sequence[str]) -> list[dict[str, Any]]:
        """A row for each question with the answer. Raises ConfigError where the dialogue leaves no room for a question."""
        found: list[Completion] = self.backend.generate([self._request(i, question) for i, question in enumerate(questions)])
        return [
            {
                "dialogue": self.transcript.id, "turn": self.index, "expert": self.seat, "policy_version": self.expert.ref.policy_version,
                "question": question, "answer": self.expert.read_answer(answer.text).text.strip(), "cut": answer.finish == "length",
                "tokens": answer.tokens, "seed": self.seed,
            }
            for question, answer in zip(questions, found, strict=True)
        ]  # fmt: skip

    def _request(self, number: int, question: str) -> GenerateRequest:
        """The question after the turns, the oldest of which are left out until it fits."""
        asked = Message("user", ASIDE.format(question=question.strip()))
        room = self.expert.context_length - self.expert.settings.reply.max_new_tokens
        turns = self.transcript.turns[: self.turns]
        for start in range(len(turns)):
            messages = self.expert.chat("", [*self.expert.view(History(self.transcript.topic, tuple(turns[start:]))), asked])
            if self.backend.count_tokens(messages) <= room:
                return GenerateRequest(f"{self.transcript.id}/t{self.index:02d}/interview/{number}", messages, self.expert.settings.reply)
        raise ConfigError(f"--ask: question {number + 1} does not fit into the {room} tokens beside the answer; shorten it")


def open_interview(folder: Path, turn: str, of: str | None, models_dir: str | None, device: str | None, seed: int | None) -> Interview:
    """Load the expert who spoke a turn, or another one (`of`), as it was then. Raises ConfigError."""
    run = RunReader(folder.expanduser(), "name another run")
    if not run.begun:
        raise ConfigError(f"{folder}: is no run's folder; name one that holds config.yaml and transcripts.jsonl")
    said = find_said(run, turn)
    seat = of or said.speaker
    if seat not in said.transcript.experts:
        raise ConfigError(f"--of {seat}: is no expert of {said.transcript.id}; there are {', '.join(said.transcript.experts)}")
    if said.transcript.experts[seat].family == "human":
        raise ConfigError(f"--of {seat}: is a person, whom nothing here can ask; name another expert with --of")
    version = said.version if seat == said.speaker else said.transcript.experts[seat].policy_version
    model, weights = model_of(run, seat, models_dir, device), weights_of(run, seat, version)
    if weights is not None:
        model = model.model_copy(update={"trained": str(weights)})
    drawn = (run.seed or 0) if seed is None else seed
    backend = load_model(model, drawn, exact=False)
    expert = make_expert(seat, model, backend.info, tuple(said.transcript.experts))
    expert.ref = expert.ref.model_copy(update={"policy_version": version})
    return Interview(said.transcript, said.index, seat, expert, backend, drawn)


def questions_of(word: str) -> list[str]:
    """The questions of a file, one a line with # comments, or the one that the word is. Raises ConfigError."""
    path = Path(word).expanduser()
    if not os.path.isfile(path):  # which takes a long question for no file
        if _FILE.fullmatch(word.strip()):
            raise ConfigError(f"--ask {word}: no such file; name a file of questions, or write the question itself")
        return [word] if word.strip() else []
    found = list(_lines(read_text(path, "--ask").splitlines()))
    if not found:
        raise ConfigError(f"--ask {word}: holds no question; write one a line")
    return found


def _lines(lines: Iterable[str]) -> Iterator[str]:
    yield from (line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
