"""What `expertchat serve` shows: that it loads, where it can be asked, and why it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expertchat import events
from expertchat.text.in_words import stopped_by
from expertchat.views.bar import BarView


class ServingView(BarView):
    """The view of a server."""

    def size_of(self, run: events.RunStarted) -> str:
        return "a model behind an address"

    def send(self, event: events.AnyEvent) -> None:
        """Draw what the event says; a server that is stopped has done what it is for."""
        if isinstance(event, events.RunFinished) and event.status == "stopped":
            self._say(f"the server is stopped: {stopped_by(event.reason)}")
        else:
            super().send(event)

    def show_end(self, summary: Mapping[str, Any]) -> None:
        """A server counts nothing: its runs do."""
