"""A learner that talks through a server while it is trained here: the server has the same base, and is given each new adapter by a folder.

Without an adapter it is the base; with one, the policy. Both keep the server's cache of a shared beginning, and no weight is sent: the
folder must be one that the server sees too (docs/servers.md).
"""

from __future__ import annotations

import hashlib
import shutil
from copy import copy
from pathlib import Path

from expertchat.backends.loading import client_for
from expertchat.backends.served.backend import ServedBackend
from expertchat.backends.served.client import Client, wait_for
from expertchat.backends.served.level import Turns
from expertchat.backends.served.trouble import Denied, Refused
from expertchat.config import ConfigError
from expertchat.folder.run import Halted
from expertchat.records import Speaker
from expertchat.talk.cast import Cast
from expertchat.training.config import OnlineConfig
from expertchat.training.learner import Learners, LoraLearner
from expertchat.training.mixing import NOTE, mixes
from expertchat.training.ranks import Ranks

FOLDER = "published"
NEEDED = "start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=true (vLLM)"


class Through:
    """The voices of one learner at a server: `policy` as it is now, `base` as it was. Raises ConfigError where the server cannot."""

    def __init__(self, seat: Speaker, learner: LoraLearner, base: ServedBackend) -> None:
        problems = [f"cannot load adapters while it runs: {NEEDED}"] if not base.can.adapters else []
        problems += ["does not tell the ids of its tokens, which training needs"] if not base.can.tokens else []
        if problems:
            raise ConfigError([f"experts.{seat}.url: the server of {base.name} {problem}" for problem in problems])
        self.seat, self.learner, self.base, self.policy = seat, learner, base, copy(base)
        self._published: Path | None = None
        self._seen, self._tried = 0, False

    def publish(self, folder: Path) -> None:
        """Let the server speak with the weights as they are now, where they have changed. `folder`: of the run."""
        if self._seen == self.learner.changes:
            return
        self._seen = self.learner.changes
        self._keep_apart(folder / FOLDER / f"{self.seat}.tried")
        place = folder / FOLDER / f"{self.seat}.new"
        self.learner.save(place)
        name = f"{self.seat}-{digest(place)}"  # its own name: the server caches what it computed by it
        whole = place.with_name(name)
        shutil.rmtree(whole, ignore_errors=True)
        place.rename(whole)
        load_adapter(self.base.client, name, whole)
        before, self._published = self._published, whole
        self.policy.name, self.policy.version = name, name
        if before is not None and before != whole:
            unload_adapter(self.base.client, before.name)
            shutil.rmtree(before, ignore_errors=True)

    def _keep_apart(self, place: Path) -> None:
        """Find out once whether the server mixes the base up with an adapter, and ask for both by turns where it does."""
        client = self.base.client
        if not self._tried and client.turns is None and mixes(self.base, self.learner, place, load_adapter, unload_adapter):
            client.turns = Turns()
            client.terms.say(f"server {client.name}: {NOTE}")
        self._tried = True


def digest(folder: Path) -> str:
    """What a folder's weights are known by."""
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()[:16]


def load_adapter(client: Client, name: str, folder: Path) -> None:
    """Give every address an adapter. Raises Halted where one does not take it."""
    body = {"lora_name": name, "lora_path": str(folder.resolve()), "load_inplace": True}
    try:
        wait_for(client.tell("/load_lora_adapter", body))
    except (Denied, Refused) as error:
        raise Halted(f"{error}: the adapter {name} could not be loaded; the server must see {folder.resolve()}") from None


def unload_adapter(client: Client, name: str) -> None:
    """Take an adapter away again; one that is gone already is as good."""
    try:
        wait_for(client.tell("/unload_lora_adapter", {"lora_name": name}))
    except (Denied, Refused):
        return


def let_talk(learners: Learners, config: OnlineConfig, cast: Cast, ranks: Ranks) -> None:
    """Let those learners that have an address (experts.NAME.url) talk through it. Raises ConfigError."""
    found: list[Through] = []
    for seat, learner in learners.by_seat.items():
        model = config.experts[seat]
        if model.url is None:
            continue
        if ranks.world > 1:
            raise ConfigError(f"experts.{seat}.url: a learner talks through a server from one process alone; run it without torchrun")
        if not isinstance(learner, LoraLearner):
            raise ConfigError(f"experts.{seat}.url: who talks through a server learns an adapter; take train=lora")
        served = ServedBackend.connect(model, config.run.seed, client_for(model, cast.terms))
        through = Through(seat, learner, served)
        found.append(through)
        learners.backends |= {seat: through.policy, f"base_{seat}": through.base}
        cast.notes += [f"expert {seat} talks through {note}" for note in served.info.notes[:1]]

    def publish(folder: Path) -> None:
        for one in found:
            one.publish(folder)

    learners.publish = publish
