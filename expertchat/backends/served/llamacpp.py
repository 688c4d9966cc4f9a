"""GGUF files on llama.cpp in this process (the package xllamacpp), asked as a server is, over an address of this machine alone."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any, NamedTuple

from expertchat.backends.folders import find_folder
from expertchat.backends.gguf import is_gguf
from expertchat.backends.served.address import free_port
from expertchat.backends.served.backend import ServedBackend
from expertchat.backends.served.client import Client
from expertchat.backends.served.terms import Terms
from expertchat.config import ConfigError, ModelConfig
from expertchat.text.sentences import first_line, shown_path

SLOTS = 16  # requests that it serves at once
CONTEXT = 4096  # tokens of each, where the config does not say
INSTALL = "needs the package xllamacpp: pip install 'expertchat[llamacpp]'"


class Running(NamedTuple):
    """A server of this process."""

    url: str
    secret: str
    server: Any


_servers: dict[tuple[str, int], Running] = {}  # by file and context; they live as long as the process


def beside(config: ModelConfig, seed: int, terms: Terms) -> ServedBackend:
    """The backend of a GGUF file. Raises ConfigError."""
    folder = find_folder(config.path, config.revision, models_dir=config.models_dir)
    if not is_gguf(folder):
        raise ConfigError(f"path={config.path}: backend=llamacpp runs a GGUF file, and this is none; name one, or take backend=local")
    name, context = Path(config.path.partition("#")[0]).stem, config.context_length or CONTEXT
    running = _running(folder, context)
    settings = config.model_copy(update={"model": name, "url": running.url})
    bounds = terms.settings.model_copy(update={"concurrency": SLOTS, "max_requests": None, "max_cost": None})
    return ServedBackend.connect(settings, seed, _client(running, Terms(bounds, terms.ledger, terms.say)))


def _client(running: Running, terms: Terms) -> Client:
    return Client([running.url], running.secret, terms)


def _running(file: Path, context: int) -> Running:
    """What serves a file in this process; started at its first use."""
    key = str(file), context
    if key not in _servers:
        _servers[key] = _started(file, context)
    return _servers[key]


def _started(file: Path, context: int) -> Running:
    try:
        import xllamacpp
    except ImportError:
        raise ConfigError(f"backend=llamacpp {INSTALL}") from None
    from expertchat.backends.hardware import usable_cores

    wanted, secret = xllamacpp.CommonParams(), secrets.token_hex(16)
    wanted.model.path, wanted.model_alias = str(file), {file.stem}
    wanted.n_parallel, wanted.n_ctx = SLOTS, SLOTS * context
    wanted.cpuparams.n_threads = usable_cores()
    wanted.hostnames, wanted.port, wanted.api_keys = ["127.0.0.1"], free_port(), [secret]  # other users of the machine cannot ask it
    wanted.verbosity, wanted.offline, wanted.ui = -1, True, False
    try:
        server = xllamacpp.Server(wanted)
    except RuntimeError as error:
        raise ConfigError(f"path={shown_path(str(file))}: llama.cpp cannot load it ({first_line(error)})") from None
    return Running(f"http://127.0.0.1:{wanted.port}/v1", secret, server)
