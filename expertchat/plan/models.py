"""`expertchat models`: which models are here and whole, and how to get the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from expertchat.backends.folders import cached, embedder_problem, folder_problem, resolve_path
from expertchat.backends.gguf import is_gguf, lacks_package
from expertchat.backends.loading import weight_files
from expertchat.backends.packaged import PREFIX, install_line
from expertchat.config import ConfigError, conf_dir, near
from expertchat.folder.writing import write_out
from expertchat.plan.config import ModelsConfig
from expertchat.text.thinking import template_thinks

EMBEDDERS = ("mpnet", "minilm")
UNWANTED = ("original/*", "consolidated*", "*.bin", "*.onnx")  # the same weights again, in other forms
State = Literal["complete", "broken", "missing", "served"]
Show = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Found:
    """One model: `state` missing has no folder; `problem` says why it is broken; `get`: commands that fetch it."""

    name: str  # its option in the config, or what the user named
    path: str
    about: str
    state: State
    folder: str | None = None
    size: int = 0  # bytes of its weight files
    problem: str | None = None
    get: tuple[str, ...] = ()
    thinks: str | None = None  # what its chat template says of thinking; None where it says nothing


@dataclass(frozen=True)
class Known:
    """A model of conf/."""

    name: str
    path: str
    about: str = ""
    revision: str | None = None
    embedder: bool = False
    served: bool = False  # who answers is asked over HTTP: there is nothing to fetch


def run_models(config: ModelsConfig, show: Show) -> int:
    """List or verify. Returns 0, or 2 where verify finds one broken, or one that was named and is missing. Raises ConfigError."""
    if config.models_dir and not Path(config.models_dir).expanduser().is_dir():
        raise ConfigError(f"models_dir={config.models_dir}: no such folder; create it, or correct EXPERTCHAT_MODELS or models_dir")
    wanted = _chosen(config.names)
    found = [look(known, config.models_dir, tokenizer=config.verify) for known in wanted]
    values = {
        "schema": 1,
        "models_dir": config.models_dir,
        "verified": config.verify,
        "models": [asdict(model) for model in found],
        "others": [] if config.names else _others(config.models_dir, found),
    }
    show(values)
    if config.out:
        write_out(f"out={config.out}", config.out, json.dumps(values, indent=1) + "\n")
    bad = [model for model in found if model.state == "broken" or (model.state == "missing" and config.names)]
    return 2 if config.verify and bad else 0


def known_models() -> Iterator[Known]:
    """Every model of conf/model that has a path of its own, and the embedder."""
    import yaml

    places = [*sorted((conf_dir() / "model").glob("*.yaml")), *(conf_dir() / "embedder" / f"{name}.yaml" for name in EMBEDDERS)]
    for place in places:
        text = place.read_text("utf-8")
        values = yaml.safe_load(text)
        path = values.get("path")
        if path and path != "???":
            about = text.splitlines()[0].lstrip("# ") if text.startswith("#") else ""
            yield Known(place.stem, path, about, values.get("revision"), place.parent.name == "embedder", values.get("backend") == "server")


def _chosen(names: Sequence[str]) -> list[Known]:
    every = {known.name: known for known in known_models()}
    if not names:
        return list(every.values())
    by_path = {known.path: known for known in every.values()}
    chosen, problems = [], []
    for name in names:
        known = every.get(name) or by_path.get(name)
        if known is None and ("/" in name or Path(name).expanduser().exists()):
            known = Known(name, name)
        if known is None:
            options = f"{near(name, every) or ';'} there are {', '.join(every)}"
            problems.append(f"{name}: is no option of model{options}; or name a folder or hub id")
        else:
            chosen.append(known)
    if problems:
        raise ConfigError(problems)
    return chosen


def look(known: Known, models_dir: str | None, tokenizer: bool = False) -> Found:
    """Find a model and check its files; with `tokenizer`, read that too."""
    if known.served:
        return Found(known.name, known.path, known.about, "served")
    get = () if known.path.startswith("embedded:") else commands(known, models_dir)
    try:
        place = resolve_path(known.path, models_dir)
    except ConfigError as error:
        return Found(known.name, known.path, known.about, "missing", problem=error.problems[0])
    folder = place if isinstance(place, Path) else cached(place, known.revision)
    if folder is None:
        return Found(known.name, known.path, known.about, "missing", get=get)
    weights = weight_files(folder)
    problem = _problem(folder, known.embedder, tokenizer)
    return Found(
        known.name,
        known.path,
        known.about,
        "broken" if problem else "complete",
        str(folder),
        sum(file.stat().st_size for file in weights),
        problem,
        get=((f"git -C {quote(str(folder))} lfs pull",) if problem and "git-lfs" in problem else ()) + (get if problem else ()),
        thinks=None if known.embedder else thinks(folder),
    )


def thinks(folder: Path) -> str | None:
    """Whether the chat template in a folder can make its model think, and that it is asked not to; None where it cannot, or is not found.

    A GGUF file's template is not looked for.
    """
    return template_thinks(_template(folder))


def _template(folder: Path) -> str:
    """The source of a folder's chat template, "" where there is none that can be read."""
    try:
        if (own := folder / "chat_template.jinja").is_file():
            return own.read_text("utf-8")
        found = json.loads((folder / "tokenizer_config.json").read_text("utf-8")).get("chat_template")
    except (OSError, ValueError, RecursionError, AttributeError):
        return ""
    if isinstance(found, list):  # several by name
        named = {template.get("name"): template.get("template") for template in found if isinstance(template, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else ""


def _problem(folder: Path, embedder: bool, tokenizer: bool) -> str | None:
    """The first thing that is wrong with a folder, the cheap checks first."""
    if embedder or (folder / "modules.json").is_file():
        return embedder_problem(folder)
    problem = folder_problem(folder)
    if problem:
        return problem
    from expertchat.backends.wholeness import tensors_problem, tokenizer_problem

    if is_gguf(folder):
        if not tokenizer:
            return lacks_package()
        from expertchat.backends.hardware import choose_dtype, parameters_of
        from expertchat.backends.unpacking import unpacked

        try:  # only what was unpacked shows that all tensors and the tokenizer are there
            folder = unpacked(folder, choose_dtype("auto", "cpu", parameters_of(folder))[0], folder.name)[0]
        except ConfigError as error:
            return error.problems[0]
    return tensors_problem(folder) or (tokenizer_problem(folder) if tokenizer else None)


def commands(known: Known, models_dir: str | None) -> tuple[str, ...]:
    """How to get a model, by the hub's client or by git."""
    if known.path.startswith(PREFIX):
        return (install_line(known.path), "make real")
    if known.path.startswith((".", "/", "~")):
        return ()
    target = f"{models_dir or '$EXPERTCHAT_MODELS'}/{known.path.rpartition('/')[2]}"
    version, branch = (f" --revision {known.revision}", f" --branch {known.revision}") if known.revision else ("", "")
    return (
        f"hf download {known.path}{version} --local-dir {target} {' '.join(f'--exclude {quote(p)}' for p in UNWANTED)}",
        f"git lfs install && git clone{branch} https://huggingface.co/{known.path} {target}",
    )


def _others(models_dir: str | None, found: Sequence[Found]) -> list[str]:
    """Folders of models in models_dir that conf/ does not name."""
    if not models_dir:
        return []
    listed = {model.folder for model in found}
    folders = sorted(entry for entry in Path(models_dir).expanduser().iterdir() if (entry / "config.json").is_file())
    return [str(entry) for entry in folders if str(entry) not in listed]
