"""On what terms servers are asked: how many requests at once, how long, how often, and what it may cost."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from expertchat.config import Group


def _word(value: Any) -> Any:
    """What stands in YAML and on the command line as null is meant as the word."""
    return "null" if value is None else value


class ServerConfig(Group):
    """All servers of a run. `concurrency`: requests at once at most (None: found while it runs). Seconds: `timeout` for one request with
    its whole answer, `patience` for one with all of its tries, `wait` for a server to be there at the start. `failing`: what an answer that
    does not come in that time does: stop the run, which can go on, or be null. Budgets are of all starts of the run.
    """

    concurrency: int | None = Field(default=None, ge=1, le=10_000)
    timeout: float = Field(default=600.0, gt=0)
    patience: float = Field(default=600.0, ge=0)
    attempts: int = Field(default=8, ge=1, le=1000)
    wait: float = Field(default=10.0, ge=0)
    failing: Annotated[Literal["stop", "null"], BeforeValidator(_word)] = "stop"
    max_requests: int | None = Field(default=None, ge=1)
    max_cost: float | None = Field(default=None, gt=0)
