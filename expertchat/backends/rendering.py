"""From messages to token ids through the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expertchat.backends.template import Template, probe
from expertchat.backends.vocabulary import Vocabulary
from expertchat.config import ConfigError
from expertchat.records import Message
from expertchat.text.sentences import one_line

REMEMBERED = 512  # encoded chats


class Renderer:
    """Renders chats with a tokenizer's template; text of messages never becomes a special token.

    What the template accepts and demands is found once (see template.Form); `notes` say what is done about its oddities. `thinking`: the
    model is to think. Raises ConfigError for a tokenizer without a chat template, or with one that chats cannot be rendered by.
    """

    def __init__(self, tokenizer: Any, name: str, thinking: bool = False) -> None:
        self.tokenizer, self.name = tokenizer, name
        self.template, self.vocabulary = Template(tokenizer, name, thinking), Vocabulary(tokenizer)
        self.form = probe(self.template)
        self.vocabulary.guard(self.form.headers)
        self.system_role, self.alternation = self.form.system_role, self.form.alternation
        self.opens_thinking, self.notes = self.form.opens_thinking, self.form.notes
        self.special_tokens = self.vocabulary.markup
        self._end, self._tail = self._ending()
        self._last: tuple[str, list[int]] = ("", [])
        self._encoded: dict[tuple[tuple[Message, ...], str], list[int]] = {}

    def text(self, messages: Sequence[Message], prefix: str = "") -> str:
        """The chat as one string that ends with the assistant's header and `prefix`. Raises ConfigError."""
        return self.vocabulary.said(self.written(messages, prefix))

    def written(self, messages: Sequence[Message], prefix: str = "", said: bool = False) -> str:
        """The same in the form that `ids` reads: it differs where the template has tokens that are plain words. Raises ConfigError.

        A given prefix is what the assistant says, and no thought: it stands where the template puts that (after its lead), and a thinking
        block that the template opens is ended before it. With `said` also where there is none.
        """
        try:
            rendered = self.template.render([Message(m.role, self._content(m.content)) for m in messages], True)
        except Exception as error:  # a template may raise anything
            roles = ", ".join(message.role for message in messages)
            why = one_line(str(error))
            raise ConfigError(
                f"{self.name}: its chat template refuses the roles {roles} ({why}); set the model's own family, or family=auto"
            ) from None
        begun = self.form.before_prefix if prefix or said else ""
        if prefix:
            begun += self.form.lead + self.vocabulary.marked(self.plain(prefix))
        return self.vocabulary.written(rendered + self.form.added + begun)

    def ids(self, text: str) -> list[int]:
        """Token ids of a written text; nothing is added, the template brings its own special tokens."""
        return self.batch_ids([text])[0]

    def batch_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many written texts."""
        return self.vocabulary.ids(texts)

    def endings(self, text: str, endings: Sequence[str]) -> list[list[int]]:
        """Token ids of a written text with each of some short endings ("" for none).

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
            ids = self._encoded[key] = self.ids(self.written(messages, prefix))
            if len(self._encoded) > REMEMBERED:
                del self._encoded[next(iter(self._encoded))]
        return list(ids)

    def answered(self, prompt: Sequence[Message]) -> list[int]:
        """Token ids of a chat up to where the assistant says something, its thoughts being over: `encode`'s, if the template opens none."""
        return self.ids(self.written(prompt, said=True)) if self.form.before_prefix else self.encode(prompt)

    def reply(self, prompt: Sequence[Message], message: Message, end: bool = True) -> list[int]:
        """Token ids of what the assistant says after `answered(prompt)`, up to the token that ends it if `end`.

        They follow the prompt's own, whatever the template makes of a prompt once it is answered (thinking blocks, headers): training must
        not show another prompt than talking did.
        """
        ids, begun, tail = self.answered(prompt), self.written(prompt, said=True), self._tail if end else ""
        text = self.vocabulary.written(self.vocabulary.marked(self.plain(message.content)))
        whole = self.ids(begun + self.form.lead + text + tail)
        if whole[: len(ids)] != ids:  # the prompt's last token and the reply's first make one
            whole = [*ids, *self.ids(text + tail)]
        return whole[len(ids) :]

    def plain(self, text: str) -> str:
        """Text in which every special token that looks like one is softened; plain words stay (see Vocabulary)."""
        return self.vocabulary.soften(text)

    def end_token(self) -> int | None:
        """The special token that the template puts after an assistant's message, or None."""
        return self._end

    def _content(self, text: str) -> str:
        """A message's content as the template is given it."""
        return self.vocabulary.marked(self.plain(text if text.strip() else self.form.placeholder or text))

    def _ending(self) -> tuple[int | None, str]:
        """The token that ends an assistant's message, and what the template puts behind its text up to that token (written)."""
        for tail in map(self.vocabulary.written, self.form.tails):
            ids = self.ids(tail)
            end = next((i for i in ids if i in self.vocabulary.special_ids), None)
            if end is not None:
                token = self.vocabulary.written(self.tokenizer.convert_ids_to_tokens(end))
                return end, tail[: tail.index(token) + len(token)]
        return None, ""
