"""From messages to token ids through the tokenizer's own chat template, and what that template accepts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from typing import Any

from jinja2.exceptions import TemplateError

from expertchat.config import ConfigError
from expertchat.records import Message

_MARKUP = re.compile(r"<\S+>|\[\S+\]")
_SOFTER = str.maketrans("<>[]|", "‹›{}¦")
REMEMBERED = 512  # encoded chats
_PROBE = "Seven grey herons"
# What a template that asks for the date is told, always: with the clock's, a run that goes on after midnight would show and train other
# prompts than it has shown, and the same seed would give another run tomorrow. It is the day that Llama 3.1's template falls back on.
TODAY = date(2024, 7, 26)
# The clock as a template has it, replaced by the day: newer versions of transformers pass no functions on to templates.
_FORMS = "".join(f"|replace('%{form}', '{TODAY.strftime(f'%{form}')}')" for form in "aAbBdHIjmMpSyY")
_CLOCK = f"{{% macro strftime_now(form) %}}{{{{ form{_FORMS} }}}}{{% endmacro %}}{{{{ '' }}}}"


class Renderer:
    """Renders chats with a tokenizer's template; text of messages never becomes a special token.

    `system_role`: the template shows a system message. `alternation`: it refuses two user messages in a row.
    Raises ConfigError for a tokenizer without a (working) chat template.
    """

    def __init__(self, tokenizer: Any, name: str, thinking: bool = False) -> None:
        self.tokenizer, self.name, self.thinking = tokenizer, name, thinking
        self._last: tuple[str, list[int]] = ("", [])
        self._encoded: dict[tuple[tuple[Message, ...], str], list[int]] = {}
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                f"{name}: its tokenizer has no chat template, so it cannot hold a conversation; use the instruct version of the model, "
                "or put a chat_template.jinja into its folder"
            )
        template = tokenizer.get_chat_template()
        self._dated = {"chat_template": _CLOCK + template} if "strftime_now" in template else {}
        self.special_tokens = _special_tokens(tokenizer)
        longest_first = sorted(self.special_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        user = Message("user", _PROBE)
        if self._probe([user]) is None:
            raise ConfigError(f"{name}: its chat template fails on a single user message; use another model or correct the template")
        self.system_role = _PROBE in (self._probe([Message("system", _PROBE), Message("user", "Hello.")]) or "")
        self.alternation = self._probe([user, user]) is None

    def text(self, messages: Sequence[Message], prefix: str = "") -> str:
        """The chat as one string that ends with the assistant's header and `prefix`."""
        try:
            return self._render([Message(m.role, self.plain(m.content)) for m in messages], True) + self.plain(prefix)
        except TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            raise ConfigError(
                f"{self.name}: its chat template refuses the roles {roles} ({error}); set the model's own family, or family=auto"
            ) from None

    def ids(self, text: str) -> list[int]:
        """Token ids of a rendered text; nothing is added, the template brings its own special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def batch_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many rendered texts."""
        return [list(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]

    def endings(self, text: str, endings: Sequence[str]) -> list[list[int]]:
        """Token ids of a text with each of some short endings ("" for none).

        The text up to its last line is read once: where the whole has the tokens of its two parts, so has the whole with an ending.
        """
        cut = text.rfind("\n")
        head, tail = text[:cut], text[cut:]
        if cut > 0 and self._ids_of(head) + self.ids(tail) == self.ids(text):
            return [self._ids_of(head) + ids for ids in self.batch_ids([tail + ending for ending in endings])]
        return self.batch_ids([text + ending for ending in endings])

    def _ids_of(self, text: str) -> list[int]:
        """Token ids of a text that comes again, as the same analysis before each category does."""
        if self._last[0] != text:
            self._last = (text, self.ids(text))
        return self._last[1]

    def encode(self, messages: Sequence[Message], prefix: str = "") -> list[int]:
        """Token ids of a chat. The last ones are remembered: a prompt is first counted and then run."""
        key = (tuple(messages), prefix)
        ids = self._encoded.get(key)
        if ids is None:
            ids = self._encoded[key] = self.ids(self.text(messages, prefix))
            if len(self._encoded) > REMEMBERED:
                del self._encoded[next(iter(self._encoded))]
        return list(ids)

    def reply(self, prompt: Sequence[Message], message: Message, end: bool = True) -> list[int]:
        """Token ids of the assistant's message after `prompt` as `encode` gives it, with what the template puts after it if `end`.

        Where the template renders a prompt otherwise once it is answered (thinking blocks, headers), the message's own tokens follow the
        prompt's: training must not show another prompt than talking did.
        """
        ids, text, begun = self.encode(prompt), self.plain(message.content), self.text(prompt)
        shown = self._render([Message(m.role, self.plain(m.content)) for m in (*prompt, message)], False)
        whole = self.ids(shown)
        if whole[: len(ids)] != ids or not shown[len(begun) :].lstrip().startswith(text.lstrip()):
            whole = [*ids, *self.ids(text), *self.ids(self._ending())]
        written, last = whole[len(ids) :], self.end_token()
        if not end and last in written:
            del written[len(written) - 1 - written[::-1].index(last) :]
        return written

    def plain(self, text: str) -> str:
        """Text in which every special token's string is softened, so that the tokenizer reads it as ordinary text."""
        while self._special.search(text):
            text = self._special.sub(lambda match: _soften(match.group()), text)
        return text

    def end_token(self) -> int | None:
        """The special token that the template puts after an assistant's message, or None."""
        tail = self._ending()
        special = set(self.special_tokens)
        return next((i for i in self.ids(tail) if self.tokenizer.convert_ids_to_tokens(i) in special), None) if tail else None

    def _ending(self) -> str:
        """What the template puts after an assistant's message that is the last one."""
        shown = self._render([Message("user", "Hello."), Message("assistant", _PROBE)], False)
        return shown.rpartition(_PROBE)[2] if _PROBE in shown else ""

    def _probe(self, messages: list[Message]) -> str | None:
        try:
            return self._render(messages, True)
        except (TemplateError, TypeError, ValueError, IndexError, KeyError):
            return None

    def _render(self, messages: Sequence[Message], generation: bool) -> str:
        chat = [message._asdict() for message in messages]
        return str(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generation, **self._dated))


def _special_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Special tokens, and added tokens that look like markup (e.g. <tool_call>): they too have a meaning for the model."""
    added = [token for token in tokenizer.added_tokens_decoder.values() if token.special or _MARKUP.fullmatch(token.content)]
    tokens = [*tokenizer.all_special_tokens, *(token.content for token in added)]
    return tuple(dict.fromkeys(token for token in tokens if token.strip()))


def _soften(token: str) -> str:
    changed = token.translate(_SOFTER)
    return changed if changed != token else token[1:]
