"""The best dialogues of a run as rows to teach: rejection sampling as supervised fine-tuning (arXiv 2312.12457)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from expertchat.backends.base import ModelInfo
from expertchat.config import ConfigError, ModelConfig, validate
from expertchat.experts.base import ExpertChat, History
from expertchat.experts.registry import make_expert
from expertchat.folder.reader import RunReader
from expertchat.records import Demonstration, Speaker, Transcript
from expertchat.sources.encoding import Say
from expertchat.sources.teaching import BestConfig
from expertchat.text.likeness import blank


class _One(NamedTuple):
    """What may be chosen: some turns of a speaker in a dialogue, or a candidate. `value` None: it was not judged."""

    name: str
    transcript: Transcript
    speaker: Speaker
    value: float | None
    places: tuple[int, ...]  # turns that are taught
    text: str | None = None  # of a candidate, in place of its turn


def best_of_run(run: RunReader, config: BestConfig, say: Say) -> list[Demonstration]:
    """The best of a run, after the prompts that its experts were shown. Raises ConfigError where nothing of it was judged or is left."""
    every = [one for one in _candidates(run, config) or _dialogues(run, config) if config.subject in (None, one.speaker)]
    if not every:
        who = f" by {config.subject}" if config.subject else ""
        raise ConfigError(f"data.path={run.folder}: holds no dialogue{who}; name another run (a run's own is data.best.subject)")
    known = [one for one in every if one.value is not None]
    if not known:
        raise ConfigError(
            f"data.path={run.folder}: none of its {len(every)} dialogues has a {config.by}; judge it first, or take data.best.by="
            f"{'rating' if config.by == 'reward' else 'reward'}"
        )
    known.sort(key=lambda one: (-(one.value or 0.0), one.name))
    if config.least is not None:
        chosen = [one for one in known if (one.value or 0.0) >= config.least]
        if not chosen:
            best = f"the best is {known[0].value:.3g}"
            raise ConfigError(f"data.best.least={config.least:g}: no {config.by} of {run.folder} is so high; {best}")
    else:
        chosen = known[: max(1, round((config.share or 0.0) * len(known)))]
    lowest, unjudged = chosen[-1].value, len(every) - len(known)
    say(
        f"{run.folder.name}: the best {len(chosen)} of {len(known)} by their {config.by} (from {lowest:.3g} up)"
        + (f"; {unjudged} without one are left out" if unjudged else "")
    )
    experts = _experts(run, {one.speaker for one in chosen})
    return [row for one in chosen for row in _rows(one, experts[one.speaker], run)]


def _rows(one: _One, expert: ExpertChat, run: RunReader) -> list[Demonstration]:
    """A row for each of the turns."""
    found = []
    for at in one.places:
        text = one.text if one.text is not None else one.transcript.turns[at].text
        if blank(text):
            continue
        shown = expert.view(History(one.transcript.topic, tuple(one.transcript.turns[:at])))
        prompt = [{"role": message.role, "content": message.content} for message in shown]
        name = f"{one.name}/t{at:02d}" if one.text is None else one.name
        row = Demonstration(
            id=name, prompt=prompt, completion=[{"role": "assistant", "content": text}], group=one.transcript.topic,
            source=f"{run.folder.name}:{one.name}", score=one.value,
        )  # fmt: skip
        found.append(row)
    return found


def _candidates(run: RunReader, config: BestConfig) -> list[_One]:
    """The candidates of a run that has some, each with its score."""
    transcripts = {one.id: one for one in run.transcripts()}
    values: dict[str, float | None] = {score.id: score.value for score in run.scores()}
    if config.by == "rating":
        rated = defaultdict(list)
        for reward in run.rewards():
            if reward.candidate is not None and reward.rating is not None:
                rated[reward.candidate].append(reward.rating)
        values = {name: fmean(ratings) for name, ratings in rated.items()}
    return [
        _One(one.id, transcripts[one.transcript], one.speaker, values.get(one.id), (one.turn,), one.text)
        for one in run.candidates()
        if one.transcript in transcripts and one.altered is None and not one.cut and not blank(one.text)
    ]


def _dialogues(run: RunReader, config: BestConfig) -> list[_One]:
    """Each speaker's part in each dialogue, with the mean of what was said of the whole of it; turns that the limit cut would be taught to
    end where they were cut."""
    said: dict[tuple[str, str], list[float]] = defaultdict(list)
    for reward in run.rewards():
        value = reward.value if config.by == "reward" else reward.rating
        if reward.turn is None and reward.candidate is None and value is not None:
            said[reward.transcript, reward.subject].append(value)
    found = []
    for one in run.transcripts():
        for seat in one.experts:
            values = said.get((one.id, seat))
            places = tuple(at for at, turn in enumerate(one.turns) if turn.speaker == seat and not turn.cut)
            if places:
                found.append(_One(f"{one.id}/{seat}", one, seat, fmean(values) if values else None, places))
    return found


def _experts(run: RunReader, seats: Sequence[Speaker] | set[Speaker]) -> dict[Speaker, ExpertChat]:
    """The experts as the run has them: what they were shown is what is taught after. Raises ConfigError."""
    found, configs = {}, run.config.get("experts")
    for seat in sorted(seats):
        if not isinstance(configs, dict) or seat not in configs:
            raise ConfigError(f"data.path={run.folder}: its config names no expert {seat}; name another run")
        model = validate(ModelConfig, configs[seat])
        info = ModelInfo(name=model.path, context_length=model.context_length or 0)
        found[seat] = make_expert(seat, model, info, run.seats)
    return found
