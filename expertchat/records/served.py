"""What a server has answered to one request."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from expertchat.records.run import Record


class Served(Record):
    """`id`: a digest of the model and of all that was asked. One of `text`, `logprobs` (of options; null: no probability), `vector` (of an
    embedding) and `score` is there. `tries`: requests that it took; `server`: the address, without any key; `cost`: as the server told it,
    or by the prices of the config; null: not known.
    """

    key: str
    model: str
    server: str
    text: str | None = None
    finish: Literal["stop", "length"] = "stop"
    prompt: list[int] | None = None
    ids: list[int] | None = None
    ended: bool | None = None
    logprobs: list[float | None] | None = None
    vector: list[float] | None = None
    score: float | None = None
    tries: int = 1
    seconds: float = 0.0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None

    @model_serializer(mode="wrap")
    def _short(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what is not there: there are many of these."""
        always = ("id", "schema", "schema_", "key", "model", "server", "tries", "seconds", "prompt_tokens", "completion_tokens", "cost")
        return {name: value for name, value in whole(self).items() if value is not None or name in always}
