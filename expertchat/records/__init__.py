"""What is kept: one JSON object a line. `run`: of a run; `lab`: of the judges' lab; `learning`: what is taught besides; `choosing`: what
is chosen among candidates; `served`: what servers have answered."""

from __future__ import annotations

from expertchat.records.building import Attempt, Outcome
from expertchat.records.choosing import Prompt, Selection
from expertchat.records.guessing import Guess
from expertchat.records.lab import (
    Choice,
    Form,
    Item,
    JudgeRef,
    Label,
    Opinion,
    Order,
    Text,
)
from expertchat.records.learning import Demonstration, Sample, Step
from expertchat.records.picking import Pick, PickRow
from expertchat.records.posts import Post
from expertchat.records.run import (
    OF_A_SEED,
    SEAT,
    SEATS,
    Answer,
    Candidate,
    ExpertRef,
    Figure,
    Message,
    Metrics,
    PairIds,
    PreferencePair,
    Rating,
    Record,
    Reward,
    Role,
    Score,
    Speaker,
    StopReason,
    Topic,
    Transcript,
    Turn,
    Verdict,
    Wim,
    as_line,
    finite,
    other,
    round_of,
)  # fmt: skip
from expertchat.records.served import Served

__all__ = [
    "OF_A_SEED", "SEAT", "SEATS", "Answer", "Attempt", "Candidate", "Choice", "Demonstration", "ExpertRef", "Figure", "Form", "Guess",
    "Item", "JudgeRef", "Label", "Message", "Metrics", "Opinion", "Order", "Outcome", "PairIds", "Pick", "PickRow", "Post",
    "PreferencePair", "Prompt", "Rating", "Record", "Reward", "Role", "Sample", "Score", "Selection", "Served", "Speaker", "Step",
    "StopReason", "Text", "Topic", "Transcript", "Turn", "Verdict", "Wim", "as_line", "finite", "other", "round_of",
]  # fmt: skip
