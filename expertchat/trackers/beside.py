"""Trackers beside a view: they hear of a run what it announces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expertchat.config import Group
from expertchat.events import AnyEvent, Measured, Note, RunFinished, RunStarted, Sink
from expertchat.folder.reader import RunReader
from expertchat.trackers.tracking import Tracking, check_trackers, open_trackers


def with_trackers(config: Group, view: Sink) -> Sink:
    """The view, with the trackers of `report_to` beside it where there are such. Raises ConfigError where one is not installed."""
    names: list[str] = getattr(config, "report_to", [])
    check_trackers(names)
    return Beside(names, config, view) if names else view


class Beside:
    """A view and trackers. What a tracker does wrong is told in the view, and ends nothing."""

    def __init__(self, names: list[str], config: Group, view: Sink) -> None:
        self.names, self.config, self.view = names, config, view
        self._tracking: Tracking | None = None
        self._run: RunReader | None = None

    def send(self, event: AnyEvent) -> None:
        self.view.send(event)
        match event:
            case RunStarted():
                self._run = RunReader(Path(event.folder))
                self._tracking = open_trackers(self.names, self._run.folder, self.config, tell=self._tell)
            case Measured() if self._tracking is not None:
                self._tracking.log(event.metrics)
            case RunFinished():
                self._end(event.summary)

    def close(self) -> None:
        self._end({})
        self.view.close()

    def _tell(self, note: Note) -> None:
        self.view.send(note)

    def _end(self, summary: dict[str, Any]) -> None:
        tracking, self._tracking = self._tracking, None
        if tracking is not None and self._run is not None:
            tracking.end(self._run, summary)
