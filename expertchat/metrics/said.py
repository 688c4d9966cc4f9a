"""A turn or a candidate of a run, found again: what was said, by which weights, after which prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from expertchat.config import ConfigError, ExpertsConfig, ModelConfig, near, validate
from expertchat.folder.jsonl import read_json
from expertchat.folder.reader import RunReader
from expertchat.folder.without import without_dialogues
from expertchat.records import Candidate, Speaker, Transcript

ALTERED = {
    "markup": "role tokens in it were rewritten in the text",
    "special": "it holds special tokens that the text does not show",
    "stop": "a stop string ended it",
    "thinking": "it begins with thoughts that nobody else was shown",
    "beyond": "it goes on in another's name, which the text does not show",
}


@dataclass(frozen=True)
class Said:
    """`index`: the turn's place in its dialogue, from 0. `version`: of the policy that spoke; 0: the base. `ids`: as they were drawn."""

    transcript: Transcript
    index: int
    speaker: Speaker
    text: str
    version: int
    ids: tuple[int, ...] | None
    candidate: str | None = None
    altered: str | None = None
    thought: bool = False  # it thought before it spoke


def find_said(run: RunReader, turn: str) -> Said:
    """What `turn` names: DIALOGUE/NUMBER as in the records ("c0001/3", "c0001/t03"), or a candidate's id. Raises ConfigError."""
    candidates = list(run.candidates())
    by_id = {one.id: one for one in candidates}
    transcripts = {one.id: one for one in run.transcripts()}
    if not transcripts:
        raise ConfigError(without_dialogues(run) or f"{run.folder}: holds no finished dialogue yet; wait for it, or name another run")
    if turn in by_id:
        one = by_id[turn]
        if one.transcript not in transcripts:
            raise ConfigError(f"turn={turn}: its dialogue {one.transcript} is not among the run's transcripts; name another one")
        return _candidate(transcripts[one.transcript], one)
    name, _, place = turn.rpartition("/")
    found = re.fullmatch(r"t?(\d{1,6})", place)
    if name not in transcripts or found is None:
        known = near(name or turn, transcripts) or f"; there are {', '.join(list(transcripts)[:3])}, ..."
        example = next(iter(transcripts))
        raise ConfigError(f"turn={turn}: the run has no such dialogue or candidate{known} (DIALOGUE/NUMBER, as {example}/0)")
    transcript, index = transcripts[name], int(found[1])
    if index >= len(transcript.turns):
        raise ConfigError(f"turn={turn}: {name} has {len(transcript.turns)} turns, 0 to {len(transcript.turns) - 1}")
    spoken = transcript.turns[index]
    own = [one for one in candidates if (one.transcript, one.turn) == (name, index) and one.continued]
    if own:
        return _candidate(transcript, own[0])
    version = transcript.experts[spoken.speaker].policy_version
    altered = "thinking" if spoken.thinking else "beyond" if spoken.beyond else None
    return Said(transcript, index, spoken.speaker, spoken.text, version, None, None, altered, spoken.thinking is not None)


def _candidate(transcript: Transcript, one: Candidate) -> Said:
    ids = tuple(one.ids) if one.ids else None
    thought = one.thinking is not None
    return Said(transcript, one.turn, one.speaker, one.text, one.policy_version, ids, one.id, one.altered, thought)


APART = {
    "scripted": "scripted: its words come from a file, so they have no probabilities",
    "server": "computed by a server, whose weights may be others by now",
    "human": "a person",
}


def model_of(run: RunReader, speaker: Speaker, models_dir: str | None, device: str | None) -> ModelConfig:
    """The config of the model that speaks for a seat, its files looked for on this machine. Raises ConfigError."""
    experts = run.config.get("experts")
    try:
        config = validate(ExpertsConfig, experts or {})[speaker]
    except KeyError:
        raise ConfigError(f"{run.folder}: its config has no expert {speaker}; name another run") from None
    except ConfigError as error:
        raise ConfigError([f"{run.folder / 'config.yaml'}: experts.{problem}" for problem in error.problems]) from None
    if config.backend != "local":
        whose = APART.get(config.backend, f"computed by {config.backend}, and not here")
        raise ConfigError(f"expert {speaker} of {run.folder} is {whose}; take one whose model is loaded here")
    here = {"models_dir": models_dir} | ({} if device is None else {"device": device})
    return config.model_copy(update=here)


def weights_of(run: RunReader, speaker: Speaker, version: int) -> Path | None:
    """The folder of the weights of a policy version; None for the base. Raises ConfigError where they were not kept."""
    if not version:
        return None
    kept = dict(_kept(run, speaker))
    if version not in kept:
        there = f"there are the base (0) and {', '.join(map(str, kept))}" if kept else "there is the base (0) alone"
        raise ConfigError(
            f"{run.folder}: the weights of policy version {version} of expert {speaker} were not kept (keep_rounds); {there}: look at the "
            "text with one of these, version=NUMBER"
        )
    return kept[version]


def _kept(run: RunReader, speaker: Speaker) -> Iterator[tuple[int, Path]]:
    """(policy version, folder of its weights) of each checkpoint that is whole."""
    for place in sorted(run.folder.glob("rounds/[0-9]*")):
        versions = (read_json(place / "state.json") or {}).get("versions")
        version = versions.get(speaker) if isinstance(versions, dict) else None
        folder = next((one for one in (place / f"adapter_{speaker}", place / "adapter") if one.is_dir()), None)
        if (place / "DONE").is_file() and isinstance(version, int) and folder is not None:
            yield version, folder
