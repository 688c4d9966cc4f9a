"""What a training run needs of the machine, known from its config alone: room for its updates, and where models are loaded. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from expertchat.backends.hardware import DTYPES, choose_device, choose_dtype
from expertchat.backends.loading import Wanted
from expertchat.config import ModelConfig
from expertchat.experts.registry import family_class
from expertchat.plan.job import Gpu
from expertchat.plan.memory import ATTENTION, Lora, Targets
from expertchat.plan.planner import OUTSIDE, Plan, Trained, check_one
from expertchat.records import Speaker
from expertchat.talk.cast import what_is_loaded
from expertchat.training.config import OnlineConfig, UpdateConfig
from expertchat.training.method import METHODS
from expertchat.training.offline_config import SEAT, OfflineConfig

PROMPT = 256  # tokens of a prompt besides the turns
LONGEST = 1024  # tokens of a row of a file, where neither train.max_tokens nor model.context_length says


def room_for(config: OnlineConfig) -> list[Trained]:
    """What the memory plan is to leave room for: each learner's update, of the longest row that a dialogue can give."""
    longest = max(model.decoding.reply.max_new_tokens for _, model in config.experts.items())
    tokens = config.train.max_tokens or config.conversation.turns * longest + PROMPT
    return [_room(seat, config.experts[seat], config.train, tokens, config.candidates.count) for seat in config.learners]


def _room(seat: Speaker, model: ModelConfig, train: UpdateConfig, tokens: int, replies: int = 1) -> Trained:
    wanted = train.targets or family_class(model.family).family.lora_targets
    targets: Targets = "attention" if train.method == "lora" and set(wanted) <= set(ATTENTION) else "all-linear"
    most = min(tokens, model.context_length or tokens)
    lora, texts = Lora(train.rank, targets), METHODS[train.update].texts or replies
    return Trained(seat, lora, train.micro_batch, most, train.checkpointing, train.method, texts)


def plan_one(config: OfflineConfig, model: ModelConfig, gpus: Sequence[Gpu] | None = None) -> Plan | None:
    """The plan of a run that trains one `model` on rows and loads others beside it (None: the model is not on a GPU).

    Raises ConfigError where it does not fit.
    """
    tokens = config.train.max_tokens or model.context_length or LONGEST
    room, talk = _room(SEAT, model, config.train, tokens), _dialogue(config, model)
    return check_one(model, SEAT, max(tokens, talk), config.engine.max_batch or 1, room, gpus, beside(config))


def beside(config: OfflineConfig) -> dict[str, ModelConfig]:
    """The models that are loaded beside the one that learns; one that is the same speaks as its base does."""
    mine = _loaded(config.model)
    return {key: one for key, one in config.beside.items() if _loaded(one) != mine}


def _loaded(model: ModelConfig) -> str:
    return what_is_loaded(Wanted(model, family_class(model.family).family.stop))


def _dialogue(config: OfflineConfig, model: ModelConfig) -> int:
    """Tokens of the longest dialogue in which it is evaluated, with its judgement; 0 where it does not talk."""
    if not config.turns:
        return 0
    decodings = [one.decoding for one in (model, *config.beside.values())]
    return OUTSIDE + max(config.turns * one.reply.max_new_tokens + one.judge.max_new_tokens for one in decodings)


def on_cpu(config: OnlineConfig) -> OnlineConfig:
    """The same config, its models loaded in main memory, where they are parted among the processes; in the number type of their GPUs."""
    seats = {seat: in_main_memory(model) for seat, model in config.experts.items()}
    others = {name: in_main_memory(model) for name in ("third", "moderator") if (model := getattr(config, name, None)) is not None}
    return config.model_copy(update={"experts": config.experts.having(**seats), **others})


def in_main_memory(model: ModelConfig) -> ModelConfig:
    """The same model, loaded in main memory in the number type of its GPU."""
    where = choose_device(model.device)[0]
    names = {number: name for name, number in DTYPES.items()}
    dtype = model.dtype if where == "cpu" else names[choose_dtype(model.dtype, where)[0]]
    return model.model_copy(update={"device": "cpu", "dtype": dtype})
