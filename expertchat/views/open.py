"""Which view a command gets."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import TextIO

from expertchat.config import ConfigError
from expertchat.events import Sink
from expertchat.views.bar import BarView
from expertchat.views.building import BuildingView
from expertchat.views.choosing import ChoosingView
from expertchat.views.console import console_on
from expertchat.views.judging import JudgingView
from expertchat.views.live import LiveView, can_draw
from expertchat.views.picking import PickingView
from expertchat.views.plain import NullView, PlainView
from expertchat.views.posts import PostsView
from expertchat.views.rewards import RewardsView
from expertchat.views.serving import ServingView
from expertchat.views.table import TableView

VIEWS = ("live", "plain", "none")


def open_view(view: str, stream: TextIO | None = None, everything: bool = False, show_thinking: bool = False) -> Sink:
    """The sink named by `view`: "live", "plain" or "none".

    "live" becomes plain lines where `stream` (standard output) is no terminal that can be drawn on. "none" shows only why a run failed.
    `everything`: the live view prints every conversation whole, however many there are. `show_thinking`: what the experts think is shown,
    not only how much. Raises ConfigError for any other name.
    """
    if view not in VIEWS:
        raise ConfigError(f"view is {view!r}; there are {', '.join(VIEWS)}")
    if view == "none":
        return NullView()
    stream = stream or sys.stdout
    if view == "live":
        console = console_on(stream)
        if can_draw(console):
            return LiveView(console, everything=everything, show_thinking=show_thinking)
    if isinstance(stream, io.TextIOWrapper):  # a stream that is not UTF-8 shows "?" for what it does not have, and goes on
        with contextlib.suppress(io.UnsupportedOperation):
            stream.reconfigure(errors="replace")
    return PlainView(stream, show_thinking)


def open_table(show_thinking: bool = False) -> TableView:
    """The view of a run at whose table somebody types, and the desk of that person."""
    return TableView(sys.stdout, show_thinking)


def open_judging(view: str, stream: TextIO | None = None) -> Sink:
    """The sink of a judges' run: "live", "plain" or "none", as `open_view`."""
    return _open_own(JudgingView, view, stream)


def open_rewards(view: str, stream: TextIO | None = None) -> Sink:
    """The sink of a reward model's training: "live", "plain" or "none", as `open_view`."""
    return _open_own(RewardsView, view, stream)


def open_choosing(view: str, stream: TextIO | None = None) -> Sink:
    """The sink of a run that chooses among candidates: "live", "plain" or "none", as `open_view`."""
    return _open_own(ChoosingView, view, stream)


def open_building(view: str, stream: TextIO | None = None) -> Sink:
    """The sink of a run that builds pairs: "live", "plain" or "none", as `open_view`."""
    return _open_own(BuildingView, view, stream)


def open_posts(view: str, stream: TextIO | None = None) -> Sink:
    """The sink of a run that writes posts: "live", "plain" or "none", as `open_view`."""
    return _open_own(PostsView, view, stream)


def open_picking(view: str, stream: TextIO | None = None) -> Sink:
    """The sink of a run that picks one of several texts: "live", "plain" or "none", as `open_view`."""
    return _open_own(PickingView, view, stream)


def open_serving(view: str, stream: TextIO | None = None) -> Sink:
    """The sink of a server: "plain" or "none"."""
    return _open_own(ServingView, view, stream)


def _open_own(kind: type[BarView], view: str, stream: TextIO | None) -> Sink:
    """The sink of a run that has a view of its own."""
    if view not in VIEWS:
        raise ConfigError(f"view is {view!r}; there are {', '.join(VIEWS)}")
    return NullView() if view == "none" else kind(stream, moves=view == "live")
