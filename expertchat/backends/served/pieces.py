"""An answer that comes in pieces (server-sent events), put together as one that comes whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from expertchat.backends.served.trouble import OddAnswer

END = "[DONE]"


async def events(parts: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The data of each event. Only line feeds and carriage returns end a line: JSON may hold the other separators of Unicode as they are.
    """
    rest = b""
    async for part in parts:
        *lines, rest = (rest + part).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip().decode("utf-8", "replace")
                if data == END:
                    return
                yield data


def text_of(content: Any) -> tuple[str | None, str]:
    """A content's text (None: there is none) and what was thought in it: of a string, or of a list of parts, which Mistral's reasoning
    models answer. Raises OddAnswer for another shape.
    """
    if content is None or isinstance(content, str):
        return content, ""
    said, thought = "", ""
    for part in content if isinstance(content, list) else [None]:
        if not isinstance(part, Mapping) or part.get("type") not in ("text", "thinking"):
            raise OddAnswer("it answers in another shape: its text is none")
        inner = text_of(part.get(part["type"]))[0] or ""
        said, thought = (said + inner, thought) if part["type"] == "text" else (said, thought + inner)
    return said, thought


def thought_of(message: Mapping[str, Any]) -> str:
    """What was thought, where it comes apart from the text: vLLM, OpenRouter and Ollama call it reasoning, others reasoning_content."""
    found = message.get("reasoning_content") or message.get("reasoning")
    return found if isinstance(found, str) else ""


@dataclass
class Pieces:
    """What has come so far. `on_text` is told the text with each piece."""

    on_text: Callable[[str], None]
    text: str | None = None
    thought: str = ""
    refusal: str = ""
    ends: dict[str, Any] = field(default_factory=dict)  # finish_reason and stop_reason
    ids: list[int] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)  # usage, model and the prompt's tokens

    def take(self, piece: Mapping[str, Any]) -> None:
        """One more piece. Raises what a choice of another shape raises."""
        for choice in piece.get("choices") or []:
            delta = choice.get("delta") or {}
            text, thought = text_of(delta.get("content"))
            if text is not None:
                self.text = (self.text or "") + text
            self.thought += thought + thought_of(delta)
            self.refusal += delta.get("refusal") or ""
            self.ends |= {name: choice[name] for name in ("finish_reason", "stop_reason") if choice.get(name) is not None}
            self.ids += choice.get("token_ids") or []
        self.about |= {name: piece[name] for name in ("usage", "model", "prompt_token_ids") if piece.get(name)}
        self.on_text(self.text or "")

    def whole(self) -> dict[str, Any]:
        """The answer. Raises OddAnswer where its end is lacking."""
        if "finish_reason" not in self.ends:
            raise OddAnswer("its stream ends in the middle")
        message = {"content": self.text, "reasoning_content": self.thought or None, "refusal": self.refusal or None}
        return {"choices": [{"message": message, "token_ids": self.ids or None, **self.ends}], **self.about}
