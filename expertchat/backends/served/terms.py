"""On what terms the servers of a run are asked. A run that asks none imports no more of them than this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from expertchat.backends.served.config import ServerConfig
from expertchat.folder.served import Ledger

if TYPE_CHECKING:
    from expertchat.backends.served.client import Client


@dataclass
class Terms:
    """How the servers of a run are asked, where their answers are kept, and who is told what happens. `before`: requests of earlier starts
    for what is kept, None until one is sent; `sent`: those of this start, to all of them."""

    settings: ServerConfig = field(default_factory=ServerConfig)
    ledger: Ledger = field(default_factory=Ledger)
    say: Callable[[str], None] = lambda text: None
    clients: dict[tuple[str | None, ...], Client] = field(default_factory=dict)  # by addresses and the name of their key
    before: int | None = None
    sent: int = 0
