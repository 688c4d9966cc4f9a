"""Likelihoods that are computed already: a command that was killed computes none of them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from expertchat.config import ConfigError, ModelConfig
from expertchat.folder.embedded import PREFIX, models_id
from expertchat.folder.jsonl import Log, read_lines

Request = tuple[tuple[int, ...], list[tuple[int, ...]]]  # a prompt and one reply to it


class Kept:
    """Sums of log-probabilities by what was asked of which model; appended to `path`, where there is one, as they come.

    Raises ConfigError where the file cannot be read or written.
    """

    def __init__(self, path: Path | None = None, model: ModelConfig | None = None) -> None:
        self.path = path
        told = {"path", "revision", "dtype", "quantization", "thinking"} | ({"trained"} if model is not None and model.trained else set())
        self._model = "" if model is None else model.model_dump_json(include=told)
        if model is not None and model.path.startswith(PREFIX):
            self._model += f" {models_id()}"
        self._log: Log | None = None
        self._known: dict[str, float | None] = {}
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._log = Log(path)
            except OSError as error:
                raise ConfigError(f"rows: cannot write {path} ({error.strerror or error}); name another file") from None
            self._known = {str(line.get("key")): line.get("logp") for _, line in read_lines(path)}
        self.before = len(self._known)

    def sums(self, requests: Sequence[Request], compute: Callable[[list[Request]], list[float]]) -> list[float]:
        """The sum of each request, in order; `compute` is asked for those that are not known."""
        keys = [self._key(request) for request in requests]
        new = {key: request for key, request in zip(keys, requests, strict=True) if key not in self._known}
        for key, logp in zip(new, compute(list(new.values())) if new else [], strict=True):
            finite = logp if abs(logp) < float("inf") else None  # not-a-number is not below anything
            self._known[key] = finite
            if self._log is not None:
                self._log.append(json.dumps({"key": key, "logp": finite}))
        return [float("nan") if (known := self._known[key]) is None else known for key in keys]

    def close(self, done: bool) -> None:
        """Once the figures are written, the file is of no use any more."""
        if self._log is not None and self.path is not None:
            self._log.close()
            if done:
                self.path.unlink(missing_ok=True)

    def _key(self, request: Request) -> str:
        return hashlib.sha256(f"{self._model} {request}".encode()).hexdigest()[:24]
