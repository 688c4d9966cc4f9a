"""The model that is talked to: loaded when it is needed, as a run has trained it and as it was before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from expertchat.backends.learnt import Learnt
from expertchat.backends.loading import trained_of
from expertchat.config import ConfigError, ModelConfig
from expertchat.prompting.config import TalkConfig
from expertchat.records import Message
from expertchat.text.sentences import shown_path

if TYPE_CHECKING:
    from expertchat.backends.local import LocalBackend

Say = Callable[[str], None]


class Spoken:
    """Loads in the background from `start` on; whoever asks for a voice waits for it. `say` hears what the loading chose."""

    def __init__(self, config: TalkConfig, say: Say) -> None:
        assert config.model is not None
        here = {} if config.device is None else {"device": config.device}
        self.config, self.say = config, say
        self.model: ModelConfig = config.model.model_copy(update=here)
        self.learnt: Learnt | None = trained_of(self.model) if self.model.trained else None
        self._voices: dict[bool, LocalBackend] = {}
        self._failed: BaseException | None = None
        self._told = False
        self._thread: threading.Thread | None = None
        self.began = 0.0

    @property
    def name(self) -> str:
        base = shown_path(self.model.path)
        return f"{base} + {self.learnt.shown}" if self.learnt is not None else base

    def start(self) -> None:
        """Begin to load, beside whatever else is done."""
        if self._thread is None:
            self.began = time.monotonic()
            self._thread = threading.Thread(target=self._try, name="loading", daemon=True)
            self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether it cannot be loaded at all."""
        return self._failed is not None

    @property
    def ready(self) -> bool:
        """Whether nobody would wait."""
        return self._thread is not None and not self._thread.is_alive()

    def voice(self, trained: bool = True) -> LocalBackend:
        """The model, as it was trained or as it was before. Waits until it is there. Raises ConfigError where it cannot be loaded."""
        self.start()
        assert self._thread is not None
        while self._thread.is_alive():
            self._thread.join(0.1)  # so that Ctrl-C is heard
        if self._failed is not None:
            raise self._failed
        if not self._told:  # here, and not while somebody types
            self._told = True
            for note in self._voices[self.learnt is not None].info.notes:
                self.say(note)
        trained = trained and self.learnt is not None
        if trained not in self._voices:  # a base whose trained weights could not stand beside it
            self._voices[trained] = self._load(self.model.model_copy(update={"trained": None}))
        return self._voices[trained]

    def _try(self) -> None:
        try:
            self._voices |= self._both()
        except BaseException as error:
            self._failed = error

    def _both(self) -> dict[bool, LocalBackend]:
        if self.learnt is None:
            return {False: self._load(self.model)}
        from expertchat.backends.trained import as_trained, voices

        base = self._load(self.model.model_copy(update={"trained": None}))
        if not self.learnt.shares:
            return {True: as_trained(base, self.learnt)}
        return voices(base, {False: None, True: self.learnt})

    def _load(self, config: ModelConfig) -> LocalBackend:
        from expertchat.backends.loading import load_backend
        from expertchat.experts.registry import family_class
        from expertchat.talk.cast import set_threads

        engine = self.config.engine
        set_threads(engine.threads, [config])
        found: Any = load_backend(config, self.config.seed, family_class(config.family).family.stop, engine.max_batch, engine.cache_gib)
        return found  # type: ignore[no-any-return]


class AsText:
    """A renderer for prompts that stand as they are: the text of the last message, and no chat template."""

    opens_thinking = False

    def __init__(self, backend: LocalBackend) -> None:
        self._renderer, self._tokenizer = backend.renderer, backend.tokenizer

    def encode(self, messages: Sequence[Message], prefix: str = "") -> list[int]:
        """The tokens of the text; none of it becomes a special token, and none that ends a text stands behind it."""
        text = self._renderer.plain(messages[-1].content + prefix)
        ids = list(self._tokenizer(text, verbose=False)["input_ids"])
        return ids[:-1] if len(ids) > 1 and ids[-1] == self._tokenizer.eos_token_id else ids

    def __getattr__(self, name: str) -> Any:
        return getattr(self._renderer, name)


def as_text(backend: LocalBackend) -> LocalBackend:
    """The same model, shown prompts without its chat template."""
    from dataclasses import replace

    found = copy(backend)
    found.renderer = AsText(backend)  # type: ignore[assignment]
    found.info = replace(found.info, opens_thinking=False)
    return found


def need_model(config: TalkConfig) -> None:
    """Raise ConfigError where no model is named, or one whose words come from a file."""
    if config.model is None:
        raise ConfigError("name a model, or a run that has trained one: expertchat talk MODEL, expertchat talk RUN")
    if config.model.backend != "local":
        raise ConfigError(f"model.backend={config.model.backend}: only a model that is loaded here can be looked into; name one")
