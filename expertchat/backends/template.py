"""A chat template, and what is found out about it at the door by rendering chats of known texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from jinja2 import Environment, meta
from jinja2.exceptions import TemplateError

from expertchat.config import ConfigError
from expertchat.records import Message, Role
from expertchat.text.sentences import first_line

# What a template that asks for the date is told, always: with the clock's, a run that goes on after midnight would show and train other
# prompts than it has shown, and the same seed would give another run tomorrow. It is the day that Llama 3.1's template falls back on.
TODAY = date(2024, 7, 26)
# The clock as a template has it, replaced by the day: newer versions of transformers pass no functions on to templates.
_DAY = {form: TODAY.strftime(f"%{form}") for form in "aAbBdHIjmMpSyY"} | {"-d": "26", "-m": "7", "e": "26", "F": "2024-07-26"}
_REPLACED = "".join(f"|replace('%{form}', '{day}')" for form, day in _DAY.items())
_CLOCK = f"{{% macro strftime_now(form) %}}{{{{ form{_REPLACED} }}}}{{% endmacro %}}{{{{ '' }}}}"
# The variables by which published templates are told whether to think: (not, do).
_SWITCHES: dict[str, tuple[Any, Any]] = {
    **dict.fromkeys(
        ("enable_thinking", "thinking", "add_thinking", "use_thinking", "think", "enable_reasoning", "reasoning"), (False, True)
    ),
    "thinking_budget": (0, None),
    "reasoning_budget": (0, None),
}
_EFFORT, _LEAST = "reasoning_effort", ("none", "no_think", "off", "minimal")
_BLOCKS = (  # how a thinking block begins, and what ends it
    (r"<((?:seed:|mm:)?think(?:ing)?|thoughts?|reasoning)>", r"</\1>"),
    (r"\[(THINK)\]", r"[/\1]"),
    (r"<\|(think(?:ing)?)\|>", r"<|/\1|>"),
    (r"<\|begin_of_thought\|>", "<|end_of_thought|>"),
    (r"<\|START_THINKING\|>", "<|END_THINKING|>"),
    (r"<\|THINK_START\|>", "<|THINK_END|>"),
    (r"<\|inner_prefix\|>", "<|inner_suffix|>"),
    (r"◁think▷", "◁/think▷"),
    (r"<\|channel>thought", "<channel|>"),
    (r"<\|channel\|>analysis<\|message\|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
)
PLACEHOLDER = "(no answer)"  # in the place of a blank message that a template refuses
SYSTEM = Message("system", "Four blue whales")
ONE, TWO, THREE = (Message("user", text) for text in ("Seven grey herons", "Nine white owls", "Six black swans"))
SAID, MORE = (Message("assistant", text) for text in ("Two red foxes", "Five brown hares"))
_MARKED_UP = Message("user", "Herons & \"owls\" <b>say</b>:\n  it's 1 > 0,  isn't it?")


@dataclass(frozen=True)
class Form:
    """What a template does, and what is done about it.

    `system_role`: it shows a system message. `alternation`: it refuses two user messages in a row. `placeholder`: what stands for a blank
    message, which it refuses ("": it takes one). `added`: what is put behind a rendered chat, so that the assistant's answer begins there.
    `opens_thinking`: prompts end inside a thinking block. `before_prefix`: what ends that block where the answer's beginning is given.
    `lead` and `tails`: what stands before an assistant's text, after the prompt, and behind it: as the last message, and before the next.
    `headers`: what stands around the messages. `notes`: adaptations, as a user is told them.
    """

    system_role: bool
    alternation: bool
    placeholder: str
    added: str
    opens_thinking: bool
    before_prefix: str
    lead: str
    tails: tuple[str, ...]
    headers: str
    notes: tuple[str, ...]


class Template:
    """A tokenizer's template with what it is given besides a chat. Raises ConfigError where there is none."""

    def __init__(self, tokenizer: Any, name: str, thinking: bool) -> None:
        self.tokenizer, self.name, self.thinking = tokenizer, name, thinking
        self.error = ""  # what it said last
        self.parts: set[Role] = set()  # whose content is given as a list of parts
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                f"{name}: its tokenizer has no chat template, so it cannot hold a conversation; use the instruct version of the model, "
                "or put a chat_template.jinja into its folder"
            )
        try:
            source = tokenizer.get_chat_template()
        except ValueError as error:
            raise ConfigError(f"{name}: of its chat templates none is called default ({first_line(error)}); name one so") from None
        reads = _variables(source)
        self.switches = switches(source, reads, thinking)
        names = ("bos_token", "eos_token")
        self._more: dict[str, str] = {name: "" for name in names if name in reads and getattr(tokenizer, name, None) is None}
        if "strftime_now" in source:
            self._more["chat_template"] = _CLOCK + source

    def render(self, messages: Sequence[Message], generation: bool) -> str:
        """The chat as one string. Raises whatever the template raises."""
        chat: list[dict[str, Any]] = [
            {"role": role, "content": [{"type": "text", "text": text}] if role in self.parts else text} for role, text in messages
        ]
        more = self.switches | self._more
        return str(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generation, **more))

    def tried(self, *messages: Message, generation: bool = True) -> str | None:
        """The chat, or None where the template fails: `error` says how."""
        try:
            return self.render(messages, generation)
        except Exception as error:  # a template may raise anything
            self.error = first_line(error)
            return None

    def fault(self, *messages: Message) -> str | None:
        """What the template does wrong with a chat, or None: it has to show every text as it is, in the given order."""
        text = self.tried(*messages)
        if text is None:
            return f"fails on {_described(messages)} ({self.error})"
        places = [text.find(message.content) for message in messages if message.role != "system" and message.content]
        for message in messages:
            if message.content not in text or "{'type': 'text'" in text:
                how = "changes the case of" if message.content.lower() in text.lower() else "leaves out"
                return f"{how} the {message.role}'s text in {_described(messages)}"
        return "puts the messages in another order" if places != sorted(places) else None

    def takes(self, *messages: Message) -> bool:
        return self.fault(*messages) is None

    def fitted(self, role: Role, *messages: Message) -> str | None:
        """What it does wrong with a chat, also with the content of `role` as a list of parts; that is kept where it helps."""
        if (fault := self.fault(*messages)) is None:
            return None
        self.parts.add(role)
        if self.fault(*messages) is None:
            return None
        self.parts.discard(role)
        return fault


def probe(template: Template) -> Form:
    """Find out how a template is to be used. Raises ConfigError, in one message, where it cannot be."""
    fault = template.fitted("user", ONE)
    fault = fault or template.fitted("assistant", ONE, SAID, TWO, MORE, THREE)
    header = _header(template) if fault is None else ""
    if fault or header is None:
        fault = fault or "begins no answer of the assistant, and how one begins cannot be seen from what it makes of one"
        raise ConfigError(
            f"{template.name}: its chat template {fault}; use another model, or correct the template (chat_template.jinja in its folder)"
        )
    system = template.fitted("system", SYSTEM, ONE, SAID, TWO) is None and template.takes(SYSTEM, ONE)
    blank = [template.takes(*chat) for chat in ((ONE, Message("assistant", ""), TWO), (ONE, SAID, Message("user", "")))]
    prompt = (template.tried(ONE) or "") + header
    closing, final = closes(prompt.rpartition(ONE.content)[2]), _final_channel(template, prompt)
    added = header if template.thinking else header + (closing or final)
    lead, tails = _around(template, (template.tried(ONE) or "") + added)
    talk = template.tried(SYSTEM if system else ONE, ONE, SAID, TWO) if system else template.tried(ONE, SAID, TWO)
    pieces = re.split("|".join(message.content for message in (SYSTEM, ONE, SAID, TWO)), talk or "")
    return Form(
        system_role=system,
        alternation=not template.takes(ONE, TWO),
        placeholder="" if all(blank) else PLACEHOLDER,
        added=added,
        opens_thinking=template.thinking and bool(closing),
        before_prefix=(closing or final) if template.thinking else "",
        lead=lead,
        tails=tails,
        headers="\n".join(piece[-40:] for piece in pieces),
        notes=tuple(_notes(template, header, closing, final, all(blank), len(tails))),
    )


def _header(template: Template) -> str | None:
    """How an assistant's answer begins, where the template does not begin it when asked to; "" where nothing is to be added.

    It is what stands between a chat that ends with the user and the assistant's text in one that goes on. Of templates like Mistral's that
    is nothing: the answer follows directly. None where it cannot be seen.
    """
    before = template.tried(ONE, generation=False)
    if before != template.tried(ONE):
        return ""
    for answered in (template.tried(ONE, SAID, generation=False), template.tried(ONE, SAID, TWO)):
        if before is not None and answered is not None and answered.startswith(before) and SAID.content in answered[len(before) :]:
            header = answered[len(before) : answered.index(SAID.content, len(before))]
            return header.rstrip(" ") if header.strip() else ""
    return None


def _final_channel(template: Template, prompt: str) -> str:
    """What leads from an open header of harmony's form into the channel of what is said, or ""."""
    answered = template.tried(ONE, SAID, generation=False) or template.tried(ONE, SAID, TWO) or ""
    more = answered.partition(SAID.content)[0].removeprefix(prompt) if answered.startswith(prompt) else ""
    return more if "channel" in more and "final" in more else ""


def _around(template: Template, prompt: str) -> tuple[str, tuple[str, ...]]:
    """(lead, tails) of a Form for a chat that ends with `prompt`; one tail where the template takes no last message of the assistant."""
    last, going = template.tried(ONE, SAID, generation=False), template.tried(ONE, SAID, TWO, generation=False)
    shown = [text for text in (last, going) if text is not None and SAID.content in text]
    leads = [text[len(prompt) : text.index(SAID.content)] for text in shown if text.startswith(prompt)]
    tails = [text.partition(SAID.content)[2].partition(TWO.content)[0] for text in shown]
    return next((lead for lead in leads if not lead.strip()), ""), tuple(tails)


def _notes(template: Template, header: str, closing: str, final: str, blank: bool, tails: int) -> list[str]:
    notes = []
    if template.parts:
        whose = "all roles" if len(template.parts) > 2 else " and ".join(sorted(template.parts))
        notes.append(f"its chat template takes the text of {whose} as a list of parts, and is given it so")
    if header:
        notes.append(f"its chat template begins no answer; {header!r}, seen where it shows one, is put behind every prompt")
    if not blank:
        notes.append(f"its chat template refuses a blank message, in whose place stands {PLACEHOLDER}")
    if tails < 2:
        notes.append("its chat template refuses a last message of the assistant; what ends one is seen from a chat that goes on")
    if not template.takes(_MARKED_UP):
        notes.append("its chat template changes texts (white space, quotation marks or markup): the model is not shown them as they are")
    if template.switches:
        told = ", ".join(f"{name}={value}" for name, value in template.switches.items())
        notes.append(f"asked {'' if template.thinking else 'not '}to think by its chat template's {told}")
    if closing and not template.thinking:
        notes.append("its chat template begins every answer inside a thinking block, which is ended at once (thinking=false)")
    if template.thinking and not (closing or final or template.switches):
        notes.append("thinking=true, but its chat template has no switch for it: it thinks, or not, of itself")
    return notes


def switches(source: str, reads: set[str], thinking: bool) -> dict[str, Any]:
    """Values of those variables of a template that say whether the model is to think."""
    given = {name: values[thinking] for name, values in _SWITCHES.items() if name in reads and values[thinking] is not None}
    if _EFFORT in reads:
        near = " ".join(source[match.start() : match.start() + 200] for match in re.finditer(_EFFORT, source))
        least = next((effort for effort in _LEAST if f"'{effort}'" in near or f'"{effort}"' in near), None)
        if not thinking:
            given[_EFFORT] = least or "low"
        elif least:  # the template may not think unless it is told to
            given[_EFFORT] = "high"
    return given


def closes(header: str) -> str:
    """What ends the thinking block that is open at the end of a header, or "".

    >>> closes("<|im_start|>assistant\\n<think>\\n")
    '\\n</think>\\n\\n'
    """
    for opened, close in _BLOCKS:
        for match in re.finditer(opened, header):
            end = match.expand(close)
            if end not in header[match.end() :]:
                tag = end.startswith(("</", "◁"))
                return ("\n" if header.endswith("\n") else "\n\n") + end + "\n\n" if tag else end
    return ""


def _variables(source: str) -> set[str]:
    """The variables that a template reads and does not set before."""
    try:
        plain = re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", source)
        return set(meta.find_undeclared_variables(Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)))
    except TemplateError:  # it will be said when it is rendered
        return set()


def _described(messages: Sequence[Message]) -> str:
    return "a single user message" if len(messages) == 1 else f"a chat of {', '.join(message.role for message in messages)}"
