"""A reward model as judge: what it is shown of a judgement, and the reward that its number comes to."""

from __future__ import annotations

from expertchat.backends.asking import Ask, Flow
from expertchat.backends.base import Valued, ValueRequest
from expertchat.judging.answers import about
from expertchat.judging.view import Judgement
from expertchat.records import Message, Reward, Role
from expertchat.text.likeness import blank


def request(judgement: Judgement, label: str | None = None) -> ValueRequest:
    """The judged text as the reply to what was said before it; of a whole dialogue to all that the others said.

    The first message names the topic. What the subject said is "assistant", what the others said "user"; the texts are as they are.
    `label`: the text's type.
    """
    messages = [Message("user", f"Let us talk about {judgement.topic}.")]
    for index, turn in enumerate(judgement.shown()):
        if judgement.judged(index):
            continue
        role: Role = "assistant" if turn.speaker == judgement.subject else "user"
        if messages[-1].role == role:
            messages[-1] = Message(role, f"{messages[-1].content}\n{turn.text}")
        else:
            messages.append(Message(role, turn.text))
    if messages[-1].role == "assistant":  # the subject speaks again
        messages.append(Message("user", "Please go on."))
    return ValueRequest(f"{judgement.key}/score", tuple(messages), judgement.reply, label=label)


def flow(judgement: Judgement, label: str | None = None) -> Flow[Reward]:
    """Ask the reward model; a text that is blank is not scored."""
    if blank(judgement.reply):
        return Reward(**about(judgement, "reward"), problem="the judged text is blank")
    (answer,) = yield [Ask(judgement.role.backend, request(judgement, label), label="judge")]
    assert isinstance(answer, Valued)
    return Reward(**about(judgement, "reward"), value=answer.reward, score=answer.score, problem=answer.problem)
