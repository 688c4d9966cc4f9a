"""`expertchat pick`: which of several texts is the best, asked in every order, into one folder that the same command goes on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expertchat.backends.asking import Flow
from expertchat.backends.base import Backend
from expertchat.config import ConfigError
from expertchat.events import AnyEvent, Sink
from expertchat.folder.jsonl import read_records
from expertchat.folder.run_folder import RunFolder
from expertchat.folder.summary import seconds_of
from expertchat.lab.frame import RunFrame
from expertchat.picking.asking import by_model, by_rule, pick_id
from expertchat.picking.config import JUDGE, PickConfig
from expertchat.picking.reading import read_rows
from expertchat.picking.summary import summarise
from expertchat.records import Answer, Pick, PickRow
from expertchat.talk.cast import load_cast
from expertchat.talk.journal import Journal

REMEDY = "restore it or name another run.dir"
ROWS, PICKS = "rows", "picks"


class PickFolder(RunFolder):
    """A folder of picks that this process writes. Raises ConfigError as RunFolder does, and in `begin` where it holds other rows."""

    logs = ("events", ROWS, "answers", PICKS)

    def __init__(
        self, folder: Path, config: Mapping[str, Any], command_line: list[str], say: Callable[[str], None] = lambda text: None
    ) -> None:
        super().__init__(folder, config, command_line, say)
        self.rows: Sequence[PickRow] = ()
        self.answers: dict[str, Answer] = {}
        self.picks: dict[str, Pick] = {}
        self._there: set[str] = set()

    def begin(self, rows: Sequence[PickRow]) -> None:
        """`open`, and keep what is judged."""
        self.rows = rows
        self.open()
        for row in rows:
            if row.id not in self._there:
                self.append(ROWS, row)

    def find(self) -> None:
        """Read what an earlier start has left, and see that it is of the same rows."""
        for kept, row in zip(read_records(self.folder / f"{ROWS}.jsonl", PickRow, REMEDY), self.rows, strict=False):
            if kept.to_json() != row.to_json():
                raise ConfigError(f"source: has changed since {self.folder} was begun (row {kept.id}); restore it, or name another run.dir")
            self._there.add(kept.id)
        self.answers = {one.id: one for one in read_records(self.folder / "answers.jsonl", Answer, REMEDY)}
        self.picks = {one.id: one for one in read_records(self.folder / f"{PICKS}.jsonl", Pick, REMEDY)}

    def keep_answer(self, answer: Answer) -> None:
        """Append what the model answered, once."""
        self.append_new("answers", self.answers, answer)

    def keep(self, pick: Pick) -> None:
        """Append what was picked, once."""
        if self.append_new(PICKS, self.picks, pick):
            self.sync_now_and_then()

    def send(self, event: AnyEvent) -> None:
        """Write an event."""
        if not self.passes(event):
            self.append("events", event)


def run_pick(config: PickConfig, command_line: list[str], sink: Sink, *, backends: Mapping[str, Backend] | None = None) -> int:
    """Pick, or go on with it. Returns 0 when it is done, 3 when it was stopped and can go on, 1 when nothing was picked at all.

    `sink` is closed at the end. `backends` ("judge") replace those of the config. Raises ConfigError for what is wrong with the config or
    the source.
    """
    return _Picking(config, command_line, backends).run(sink)


class _Picking(RunFrame[PickConfig, PickFolder]):
    command, folder = "pick", PickFolder

    def read(self) -> None:
        self.rows = read_rows(self.config, self.told.append)

    def work(self) -> int:
        store, config = self.store, self.config
        if config.model is not None:
            self.loaded(lambda: load_cast(config, self.hub, self.backends, None))
        if not all(backend.capabilities.scores for backend in self.cast.backends.values()):
            raise ConfigError("model: tells no probabilities, and the pick is the likeliest letter; take another model, or rule=NAME")
        store.begin(self.rows)
        left = [row for row in self.rows if not all(pick_id(row.id, order) in store.picks for order in config.all_orders)]
        total = len(self.rows)
        self.begins(conversations=total, turns=0, candidates=len(config.all_orders), resumed=total - len(left))
        if config.model is None:
            for row in left:
                self._keep(by_rule(config, row))
        elif not self.asked((self._picked(row) for row in left), total, total - len(left)):
            return self.stopped()
        return self.finished(self._summary())

    def _picked(self, row: PickRow) -> Flow[None]:
        journal = Journal(self.store.answers, self.store.keep_answer)
        self._keep((yield from journal.over(by_model(self.config, self.cast.experts[JUDGE], self.cast.tokens.get(JUDGE), row))))
        self.forget(f"{row.id}/")

    def _keep(self, picks: Sequence[Pick]) -> None:
        for pick in picks:
            self.store.keep(pick)

    def _summary(self) -> dict[str, Any]:
        config, picks = self.config, list(self.store.picks.values())
        judge = f"rule={config.rule}" if config.model is None else self.cast.experts[JUDGE].ref.model
        found = summarise(self.rows, picks, config.all_orders, config.run.seed, config.resamples)
        return found | {"judge": judge, "seconds": round(seconds_of(self.store.folder), 2)}
