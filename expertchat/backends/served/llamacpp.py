"""GGUF files on llama.cpp in this process (the package xllamacpp), asked as a server is, over an address of this machine alone."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from expertchat.backends.folders import find_folder
from expertchat.backends.gguf import is_gguf
from expertchat.backends.served.backend import ServedBackend
from expertchat.backends.served.client import Terms, client_of
from expertchat.config import ConfigError, ModelConfig
from expertchat.text.sentences import first_line, shown_path

SLOTS = 16  # requests that it serves at once
CONTEXT = 4096  # tokens of each, where the config does not say
INSTALL = "needs the package xllamacpp: pip install 'expertchat[llamacpp]'"
_servers: dict[tuple[str, int], tuple[str, Any]] = {}  # by file and context: its address; it lives as long as the process


def beside(config: ModelConfig, seed: int, terms: Terms) -> ServedBackend:
    """The backend of a GGUF file. Raises ConfigError."""
    folder = find_folder(config.path, config.revision, models_dir=config.models_dir)
    if not is_gguf(folder):
        raise ConfigError(f"path={config.path}: backend=llamacpp runs a GGUF file, and this is none; name one, or take backend=local")
    name, context = Path(config.path.partition("#")[0]).stem, config.context_length or CONTEXT
    url = _address(folder, context)
    settings = config.model_copy(update={"model": name, "url": url})
    bounds = terms.settings.model_copy(update={"concurrency": SLOTS, "max_requests": None, "max_cost": None})
    return ServedBackend.connect(settings, seed, client_of([url], None, Terms(bounds, terms.ledger, terms.say)))


def _address(file: Path, context: int) -> str:
    """Where a file is served in this process; started at its first use."""
    key = str(file), context
    if key not in _servers:
        _servers[key] = _started(file, context)
    return _servers[key][0]


def _started(file: Path, context: int) -> tuple[str, Any]:
    try:
        import xllamacpp
    except ImportError:
        raise ConfigError(f"backend=llamacpp {INSTALL}") from None
    from expertchat.backends.hardware import usable_cores

    wanted = xllamacpp.CommonParams()
    wanted.model.path, wanted.model_alias = str(file), {file.stem}
    wanted.n_parallel, wanted.n_ctx = SLOTS, SLOTS * context
    wanted.cpuparams.n_threads = usable_cores()
    wanted.hostname, wanted.port = "127.0.0.1", _free_port()
    wanted.verbosity = -1
    try:
        server = xllamacpp.Server(wanted)
    except RuntimeError as error:
        raise ConfigError(f"path={shown_path(str(file))}: llama.cpp cannot load it ({first_line(error)})") from None
    return f"http://{wanted.hostname}:{wanted.port}/v1", server


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
