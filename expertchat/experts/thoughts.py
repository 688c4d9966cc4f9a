"""What one expert's model may think: its texts taken apart, and what is said where thoughts are not wanted or leave no room."""

from __future__ import annotations

from collections.abc import Callable

from expertchat.config import NOT_SEATS
from expertchat.text.thinking import Split, split


class Thoughts:
    """Of the expert in the seat `letter` with the model `name`. `allowed`: the config lets it think.

    `opens`: its prompts end inside a thinking block, unless the answer has a prefix (ModelInfo). `say` is told once of a model that thinks
    though it is asked not to.
    """

    def __init__(self, letter: str, name: str, allowed: bool) -> None:
        self.letter, self.name, self.allowed = letter, name, allowed
        self.place = letter if letter in (*NOT_SEATS, "base") or "." in letter else f"experts.{letter}"  # where the config has it
        self.opens = False
        self.say: Callable[[str], None] = lambda text: None
        self._told = False

    def apart(self, text: str, prefix: str = "") -> Split:
        """What the model thought and what it said after `prefix`."""
        found = split(text, self.opens and not prefix, self.allowed)
        if found.thinking and not self.allowed and not self._told:
            self._told = True
            self.say(
                f"expert {self.letter} ({self.name}) thinks before it speaks, though {self.place}.thinking=false asks it not to: what it "
                "thinks is kept apart and shown to nobody, but takes tokens and time, and such replies are not trained on; allow it "
                f"({self.place}.thinking=true, with a higher max_new_tokens) or take a model that answers at once"
            )
        return found

    def silent(self) -> str:
        """What is noted of a reply that says nothing after its thoughts."""
        return f"all thinking: {self._remedy('reply')}"

    def endless(self) -> str:
        """What is said of a judge whose answer ends inside its thoughts."""
        return f"while the judge was still thinking: {self._remedy('judge')}"

    def _remedy(self, stage: str) -> str:
        instead = f"set {self.place}.thinking=false" if self.allowed else "take a model that does not think"
        return f"raise {self.place}.decoding.{stage}.max_new_tokens or {instead}"
