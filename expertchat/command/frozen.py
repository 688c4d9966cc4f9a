"""A whole config as a file, without conf/: what a run folder has, and what `expertchat submit` freezes."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from omegaconf import OmegaConf
from pydantic import BaseModel, RootModel

from expertchat.command.compose import ERRORS, config_class, explain, keys_of
from expertchat.command.table import COMMANDS
from expertchat.config import ConfigError, near, validate
from expertchat.folder.reader import RunReader
from expertchat.folder.run_folder import came_later
from expertchat.text.redaction import secret_values
from expertchat.text.sentences import as_yaml


def freeze(config: BaseModel) -> str:
    """A checked config as YAML that `load_frozen` reads. Where models lie is left out: it is a matter of the machine."""
    return as_yaml(config.model_dump(mode="json"))


def load_frozen(command: str, path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """The checked config of a file as `freeze` or a run has written it, without conf/; `overrides` change keys that it has.

    Models are looked for in models_dir of the overrides, EXPERTCHAT_MODELS or models_dir of the file, the first that there is. Raises
    ConfigError with every problem: no such file, one of another version (keys too many, too few), wrong overrides.
    """
    plain, model = _read(Path(path).expanduser()), config_class(command)
    groups = list(_groups(model, plain))
    lacking = [_dotted(place, name) for place, group, inner in groups for name, field in group.model_fields.items()
               if name not in inner and not field.exclude]  # fmt: skip
    of_machine = [place for place, group, _ in groups if place and "models_dir" in group.model_fields]
    changes, problems = _changes(command, overrides, {*keys_of(plain), *lacking, *(f"{place}.models_dir" for place in of_machine)}, plain)
    folder = changes.get("models_dir", os.environ.get("EXPERTCHAT_MODELS") or plain.get("models_dir"))
    for key, value in [*((f"{place}.models_dir", folder) for place in of_machine), *changes.items()]:
        *way, name = key.split(".")
        inner = plain
        for part in way:
            inner = inner[part] if isinstance(inner.get(part), dict) else {}
        old = inner.get(name)
        inner[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    absent = [key for key in lacking if key not in changes and not came_later(key)]
    found: list[str] = []
    try:
        config = validate(model, plain)
    except ConfigError as error:
        found = [problem for problem in error.problems if problem.removesuffix(": is missing") not in absent]
    foreign = absent or any(": unknown key" in problem for problem in found)
    if foreign and (kind := RunReader(Path(path).expanduser().parent).kind) in COMMANDS and kind != command:
        raise ConfigError(f"--config {path}: is the config of a run of {kind}: expertchat {kind} --config {shlex.quote(str(path))}")
    if foreign:
        problems.insert(0, f"{path}: was not written by this version of expertchat {command}; give what is missing as KEY=VALUE")
    problems += secret_values(plain)
    problems += [*found, *(f"{key}: is missing" for key in absent)]
    if problems:
        raise ConfigError(problems)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        plain = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: cannot be read ({error.strerror}); a run's config is RUN/config.yaml") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--config {path}: is no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(plain, dict):
        raise ConfigError(f"--config {path}: is no config; a config is a mapping of keys to values, as in RUN/config.yaml")
    return plain


def _groups(model: type[BaseModel], plain: Any, place: str = "") -> Iterator[tuple[str, type[BaseModel], dict[str, Any]]]:
    """The groups of `model` that `plain` has, the outermost first, each with its place: "experts.a"."""
    if not isinstance(plain, dict):
        return
    if issubclass(model, RootModel):  # names of the user's own: the experts
        for name, value in plain.items():
            yield from _groups(get_args(model.model_fields["root"].annotation)[-1], value, _dotted(place, name))
        return
    yield place, model, plain
    for name, field in model.model_fields.items():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and hasattr(inner, "model_fields"):
                yield from _groups(inner, plain.get(name), _dotted(place, name))


def _changes(command: str, overrides: Sequence[str], known: set[str], plain: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values that overrides of a frozen config give, and what is wrong with the overrides."""
    changes: dict[str, Any] = {}
    problems = []
    for text in overrides:
        try:
            one = OverridesParser.create().parse_override(text)
        except ERRORS as error:
            problems.append(explain(command, text, error, []))
            continue
        key, value = one.key_or_group, one.value()
        choice = one.type != OverrideType.CHANGE or one.package or "/" in key
        if choice or (isinstance(plain.get(key), dict) and not isinstance(value, dict)):
            problems.append(f"{text}: the groups of a frozen config are chosen; change keys of it with KEY=VALUE, or leave --config away")
        elif one.is_sweep_override():
            problems.append(f"{text}: is a sweep or a list, and --config is one run; write {key}=[...] for a list")
        elif re.search(r"(?<!\\)(?:\\\\)*\$\{", text):
            problems.append(f"{text}: ${{...}} is not filled in beside --config; write the value itself")
        elif key not in known:
            problems.append(f"{key}: unknown key{near(key, sorted(known)) or '; the file shows the keys there are'}")
        else:
            changes[key] = OmegaConf.to_container(OmegaConf.create({"it": value}), resolve=True)["it"]  # type: ignore[call-overload, index]
    return changes, problems


def _dotted(place: str, name: str) -> str:
    return f"{place}.{name}".lstrip(".")
