"""What a training run needs of the machine, known from its config alone: room for its updates, and where models are loaded. No torch."""

from __future__ import annotations

from expertchat.backends.hardware import DTYPES, choose_device, choose_dtype
from expertchat.config import ModelConfig
from expertchat.experts.registry import family_class
from expertchat.plan.memory import ATTENTION, Lora, Targets
from expertchat.plan.planner import Trained
from expertchat.training.config import OnlineConfig
from expertchat.training.method import METHODS

PROMPT = 256  # tokens of a prompt besides the turns


def room_for(config: OnlineConfig) -> list[Trained]:
    """What the memory plan is to leave room for: each learner's update, of the longest row that a dialogue can give."""
    train, found = config.train, []
    longest = max(model.decoding.reply.max_new_tokens for _, model in config.experts.items())
    tokens = train.max_tokens or config.conversation.turns * longest + PROMPT
    for seat in config.learners:
        model = config.experts[seat]
        wanted = train.targets or family_class(model.family).family.lora_targets
        targets: Targets = "attention" if train.method == "lora" and set(wanted) <= set(ATTENTION) else "all-linear"
        most = min(tokens, model.context_length or tokens)
        lora, texts = Lora(train.rank, targets), METHODS[train.update].texts or config.candidates.count
        found.append(Trained(seat, lora, train.micro_batch, most, train.checkpointing, train.method, texts))
    return found


def on_cpu(config: OnlineConfig) -> OnlineConfig:
    """The same config, its models loaded in main memory, where they are parted among the processes; in the number type of their GPUs."""

    def moved(model: ModelConfig) -> ModelConfig:
        where = choose_device(model.device)[0]
        names = {number: name for name, number in DTYPES.items()}
        dtype = model.dtype if where == "cpu" else names[choose_dtype(model.dtype, where)[0]]
        return model.model_copy(update={"device": "cpu", "dtype": dtype})

    seats = {seat: moved(model) for seat, model in config.experts.items()}
    others = {name: moved(model) for name in ("third", "moderator") if (model := getattr(config, name, None)) is not None}
    return config.model_copy(update={"experts": config.experts.having(**seats), **others})
