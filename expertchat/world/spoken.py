"""Dialogues that trained policies have held, out of run folders: judges meet such ones in training, and the simulator makes none.

Taken are the transcripts in which an embedded expert had learnt when it spoke, those of the newest policies first: of a training run the
dialogues of its last rounds, of `expertchat converse experts.a.trained=RUN` all. Not the replies of an evaluation: they follow dialogues of
the base. A dialogue of more sentences than a judge reads counts up to the last turn that it reads whole.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, zip_longest
from pathlib import Path

from expertchat.config import ConfigError, near
from expertchat.experts.world import WorldExpert
from expertchat.folder.reader import RunReader
from expertchat.judging.view import Judgement
from expertchat.records import SEATS, Speaker, Transcript, other
from expertchat.text.sentences import sentences
from expertchat.world.facts import Truth, World, load

LONGEST = WorldExpert.family.max_sentences or 0
ONE_TURN = 0.4  # the share of judgements of one turn, as the simulator has it
REMEDY = "name the folder of a run of expertchat online_dpo with topics=embedded"
TRAINED = "name a run of more rounds, or one of expertchat converse experts.a.trained=RUN"


def dialogues(runs: Sequence[str], most: int) -> list[Transcript]:
    """At most `most` dialogues, from the runs by turns. Raises ConfigError."""
    return [one for few in zip_longest(*map(held, runs)) for one in few if one is not None][:most]


def run_problems(runs: Sequence[str]) -> list[str]:
    """What keeps the runs from being read."""
    twice = [path for path, n in Counter(runs).items() if n > 1]
    problems = [f"runs={path}: is named twice; name it once" for path in twice]
    for path in dict.fromkeys(runs):
        try:
            held(path)
        except ConfigError as error:
            problems += error.problems
    return problems


def held(path: str) -> list[Transcript]:
    """The dialogues of one run, as a judge reads them. Raises ConfigError."""
    run = RunReader(Path(path).expanduser(), REMEDY)
    if lack := _lack(run):
        raise ConfigError(f"runs={path}: {lack}; {REMEDY}")
    own = [one for one in run.transcripts() if _is_of_the_world(one)]
    if not own:
        raise ConfigError(f"runs={path}: holds no dialogue of the embedded experts a and b; {REMEDY}")
    learnt = [one for one in own if any(ref.policy_version or ref.trained for ref in one.experts.values())]
    if not learnt:
        raise ConfigError(f"runs={path}: nobody had learnt when its dialogues were held; {TRAINED}")
    if unknown := [topic for topic in dict.fromkeys(one.topic for one in learnt) if topic not in load().topics]:
        more = f" and {len(unknown) - 1} more of its topics" if len(unknown) > 1 else ""
        raise ConfigError(f"runs={path}: the world holds nothing of {unknown[0]!r}{near(unknown[0], load().topics)}{more}; {REMEDY}")
    read = [one for one in map(_as_read, learnt) if all(_spoken(one, seat) for seat in SEATS)]
    if not read:
        raise ConfigError(f"runs={path}: nowhere both experts speak in the {LONGEST} sentences that a judge reads; {TRAINED}")
    return sorted(read, key=lambda one: -sum(ref.policy_version for ref in one.experts.values()))


def cases(world: World, spoken: Sequence[Transcript], judge: Speaker, rng: random.Random) -> list[tuple[Judgement, list[Truth]]]:
    """What a judge is asked of each dialogue, with the truth of the turns shown: its partner's turns, all of them or one."""
    found, subject = [], other(judge)
    for one in spoken:
        turn = rng.choice(_spoken(one, subject)) if rng.random() < ONE_TURN else None
        judgement = Judgement(one.topic, tuple(one.turns), subject, turn)
        found.append((judgement, world.read([turn.text for turn in judgement.shown()], one.topic)))
    return found


def _lack(run: RunReader) -> str | None:
    """Why a folder has no dialogues."""
    try:
        if run.path("transcripts").is_file():
            return None
        return "holds no transcripts.jsonl" if run.folder.is_dir() else "is a file" if run.folder.exists() else "no such folder"
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def _is_of_the_world(one: Transcript) -> bool:
    return set(one.experts) == set(SEATS) and all(ref.family == WorldExpert.family.name for ref in one.experts.values())


def _as_read(one: Transcript) -> Transcript:
    """The dialogue as far as a judge reads it whole."""
    so_far = accumulate(len(sentences(turn.text)) for turn in one.turns)
    return one.model_copy(update={"turns": one.turns[: sum(total <= LONGEST for total in so_far)]})


def _spoken(one: Transcript, seat: Speaker) -> list[int]:
    """The places of the turns in which a seat says something."""
    return [i for i, turn in enumerate(one.turns) if turn.speaker == seat and sentences(turn.text)]
