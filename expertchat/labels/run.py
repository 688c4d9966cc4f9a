"""`expertchat label`: where the labels are, who sits down to label, and what is made of the labels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expertchat.config import ConfigError, EmbedderConfig
from expertchat.folder.reader import RunReader, read_config
from expertchat.folder.run import Halted
from expertchat.folder.writing import replace, saving
from expertchat.lab.recorded import said_in
from expertchat.labels.config import FormConfig, LabelConfig, annotator_name
from expertchat.labels.export import preferences_of, table_of
from expertchat.labels.sitting import Sitting
from expertchat.labels.store import LabelFile, label_files, read_labels, standing_by_annotator
from expertchat.labels.tasks import tasks_of
from expertchat.records.lab import Item, Label, Opinion
from expertchat.sources.config import SourceConfig
from expertchat.sources.read import from_source
from expertchat.text.sentences import as_yaml

if TYPE_CHECKING:
    from expertchat.backends.base import Embedder

Say = Callable[[str], None]
FOLDER = "labels"
NAMES = {"trl": "preferences.jsonl", "csv": "labels.csv"}
OF_EMBEDDER = ("path", "backend", "url", "model", "key_from", "prices")  # what of a run's embedder decides its scores


# -- places -------------------------------------------------------------------------------------------------------------


def labels_folder(labels: str | None, sources: Sequence[str]) -> Path:
    """Where the labels of a source are, or will be: what is named, else in a source that is a folder, else beside the file.

    Where that cannot be written (a source that is only to be read, a data set of the hub), and holds no labels yet, it is a folder under
    labels/ of the current one, called by the source.
    """
    if labels is not None:
        return Path(labels).expanduser()
    first = sources[0] if sources else ""
    place = Path(first).expanduser()
    here = hashlib.sha256("\n".join(sorted(sources)).encode("utf-8", "replace")).hexdigest()[:8]
    away = Path(FOLDER) / f"{place.stem if place.suffix else place.name}-{here}"
    if len(sources) != 1 or not place.exists():
        return away
    beside = place / FOLDER if place.is_dir() else place.parent / f"{place.stem}.{FOLDER}"
    above = beside if beside.is_dir() else beside.parent
    return beside if os.access(above, os.W_OK | os.X_OK) else away


def to_read(labels: str | None, sources: Sequence[str]) -> Path:
    """Where labels of a source are found, which may be a place that only others can write."""
    folder = labels_folder(labels, sources)
    if labels is None and len(sources) == 1 and not folder.is_dir():
        place = Path(sources[0]).expanduser()
        beside = place / FOLDER if place.is_dir() else place.parent / f"{place.stem}.{FOLDER}"
        return beside if beside.is_dir() else folder
    return folder


# -- sitting down -------------------------------------------------------------------------------------------------------


def sits_down(config: LabelConfig, items: Sequence[Item]) -> Callable[[str], Sitting]:
    """What opens the sitting of an annotator, by name; it raises ConfigError. Raises ConfigError where the form fits no item."""
    if not any(config.form.asks_of(item.pair) for item in items):
        kind, remedy = ("pairs", "form=pairs") if items and items[0].pair else ("single texts", "form=ratings or form=open_assistant")
        raise ConfigError(f"form={config.form.name}: asks nothing of {kind}, and all {len(items)} items here are such; take {remedy}")
    folder = labels_folder(config.labels, config.source.path)
    opinions = opinions_about(config.source, items) if config.verdicts else None

    def begin(name: str) -> Sitting:
        try:
            annotator = annotator_name(name)
        except ValueError as error:
            raise ConfigError(f"annotator={name}: {error}") from None
        tasks = tasks_of(items, config.form, annotator, config.seed, config.shuffle, config.again)
        file = LabelFile(folder, annotator, {item.source for item in items})
        try:
            _same_form(folder, config.form)
        except BaseException:
            file.close()
            raise
        return Sitting(config.form, tasks, file, opinions)

    return begin


def _same_form(folder: Path, form: FormConfig) -> None:
    """Keep the form beside the labels that are given in it. Raises ConfigError where another one of the same name was used before."""
    path = folder / f"form-{form.name}.yaml"
    text = as_yaml(form.model_dump())
    try:
        before = path.read_text("utf-8")
    except FileNotFoundError:
        with saving(path):
            replace(path, text)
        return
    except (OSError, ValueError) as error:
        raise ConfigError(f"labels: cannot read {path} ({error}); restore it, or name another folder with labels=FOLDER") from None
    if before != text:
        raise ConfigError(
            f"form={form.name}: the labels in {folder} were given in another form of this name ({path.name}); give this one its own "
            "name with form.name=NAME, or name another folder with labels=FOLDER"
        )


def opinions_about(source: SourceConfig, items: Sequence[Item]) -> dict[str, list[Opinion]]:
    """What judges of the sources say of items, by the items' ids: those of `expertchat judge`, and a run's own.

    Raises ConfigError where nobody has judged any.
    """
    found: dict[str, list[Opinion]] = {}
    for path in (path for path in source.path if Path(path).expanduser().is_dir()):
        run = RunReader(Path(path).expanduser(), "leave verdicts=true away")
        for item, said in said_in(run, from_source(path, source, items)).items():
            found.setdefault(item, []).extend(one.model_copy(update={"judge": judge}) for judge, one in said)
    if not found:
        raise ConfigError("verdicts=true: shows what judges have said, and none has said anything of these items; judge them first")
    return found


# -- what is made of them -----------------------------------------------------------------------------------------------


def run_export(config: LabelConfig, items: Sequence[Item], say: Say) -> int:
    """Write preference pairs or a table. Returns 1 where there is nothing to write, and says why. Raises ConfigError and WriteError."""
    folder = to_read(config.labels, config.source.path)
    labels = read_labels(folder, items)
    if not labels:
        files = "no file of labels" if not list(label_files(folder)) else "no label"
        say(f"{folder} holds {files}: expertchat label SOURCE makes some, labels=FOLDER names another folder")
        return 1
    inside = folder.parent if folder.is_file() else folder
    out = Path(config.out).expanduser() if config.out else inside / NAMES[config.export or "csv"]
    if config.export == "csv":
        table = table_of(labels, items, list(config.form.flags), _scored(config, labels, items, say))
        with saving(out):
            replace(out, table)
        count = sum(len(own) for own in standing_by_annotator(labels).values())
        some = "1 label that counts" if count == 1 else f"{count} labels that count"
        say(f"{some}, of {len(labels)} {'line that was' if len(labels) == 1 else 'lines that were'} kept, in {out}")
        return 0
    made = preferences_of(labels, items)
    dropped = ", ".join(f"{count} {why}" for why, count in made.dropped.most_common())
    if not made.pairs:
        say(f"no preference pair, and nothing is written: {dropped}")
        return 1
    with saving(out):
        replace(out, "".join(f"{pair.to_json()}\n" for pair in made.pairs))
    some = f"{len(made.pairs)} preference pair{'s' if len(made.pairs) > 1 else ''}"
    say(f"{some} of {len(items)} items in {out}" + (f"; no pair: {dropped}" if dropped else ""))
    return 0


def _scored(config: LabelConfig, labels: Sequence[Label], items: Sequence[Item], say: Say) -> Mapping[str, float | None]:
    """Label id -> WIM score; nothing where no embedder is configured, and none is loaded where nothing has to be embedded."""
    if not any(label.missing for label in labels):
        return {}
    embedder = embedder_of(config)
    if embedder is None:
        say("what is missing is not scored: SOURCE is no run that names an embedder; choose one with embedder=mpnet, minilm or real")
        return {}
    from expertchat.labels.missing import wim_scores

    try:
        return wim_scores(labels, {item.id: item for item in items}, embedder, config.empty_score)
    except Halted as error:  # its server does not answer any more
        raise ConfigError(f"embedder: {error}") from None


def embedder_of(config: LabelConfig) -> Embedder | None:
    """The embedder that is configured, else that of the source run; None where there is none. Raises ConfigError where it is not there."""
    if config.embedder.backend == "server" or config.embedder.path != "auto":
        return _found(config.embedder, [])
    places = [place for path in config.source.path if (place := Path(path).expanduser() / "config.yaml").is_file()]
    plain: Mapping[str, Any] = read_config(places[0], "name an embedder: embedder=mpnet") if len(places) == 1 else {}
    own, experts = plain.get("embedder"), plain.get("experts")
    if not isinstance(own, Mapping) or not isinstance(experts, Mapping):
        return None
    seats = [*experts.values(), plain.get("third"), plain.get("moderator")]
    models = [model for model in seats if isinstance(model, Mapping)]
    settings: EmbedderConfig = config.embedder.model_copy(update={key: own[key] for key in OF_EMBEDDER if key in own})
    return _found(settings, ["embedded:" if model.get("family") == "world" else str(model.get("path")) for model in models])


def _found(config: EmbedderConfig, model_paths: Sequence[str]) -> Embedder:
    """An embedder that is loaded here, or asked. Raises ConfigError."""
    from expertchat.backends.loading import client_for, load_embedder

    if config.backend == "local":
        return load_embedder(config, model_paths)
    from expertchat.backends.served.embedder import ServedEmbedder
    from expertchat.backends.served.terms import Terms

    return ServedEmbedder.connect(config, client_for(config, Terms()))


def told(sitting: Sitting, folder: Path) -> str:
    """How far an annotator has come, for the end."""
    rest = sitting.total - sitting.done
    more = f"; {rest} to go, the same command goes on" if rest else ""
    aside = f" ({sitting.elsewhere} more labels are of items that are not shown now)" if sitting.elsewhere else ""
    skipped = f", {sitting.skipped} of them skipped" if sitting.skipped else ""
    return f"{sitting.annotator}: {sitting.done} of {sitting.total} done{skipped}{more}{aside}. Labels: {folder / sitting.annotator}"
