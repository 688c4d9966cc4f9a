"""Who takes part in a run: the models that its config names, each loaded once, and the experts over them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from expertchat.backends import threads
from expertchat.backends.base import Backend, Embedder
from expertchat.backends.folders import find_folder
from expertchat.backends.learnt import Learnt, weights_of
from expertchat.backends.loading import LaterEmbedder, Wanted, client_for, find_models, load_embedder, load_models, trained_of
from expertchat.backends.reward_folders import problem_for
from expertchat.backends.served.config import ServerConfig
from expertchat.backends.served.terms import Terms
from expertchat.config import ConfigError, ModelConfig, RewardModelConfig
from expertchat.events import Loading, Note
from expertchat.experts.base import CountTokens, ExpertChat
from expertchat.folder.run import Hub
from expertchat.folder.run_folder import RunFolder
from expertchat.folder.served import Ledger
from expertchat.judging.fits import unscored
from expertchat.judging.roles import model_paths, seats_of
from expertchat.plan.planner import Trained, check, embedder_device, placed
from expertchat.records import Speaker
from expertchat.talk.config import ConverseConfig
from expertchat.talk.order import Moderator, moderator_of
from expertchat.text.sentences import shown_path

if TYPE_CHECKING:
    from expertchat.backends.served.embedder import ServedEmbedder
    from expertchat.choosing.config import BestOfNConfig
    from expertchat.lab.config import LabConfig
    from expertchat.picking.config import PickConfig
    from expertchat.posts.config import PostsConfig
    from expertchat.training.config import OnlineConfig

    CastConfig: TypeAlias = ConverseConfig | OnlineConfig | LabConfig | BestOfNConfig | PickConfig | PostsConfig


@dataclass
class Cast:
    """The loaded models: backends by seat (experts' names, "third", "moderator") plus "embedder" and "reward_model", and the experts."""

    backends: dict[str, Any] = field(default_factory=dict)
    experts: dict[str, ExpertChat] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seats: tuple[Speaker, ...] = ()  # of those who talk
    terms: Terms = field(default_factory=Terms)  # on which servers are asked

    @property
    def tokens(self) -> dict[str, CountTokens]:
        return {seat: self.backends[seat].count_tokens for seat in self.experts}

    @property
    def speakers(self) -> dict[Speaker, ExpertChat]:
        return {seat: self.experts[seat] for seat in self.seats}

    @property
    def moderator(self) -> Moderator | None:
        """Who says whose turn is next, where somebody does."""
        return moderator_of(self.experts, self.tokens)


def load_cast(
    config: CastConfig, hub: Hub, given: Mapping[str, Backend] | None, embedder: Embedder | None, trained: Sequence[Trained] = ()
) -> Cast:
    """Load what the config names, each model once. Raises ConfigError, before anything is loaded if it can be known then.

    `trained`: what the memory plan is to leave room for.
    """
    from expertchat.experts.registry import expert_notes, family_class, make_expert

    cast, seats = Cast(seats=config.experts.seats), seats_of(config)
    valuer = (given or {}).get("reward_model")
    wants_valuer = valuer is None and "reward_model" in config.judge_names
    if wants_valuer and config.reward_model is not None and config.reward_model.backend == "local":
        named = config.reward_model
        find_folder(named.path, named.revision, problem_for(named.label, pairs=False), named.models_dir)
    wanted = {seat: Wanted(model, family_class(model.family).family.stop) for seat, model in seats.items()}
    lacking = embedder is None and config.embeds
    terms = terms_of(config, hub)
    cast.terms = terms
    backends, found = _load(config, wanted if given is None else {}, lacking, hub, trained, terms)
    backends |= given or {}
    cast.notes += _notes_on_trained(seats, {one.seat for one in trained}) if given is None else []
    for seat, model in seats.items():
        backend: Any = backends[seat]
        cast.backends[seat] = backend
        cast.experts[seat] = make_expert(seat, model, backend.info, cast.seats)
        cast.experts[seat].thoughts.say = lambda text: hub.send(Note(text=text, level="warning"))
        notes = expert_notes(model, cast.experts[seat], backend.info)
        cast.notes += [note for text in notes if (note := f"{backend.info.name}: {text}") not in cast.notes]
        backend.say = lambda text: hub.send(Note(text=text, level="warning"))
    if problems := unscored(config, {seat: cast.backends[seat].capabilities.scores for seat in seats}):
        raise ConfigError(problems)
    if wants_valuer and config.reward_model is not None:
        valuer = load_reward_model(config.reward_model, hub, terms)
        cast.notes += valuer.notes
    if valuer is not None:
        cast.backends["reward_model"] = valuer
    embedder = embedder or found
    if embedder is not None:
        cast.backends["embedder"] = embedder
        if found is not None and found.note:
            cast.notes.append(found.note)
    return cast


def _load(
    config: CastConfig, wanted: Mapping[str, Wanted], embeds: bool, hub: Hub, trained: Sequence[Trained], terms: Terms
) -> tuple[dict[str, Backend], LaterEmbedder | ServedEmbedder | None]:
    """The backends by seat, and the embedder if it is wanted: found, and loaded later."""
    problems: list[str] = []
    embedder: LaterEmbedder | ServedEmbedder | None = None
    learnt = {seat: trained_of(one.config, seat) for seat, one in wanted.items() if one.config.trained}
    own = {seat: what_is_loaded(one) for seat, one in wanted.items()}
    learning = {one.seat for one in trained} & own.keys()
    keys = weights_of(own, {seat: what_is_loaded(untrained(one)) for seat, one in wanted.items()}, learnt, learning)
    models = {key: untrained(next(wanted[seat] for seat in wanted if keys[seat] == key)) for key in dict.fromkeys(keys.values())}
    folders = dict[str, Path]()
    try:
        folders = find_models(models, hub.send)
    except ConfigError as error:
        problems += error.problems
    try:
        embedder = _find_embedder(config, hub, terms) if embeds else None
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    set_threads(config.engine.threads, [one.config for one in models.values() if one.config.backend == "local"])
    plan = check(config, trained=trained) if models else None
    for key, one in models.items():
        placed_config, device_map = placed(one.config, next(seat for seat in wanted if keys[seat] == key), plan)
        models[key] = one._replace(config=placed_config, device_map=device_map)
    if isinstance(embedder, LaterEmbedder):
        embedder.config = embedder.config.model_copy(update={"device": embedder_device(plan, embedder.config.device)})
    loaded = load_models(models, folders, config.run.seed, config.engine, hub.send, terms)
    threads.follow_for([] if config.engine.threads else [one.model for one in loaded.values() if one.model is not None])
    found: dict[str, Backend] = {seat: loaded[key] for seat, key in keys.items()}
    return (with_trained(found, own, learnt, learning) if learnt else found), embedder


def with_trained(
    loaded: Mapping[str, Any], own: Mapping[str, str], learnt: Mapping[str, Learnt], learning: Collection[str]
) -> dict[str, Backend]:
    """The backends by seat, each with what it was trained with. `own`: seats with the same value speak as one. Raises ConfigError."""
    from expertchat.backends.trained import merged, voices

    found: dict[str, Backend] = {}
    alone = {own[seat] for seat in learning}
    for backend in {id(one): one for one in loaded.values()}.values():
        seats = {own[seat]: seat for seat in reversed(list(loaded)) if loaded[seat] is backend}  # the first of each
        wanted = {key: learnt.get(seat) for key, seat in seats.items()}
        if not any(wanted.values()):
            made = dict.fromkeys(wanted, backend)
        elif alone.isdisjoint(wanted):
            made = voices(backend, wanted)
        else:
            made = {key: merged(backend, one) for key, one in wanted.items() if one is not None}
        found |= {seat: made[own[seat]] for seat in loaded if loaded[seat] is backend}
    return found


def _notes_on_trained(seats: Mapping[str, ModelConfig], learning: Collection[str]) -> Iterator[str]:
    """Which weights speak, and what was done with those that learn on."""
    for seat, model in seats.items():
        if model.trained:
            learnt = trained_of(model, seat)
            below = " -> ".join(str(one.folder) for one in learnt.layers)
            what = f"{'an adapter' if learnt.adapter else 'weights'} on {shown_path(model.path)}"
            why = ", for it learns on from there" if seat in learning else ""
            how = f", worked into its weights in memory{why}" if seat in learning or not learnt.shares else ""
            yield f"{seat} speaks with what was trained in {below}: {what}{how}"


def untrained(wanted: Wanted) -> Wanted:
    """The same as it was before."""
    return wanted._replace(config=wanted.config.model_copy(update={"trained": None}))


def terms_of(config: CastConfig, hub: Hub) -> Terms:
    """How the servers of a run are asked, with its folder as the place of their answers."""
    ledger = Ledger(hub.store if isinstance(hub.store, RunFolder) else None)
    return Terms(getattr(config, "server", None) or ServerConfig(), ledger, lambda text: hub.send(Note(text=text, level="warning")))


def what_is_loaded(wanted: Wanted) -> str:
    """Two seats with the same value share a backend: persona, wordings and decoding differ by request."""
    return wanted.config.model_dump_json(exclude={"family", "prompts", "persona", "decoding"}) + repr(wanted.stop_tokens)


def set_threads(number: int | None, models: Sequence[ModelConfig]) -> None:
    """Let torch compute with `number` threads; None: as many as these models gain from."""
    if not models:
        return
    import torch

    from expertchat.backends.hardware import usable_cores

    torch.set_num_threads(number or (1 if all(model.path.startswith("embedded:") for model in models) else usable_cores()))


def load_reward_model(config: RewardModelConfig, hub: Hub, terms: Terms) -> Any:
    """The backend of a reward model. Raises ConfigError."""
    if config.backend == "server":
        from expertchat.backends.served.valuer import ServedRewardModel

        return ServedRewardModel.connect(config, client_for(config, terms))
    from expertchat.backends.reward_model import RewardModel

    began, what = time.monotonic(), f"reward model {shown_path(config.path)}"
    hub.send(Loading(what=what))
    loaded = RewardModel.load(config)
    hub.send(Loading(what=what, done=True, seconds=time.monotonic() - began))
    loaded.say = lambda text: hub.send(Note(text=text, level="warning"))
    return loaded


def _find_embedder(config: CastConfig, hub: Hub, terms: Terms) -> LaterEmbedder | ServedEmbedder:
    if config.embedder.backend == "server":
        from expertchat.backends.served.embedder import ServedEmbedder

        return ServedEmbedder.connect(config.embedder, client_for(config.embedder, terms))

    def announce(done: bool, seconds: float) -> None:
        hub.send(Loading(what="embedder", done=done, seconds=seconds, gib=embedder.gib))

    embedder = load_embedder(config.embedder, model_paths(config), announce)
    embedder.say = lambda text: hub.send(Note(text=text, level="warning"))
    return embedder
