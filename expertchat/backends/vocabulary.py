"""What is special in a tokenizer's vocabulary, and text that says such a token without becoming one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

# Noncharacters of Unicode: no text holds them, no template makes or trims them. A mark stands before what is to stay ordinary text;
# between the other two stands the number of a token that the template itself has put there.
_MARK, _OPEN, _CLOSE = "\ufdd2", "\ufdd0", "\ufdd1"
_OURS = str.maketrans("", "", _MARK + _OPEN + _CLOSE)
_SOFTER = str.maketrans("<>[]|", "‹›{}¦")
_SIGN, _LETTER = re.compile(r"[<>\[\]|]"), re.compile(r"[^\W_]")
_MARKUP = re.compile(r"<\S+>|\[\S+\]")
# Ordinary words of some vocabularies (Gemma's has them as added tokens): a text may speak HTML.
_HTML = re.compile(
    r"</?(?:table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|blockquote|strong|em|b|i|u|a|p|br|hr|code|pre|sup|sub|ul|ol|li|div|span|img)/?>"
)
_THINKING = re.compile(r"think|thought|reasoning|inner_(?:pre|suf)fix|(?:begin|end)_of_solution|(?:start|end)_response", re.IGNORECASE)
_CHANNELS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|constrain|>")  # of harmony, where the second is one


class Vocabulary:
    """A tokenizer whose special tokens are told apart by what they look like.

    `markup` (`<|im_end|>`, `[INST]`, `</s>`, and added tokens like `<tool_call>`): softened in every text that a prompt takes in.
    `words`, plain words that are listed as special (a pad token "!", a role "User:", a step tag " ки"): never rewritten and never hidden,
    for they are said in ordinary text; in a text they are encoded as ordinary words, and as the token only where the template puts them.
    `hidden`: ids that the text of a reply leaves out: markup, save what marks a thinking block.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = list(tokenizer.added_tokens_decoder.items())
        named = [token for token in tokenizer.all_special_tokens if token]
        special = list(dict.fromkeys([*named, *(token.content for _, token in added if token.special)]))
        more = [token.content for _, token in added if _MARKUP.fullmatch(token.content) and not _HTML.fullmatch(token.content)]
        self.markup = tuple(dict.fromkeys(token for token in (*special, *more) if is_markup(token)))
        self.words = tuple(token for token in special if not is_markup(token) and token.strip())
        ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (*special, *more)}
        self.special_ids = frozenset(i for i in ids.values() if i is not None)
        channels = _CHANNELS if "<|channel|>" in ids else ()
        self.hidden = frozenset(
            ids[token] for token in special if is_markup(token) and not _THINKING.search(token) and token not in channels
        )
        self._markup = re.compile(_either(self.markup))
        self._added = {token.content for _, token in added}
        self._quiet: Any = None
        self._same: dict[int, int] = {}
        self._alias: dict[str, str] = {}
        self._word = self._start = re.compile(_either(()))
        self._guard()

    def guard(self, headers: str) -> None:
        """Take words that are added tokens without being called special, but stand in the headers of a template, for special ones."""
        more = [token for token in self._added if token in headers and token.strip() and not is_markup(token) and _LETTER.search(token)]
        if new := [token for token in more if token not in self.words]:
            self.words = (*self.words, *sorted(new))
            self._guard()

    def soften(self, text: str) -> str:
        """Text in which no markup token stands any more. Ends, because every change takes one of the signs `<>[]|` away."""
        while self._markup.search(text):
            text = self._markup.sub(lambda match: match.group().translate(_SOFTER), text)
        return text

    def marked(self, text: str) -> str:
        """A text for a template, with marks where its words begin: what it says stays ordinary text, whatever stands around it."""
        if not self._alias:
            return text
        text = text.translate(_OURS)
        found = ((match.start(1), match.group(1)) for match in self._start.finditer(text))
        places = {start + len(word) - len(word.lstrip()) for start, word in found}
        if bare := text.strip():
            begin = text.index(bare)
            places |= {begin, begin + len(bare)}
        for place in sorted(places, reverse=True):
            text = text[:place] + _MARK + text[place:]
        return text

    def written(self, rendered: str) -> str:
        """A rendered text in the form that `ids` reads: the template's own words stand as tokens, those of texts as text."""
        if not self._alias:
            return rendered
        return self._word.sub(lambda match: self._alias[match.group()], rendered).replace(_MARK, "")

    def said(self, written: str) -> str:
        """What `written` gives, as a person reads it."""
        for token, alias in self._alias.items():
            written = written.replace(alias, token)
        return written

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of written texts; nothing is added to them."""
        if self._quiet is None:
            return [list(ids) for ids in self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]
        encoded = self._quiet.encode_batch(list(texts), add_special_tokens=False)
        return [[self._same.get(i, i) for i in encoding.ids] for encoding in encoded]

    def _guard(self) -> None:
        """Make the second tokenizer, in which the words are no tokens: their aliases are. A tokenizer without a fast backend has none."""
        state = _state(self.tokenizer) if self._added.intersection(self.words) else None
        if state is None:
            return
        from tokenizers import Tokenizer

        listed: list[str] = [token["content"] for token in state["added_tokens"]]
        self._alias = {word: f"{_OPEN}{listed.index(word)}{_CLOSE}" for word in self.words if word in listed}
        for token in state["added_tokens"]:
            if token["content"] in self._alias:
                _rename(state["model"], token["content"], self._alias[token["content"]])
                token |= {"content": self._alias[token["content"]], "normalized": False}
        self._quiet = Tokenizer.from_str(json.dumps(state))
        self._quiet.no_truncation()
        self._quiet.no_padding()
        places = {self._quiet.token_to_id(self._alias.get(word, word)): self.tokenizer.convert_tokens_to_ids(word) for word in listed}
        self._same = {i: same for i, same in places.items() if i != same}
        self._word = re.compile(f"(?<!{_MARK})(?:{_either(self._alias)})")
        self._start = re.compile(f"(?=({_either(self._alias)}))")


def is_markup(token: str) -> bool:
    """Whether a token looks like one: it has a sign of markup, and a letter or digit."""
    return bool(_SIGN.search(token) and _LETTER.search(token))


def _either(tokens: Iterable[str]) -> str:
    """A pattern of any of them, the longest first; of nothing where there are none."""
    return "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) or r"(?!)"


def _state(tokenizer: Any) -> dict[str, Any] | None:
    """A fast tokenizer as its file has it."""
    try:
        state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception:  # of another kind, or with parts that cannot be written down
        return None
    return state


def _rename(model: dict[str, Any], word: str, alias: str) -> None:
    """Take a word out of the vocabulary of the model too, which would find it by itself; save where it is one that text is made of."""
    merges = model.get("merges", ())
    vocabulary, merged = model["vocab"], {"".join(pair) if isinstance(pair, list) else pair.replace(" ", "", 1) for pair in merges}
    if len(word) == 1 or word in merged:
        return
    if isinstance(vocabulary, list):
        for piece in vocabulary:
            piece[0] = alias if piece[0] == word else piece[0]
    elif word in vocabulary:
        vocabulary[alias] = vocabulary.pop(word)
