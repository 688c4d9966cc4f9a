"""Hydra composes conf/ for a command, pydantic checks it, and every problem of the overrides comes in one list."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import hydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from expertchat.command.overrides import corrected, parsed
from expertchat.command.table import COMMANDS, find
from expertchat.config import ConfigError, Group, conf_dir, may_name, near, near_key, validate
from expertchat.text.redaction import secret_values

_RATED = ("judging.categories", "judging.weights")
# Groups whose keys are the user's own, with those in which a new one must stand.
OPEN = dict.fromkeys(_RATED, _RATED) | {place: (place,) for place in ("form.scales", "form.flags")}
ERRORS = (HydraException, OmegaConfBaseException, ValueError)  # ValueError: Hydra's own checks of its flags and of odd overrides


def config_class(command: str) -> type[Group]:
    """What a command's config is."""
    place = COMMANDS[command].config
    assert place is not None, f"{command} has no config"
    found: type[Group] = find(place)
    return found


def compose(command: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The plain values of a command's config. Raises ConfigError with every problem."""
    try:
        found = values(compose_dict(command, overrides))
    except ERRORS as error:
        raise ConfigError(problems_of(command, overrides) or hydra_says(error)) from None
    if any(_of_another(command, override) for override in overrides):
        raise ConfigError(problems_of(command, overrides))
    return found


def load(command: str, overrides: Sequence[str] = ()) -> Any:
    """The checked config of a command (ConverseConfig, WorldConfig). Raises ConfigError with every problem."""
    return checked(command, compose(command, overrides))


def values(config: DictConfig) -> dict[str, Any]:
    """A composed config as plain values; what has no value yet is "???"."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def checked(command: str, plain: dict[str, Any]) -> Any:
    """Plain values as the command's config. Raises ConfigError with every problem, missing values among them."""
    plain, untold = with_bases(plain)
    missing = sorted(_missing(plain))
    problems = [untold.get(key) or f"{key}: has no value; give it one: {key}=VALUE" for key in missing]
    problems += secret_values(plain)
    try:
        config = validate(config_class(command), plain)
    except ConfigError as error:
        problems += [_or_chosen(command, plain, problem) for problem in error.problems if problem.split(": ")[0] not in missing]
    if problems:
        raise ConfigError(problems)
    return config


def with_bases(plain: Any, place: str = "") -> tuple[Any, dict[str, str]]:
    """Plain values, and in the place of a path that was left away the base of what the model was trained with; and why one is not known."""
    if not isinstance(plain, dict):
        return plain, {}
    found, untold = dict(plain), dict[str, str]()
    for name, inner in plain.items():
        found[name], more = with_bases(inner, f"{place}.{name}".lstrip("."))
        untold |= more
    if plain.get("backend") == "server" and isinstance(plain.get("model"), str) and "path" in plain:
        found["path"] = plain["model"]  # by which it is known everywhere
    word = plain.get("trained")
    if plain.get("path") == "???" and isinstance(word, str):
        from expertchat.backends.learnt import find_learnt

        try:
            learnt = find_learnt(word)
            if learnt.base is None:
                untold[f"{place}.path"] = f"{place}.path: has no value, and {word} does not say which model it was trained from; name it"
            else:
                found |= {"path": learnt.base, "revision": plain.get("revision") or learnt.revision}
        except ConfigError as error:
            untold[f"{place}.path"] = f"{place}.trained={word}: {error.problems[0]}"
    return found, untold


def _missing(plain: Any, place: str = "") -> Iterator[str]:
    """The keys that have no value yet. OmegaConf would say it too, but not of texts that look like its own ${...}."""
    for name, inner in plain.items() if isinstance(plain, dict) else ():
        key = f"{place}.{name}".lstrip(".")
        if inner == "???":
            yield key
        yield from _missing(inner, key)


def compose_dict(command: str, overrides: Sequence[str]) -> DictConfig:
    """What Hydra composes, to be read only. Raises what Hydra raises."""
    found = _composed(str(conf_dir()), COMMANDS[command].root, tuple(overrides), tuple(sorted(os.environ.items())))
    if isinstance(found, Exception):
        raise found
    return found


@lru_cache(maxsize=64)  # to say all that is wrong, the same words are composed several times, each 0.1 s
def _composed(conf: str, root: str | None, overrides: tuple[str, ...], environment: tuple[tuple[str, str], ...]) -> DictConfig | Exception:
    try:
        with hydra.initialize_config_dir(conf, version_base=None):
            return hydra.compose(root, overrides=list(overrides))
    except ERRORS as error:
        return error


def hydra_settings(command: str, overrides: Sequence[str]) -> DictConfig:
    """Hydra's own settings. Raises ConfigError with every problem of the overrides, which are all Hydra's."""
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base=None, job_name=f"expertchat-{command}"):
            settings = hydra.compose(COMMANDS[command].root, overrides=list(overrides), return_hydra_config=True).hydra
            OmegaConf.resolve(settings.sweep)
            OmegaConf.resolve(settings.launcher)
            return settings
    except ERRORS as error:
        raise ConfigError(problems_of(command, overrides) or hydra_says(error)) from None


# -- messages -----------------------------------------------------------------------------------------------------------


def problems_of(command: str, overrides: Sequence[str]) -> list[str]:
    """What is wrong with each override alone, and with what the good ones make together; Hydra stops at the first."""
    good, failed = sorted_out(command, overrides)
    if (untold := _of_environment(command, good)) is not None:
        return [untold]  # of which every override would be told, too
    problems = [problem for override, error in failed.items() for problem in explain(command, override, error, good).split("\n")]
    without = [key_of(override) for override in failed]  # what is said of a group that lacks them may well be wrong
    try:
        checked(command, values(compose_dict(command, good)))
    except ConfigError as error:
        problems += [problem for problem in error.problems if not any(_touches(problem.split(": ")[0], key) for key in without)]
    return problems


def _of_environment(command: str, good: Sequence[str]) -> str | None:
    """What is wrong with a file of conf/ that a variable of the environment chooses (EXPERTCHAT_CLUSTER), where nobody chooses another."""
    try:
        compose_dict(command, good)
    except MissingConfigException as error:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        close = near(name, error.options or []) or "; export one that there is, or unset it;"
        return f"EXPERTCHAT_{group.upper()}={name}: there is no {group} '{name}'{close} there are {', '.join(error.options or [])}"
    except ERRORS:
        return None
    return None


def sorted_out(command: str, overrides: Sequence[str]) -> tuple[list[str], dict[str, Exception]]:
    """The overrides that Hydra takes together, and its error about each of the others."""
    good: list[str] = []
    failed: dict[str, Exception] = {}
    strange: dict[str, Exception] = {override: error for override in overrides if (error := _of_another(command, override))}
    waiting = [override for override in overrides if override not in strange]
    with contextlib.suppress(*ERRORS):  # the usual case, and many times as fast as one after the other
        OmegaConf.to_container(compose_dict(command, waiting), resolve=True)
        return waiting, strange
    while waiting:
        failed = {}
        for override in waiting:
            try:
                OmegaConf.to_container(compose_dict(command, [*good, override]), resolve=True)
                good.append(override)
            except ERRORS as error:
                failed[override] = error
        if len(failed) == len(waiting):  # an override may need another one that stands after it
            break
        waiting = list(failed)
    return good, strange | failed


class _OfAnother(ValueError):
    """A file of a group (+experiment=NAME) that sets keys which its command has not."""


def _of_another(command: str, override: str) -> _OfAnother | None:
    """Whether the file that +experiment=NAME chooses sets at the top what this command has not; Hydra would take it."""
    key, _, name = override.lstrip("+").partition("=")
    file = conf_dir() / key / f"{name}.yaml"
    if not override.startswith("+") or name not in _options(key):
        return None
    text = file.read_text("utf-8")
    if not text.startswith("# @package _global_"):
        return None
    unknown = set(OmegaConf.create(text)) - {"defaults", *config_class(command).model_fields}
    return _OfAnother(f"{', '.join(sorted(map(str, unknown)))}: unknown to {command}") if unknown else None


def without_wrong(command: str, overrides: Sequence[str]) -> tuple[Any, list[str], list[str]]:
    """The config of those overrides that are right: (it, or None; these overrides; problems that show only without the wrong ones)."""
    good, more = sorted_out(command, overrides)[0], list[str]()
    while True:
        try:
            return checked(command, values(compose_dict(command, good))), good, more
        except ConfigError as error:
            more += error.problems
            wrong = [problem.split(": ")[0].split("=")[0] for problem in error.problems]
        except ERRORS:
            return None, good, more
        kept = [override for override in good if not any(_touches(key_of(override), key) for key in wrong)]
        if len(kept) == len(good):
            return None, good, more
        good = kept


def key_of(override: str) -> str:
    """The key that an override sets: experts.a of model@experts.a=auto."""
    return override.lstrip("+~").split("=")[0].rpartition("@")[2]


def _touches(one: str, two: str) -> bool:
    return one == two or one.startswith(f"{two}.") or two.startswith(f"{one}.")


def explain(command: str, override: str, error: Exception, good: Sequence[str]) -> str:
    """Hydra's error about one override with a remedy, a problem a line."""
    if isinstance(error, _OfAnother):
        return _of_others(command, override, error)
    message = f"{error}\n{error.__cause__ or ''}"
    key, _, value = override.lstrip("+~").partition("=")
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        return f"{override}: there is no {group} '{name}'{near(name, error.options) or ';'} there are {', '.join(error.options)}"
    if not key or parsed(override) is None:
        shown = corrected(override)
        remedy = f"quote the text for Hydra, and the whole word for the shell: {shown}" if shown else (
            "write KEY=VALUE, and quote what holds spaces, commas, brackets or =: 'KEY=\"a, b\"'"
        )  # fmt: skip
        return f"{override}: is no override; {remedy}"
    if isinstance(error, MissingConfigException) or "Config group override must be" in message:
        return f"{override}: {key} is a group of files; choose one of {', '.join(_options(key.partition('@')[0]))}"
    if "Ambiguous value" in message or "--multirun" in message:
        return f"{override}: is a sweep or a list; add -m to run each value, or write {key}=[...] for a list, {key}='\"...\"' for a text"
    if "Could not append" in message and "already" in message:
        return f"{override}: is there already; write it without the +"
    if lacking := _no_model_yet(override, _plain(compose_dict(command, good))):
        return lacking
    if "Did you mean to override one of" in message:
        places = message.split("one of ")[1].split("\n")[0].rstrip("?").strip()
        return f"{override}: say whose: {places}"
    added = COMMANDS[command].added
    if key in added and override[0] not in "+~" and value and f"+{key}=" in message:
        known = _options(key.partition("@")[0])
        wrong = "" if value in known else f" with one that there is{near(value, known) or ':'} {', '.join(known)}"
        return f"{override}: is not in the config yet; write +{key}={value if value in known else 'NAME'}{wrong}"
    for group in added:
        if "@" in group and key.startswith(f"{(place := key_of(group))}."):
            return f"{key}: there is no {place} model yet; add one with +{group}=NAME (or auto, with {place}.path=FOLDER)"
    if "Environment variable" in message:
        name = message.split("Environment variable ")[1].split("'")[1]
        return f"{override}: the environment variable {name} is not set; export it, or give a value for then: ${{oc.env:{name},VALUE}}"
    if "Interpolation key" in message or "Recursive interpolation" in message:
        return f"{override}: {hydra_says(error)}; ${{...}} stands for another key's value: write \\${{ where the text itself is meant"
    if any(words in message for words in ("Could not override", "does not exist", "not in struct")):
        if key in added and override.startswith("+") and value in _options(key.partition("@")[0]):
            return _of_others(command, override, error)
        return _unknown(command, override, message, good)
    return f"{override}: {hydra_says(error.__cause__ or error)}"


def _of_others(command: str, override: str, error: Exception) -> str:
    """What to say of a file of an added group (+experiment=NAME) that sets what this command has not: whose it is."""
    key = key_of(override)
    fitting = [name for name, other in COMMANDS.items() if name != command and key in other.added and not sorted_out(name, [override])[1]]
    if not fitting:
        return f"{override}: {hydra_says(error.__cause__ or error)}"
    return f"{override}: is no {key} of {command}, it belongs to {', '.join(fitting)}: expertchat {fitting[0]} {override}"


def _or_chosen(command: str, plain: Any, problem: str) -> str:
    """What is said of a word in the place of a group, with the group of files that it may have been meant to choose in."""
    place = problem.partition(": is a group")[0]
    choice = next((one for one in _choices(command) if "@" in one and key_of(one) == place), None)
    if choice is None or place == problem:
        return problem
    word, known = str(_at(plain, place)), _options(choice.partition("@")[0])
    if word in known or (choice.startswith("model@") and "/" in word):
        return f"{place}={word}: is a group of keys, not a word; write {choice}={word}"
    names = f"{near(word, known) or ' with one that there is:'} {', '.join(known)}"
    return f"{place}={word}: is a group of keys, not a word; write {choice}=NAME{names}"


def _no_model_yet(override: str, plain: Any) -> str | None:
    """What to say of an override of another expert or of a moderator, where there is none of that name."""
    found = re.fullmatch(r"\+?(?:(\w+)@)?(experts\.[^.=]+|moderator)(?:\.[^=]*)?(?:=(.*))?", override)
    if found is None or _at(plain, found[2]) is not None:
        return None
    group, place, value = found.groups()
    known, remedy = _options("model"), f"add it with +model@{place}="
    if group != "model" or value in known:
        return f"{override}: there is no {place} yet; {remedy}{value if group == 'model' else 'NAME'}"
    models = f"{near(value or '', known) or ';'} there are {', '.join(known)}"
    return f"{override}: there is no {place} yet, and no model '{value}'{models}; {remedy}NAME"


def _unknown(command: str, override: str, message: str, good: Sequence[str]) -> str:
    """What to say of an override of keys that are not there."""
    plain, key = _plain(compose_dict(command, good)), override.lstrip("+~").split("=")[0]
    if of_hydra(override):
        known = [f"hydra.{name}" for name in keys_of(_plain(hydra_settings(command, [text for text in good if of_hydra(text)])))]
        return f"{key}: unknown key{near_key(key, known) or '; `--hydra-help` tells of Hydra'}"
    one = parsed(override)
    value = one.value() if one is not None else None
    if isinstance(value, dict) and isinstance(there := _at(plain, key), dict):
        new = [str(name) for name in value if name not in there]
        if key.endswith(".more"):
            return "\n".join(f"{key}.{name}: a new field is added with a +: +{key}.{name}=VALUE" for name in new)
        if key not in OPEN:
            return "\n".join(f"{key}.{name}: unknown key{near(name, there) or ';'} there are {', '.join(there)}" for name in new)
        reserved = [f"{key}: '{name}' cannot be a category's name; rename it" for name in new if not may_name(name)]
        add = " ".join(f"+{place}.{name}=..." for name in new for place in OPEN[key])
        said = f"{key} has no {', '.join(new)}: it has {', '.join(there) or 'none'}"
        return "\n".join([*reserved, f"{said}; add to it with {add}, or begin anew with '~{key}' '+{key}={{...}}'"])
    known = [*keys_of(plain), *_choices(command)]
    return f"{key}: unknown key{near_key(key, known) or _inside(plain, key, command)}"


def _inside(plain: Any, key: str, command: str) -> str:
    """What the innermost group of a key that is there holds."""
    group = key.rpartition(".")[0]
    while group and not isinstance(_at(plain, group), dict):
        group = group.rpartition(".")[0]
    if not group:
        return f"; `expertchat {command} --cfg job` shows the keys there are"
    return f"; {group} has {', '.join(map(str, _at(plain, group)))}"


def _at(plain: Any, key: str) -> Any:
    for part in key.split("."):
        plain = plain.get(part) if isinstance(plain, dict) else None
    return plain


def of_hydra(override: str) -> bool:
    return override.lstrip("+~").startswith(("hydra.", "hydra/"))


def hydra_says(error: BaseException) -> str:
    lines = [line.strip() for line in re.sub(r"^See https://hydra.*$", "", str(error), flags=re.MULTILINE).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("full_key", "object_type", "reference_type")))


def keys_of(plain: Any, place: str = "") -> list[str]:
    """Every dotted key of plain values, groups and leaves."""
    own = [place] if place else []
    if not isinstance(plain, dict):
        return own
    return own + [key for name, inner in plain.items() for key in keys_of(inner, f"{place}.{name}".lstrip("."))]


def _plain(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=False)


def _choices(command: str) -> list[str]:
    """The groups that an override can choose in, as they are written: model@experts.a, topics, ..."""
    return _choices_in(str(conf_dir()), COMMANDS[command].root)


@lru_cache(maxsize=8)
def _choices_in(conf: str, root: str | None) -> list[str]:
    with hydra.initialize_config_dir(conf, version_base=None):
        try:
            config = hydra.compose(root, return_hydra_config=True)
        except MissingConfigException:  # a file that the environment chooses, and the command line another one
            return []
        return [key for key in config.hydra.runtime.choices if not str(key).startswith("hydra/")]


def _options(group: str) -> list[str]:
    """The files of a group of conf/."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
