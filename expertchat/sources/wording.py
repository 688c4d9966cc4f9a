"""How an instruction with its input becomes the prompt of a row: as a chat, by a template, or as it stands."""

from __future__ import annotations

from typing import Literal

from expertchat.records import Demonstration
from expertchat.sources.instructions import Template, task_of, with_type
from expertchat.sources.teaching import DataConfig


class Wording:
    """Makes rows of instructions. `template` None: data.template is chat or none."""

    def __init__(self, template: Template | None, config: DataConfig) -> None:
        self.template, self.config = template, config

    def task(self, kind: str) -> str:
        """The instruction of a row of a type. Raises ConfigError where it would not say the type."""
        return with_type(task_of(self.template, self.config.task), kind)

    def row(
        self, name: str, instruction: str, given: str, answer: str, *, source: str, ends: str = "", group: str = "",
        part: Literal["train", "choosing", "evaluation"] | None = None, score: float | None = None,
    ) -> Demonstration:  # fmt: skip
        """A row. `given`: its input, "" where it has none; `ends`: what is put behind a prompt that stands by itself."""
        text = f"{instruction}\n\n{given}" if given else instruction
        return Demonstration(
            id=name, prompt=self.messages(text), completion=[{"role": "assistant", "content": answer}],
            rendered=self.rendered(instruction, given, ends), part=part or "train", group=group, source=source, score=score,
        )  # fmt: skip

    def messages(self, text: str) -> list[dict[str, str]]:
        """A prompt's text as a user's message, after the system text where there is one."""
        system = [{"role": "system", "content": self.config.system}] if self.config.system else []
        return [*system, {"role": "user", "content": text}]

    def rendered(self, instruction: str, given: str, ends: str) -> str | None:
        """The prompt's text where no chat template is used."""
        if self.template is not None:
            return self.template.prompt(instruction, given)
        if self.config.template == "none":
            return (f"{instruction}\n{given}" if given else instruction) + ends
        return None
