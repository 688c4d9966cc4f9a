"""Any model whose tokenizer has a chat template; what the template accepts is found by rendering it."""

from __future__ import annotations

from dataclasses import replace

from expertchat.backends.base import ModelInfo
from expertchat.experts.base import ExpertChat, Family


class Auto(ExpertChat):
    """Follows the model's template: `adapt` sets the facts that the template shows and says which they are."""

    family = Family(name="auto", system_role=False, alternation=True, context_length=4096)

    def adapt(self, info: ModelInfo) -> str:
        """Take over the template's rules; returns a note on them. What is not known stays on the safe side."""
        self.family = replace(self.family, system_role=bool(info.system_role), alternation=info.alternation is not False)
        system = "with a system role" if self.family.system_role else "without a system role (its text goes into the first user message)"
        order = "strictly alternating" if self.family.alternation else "in any order"
        return f"family auto: {info.name} is talked to by its own chat template, {system}, turns {order}"
