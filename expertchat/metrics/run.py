"""`expertchat metrics SOURCE`: what can be measured in texts without a judge, a row a text and a figure a system."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError
from expertchat.evaluation.statistics import FEW as INTERVAL
from expertchat.folder.writing import write_out
from expertchat.metrics import overlap
from expertchat.metrics.columns import Column, columns_of
from expertchat.metrics.config import MetricsConfig
from expertchat.metrics.files import as_csv
from expertchat.metrics.kept import Kept
from expertchat.metrics.likely import Likelihoods
from expertchat.metrics.loaded import find_embedder, load_model, load_types
from expertchat.metrics.measuring import Row, Tools, measure
from expertchat.metrics.summing import ALL, added, as_table, distinct_all, each_once, labels, means, together
from expertchat.records import finite
from expertchat.records.lab import Item
from expertchat.text.likeness import blank
from expertchat.text.sentences import listed

Values = Mapping[str, Any]
LIKELIHOODS = {"likelihood", "reference_likelihood"}  # measures that need a model
FEW = 10  # groups below which intervals are wide


@dataclass
class Plan:
    """What is measured, with what, and what is left out."""

    columns: list[Column]
    tools: Tools
    notes: list[str] = field(default_factory=list)


def run_metrics(
    config: MetricsConfig,
    items: Sequence[Item],
    show: Callable[[Values], None],
    markdown: Callable[[Values], str],
    tell: Callable[[str], None] = lambda text: None,
) -> int:
    """Measure, show, and write what `rows` and `out` name. Returns 1 where no text could be measured. Raises ConfigError."""
    overlap.check(config.measures if any(item.reference is not None for item in items) else ())
    plan, texts, kept = planned(config, items), sum(len(item.texts) for item in items), Kept()
    if plan.tools.likelihoods is not None and config.rows is not None:
        kept = plan.tools.likelihoods.kept = Kept(Path(f"{config.rows}.part").expanduser(), config.model)
        if kept.before:
            tell(f"{kept.path}: the likelihoods that an earlier start has computed are taken from it")
    try:
        rows = measure(items, plan.columns, plan.tools, lambda done: tell(f"{done} of {texts} texts are scored"))
    finally:
        kept.close(done=False)
    values = summed(config, rows, plan)
    if config.rows is not None:
        write_out(f"rows={config.rows}", config.rows, _rows_text(config.rows, rows, labels(rows), plan.columns))
    if config.out is not None:
        columns = ("measure", "system", "minus", "n", "mean", "low", "high")
        text = {
            ".md": lambda: markdown(values), ".csv": lambda: as_csv(columns, as_table(values)),
            ".json": lambda: json.dumps(values, indent=1, ensure_ascii=False) + "\n",
        }[Path(config.out).suffix]()  # fmt: skip
        write_out(f"out={config.out}", config.out, text)
    kept.close(done=True)
    show(values)
    return 0 if any(value is not None for row in rows for value in row.values.values()) else 1


# -- what is measured -----------------------------------------------------------------------------------------------------


def planned(config: MetricsConfig, items: Sequence[Item]) -> Plan:
    """The columns that make sense for these items, with the models they need. Raises ConfigError."""
    if not items:
        raise ConfigError(f"source.path={', '.join(config.source.path)}: holds no text; name another source")
    columns, notes = columns_of(config.measures, config.classifiers.root), list[str]()
    rows = [Row(item, place) for item in items for place in range(len(item.texts)) if not blank(item.texts[place].text)]
    gone = [column for column in columns if column.needs and rows and all(row.lacks(column) for row in rows)]
    for why, left in _by_reason(gone, rows).items():
        notes.append(f"left out, {why}: {listed(left)}" + ("; a column of references: reference=COLUMN" if "reference" in why else ""))
    columns = [column for column in columns if column not in gone]
    tools = Tools(config.stemmer)
    if "likelihood" in config.measures and config.model is None:
        notes.append("left out, no model is named: log-likelihood and perplexity; any model: model=NAME")
    if config.model is None:
        columns = [column for column in columns if column.measure not in LIKELIHOODS]
    classifiers = config.classifiers.root
    if not classifiers and "type" in config.measures and any(row.item.type for row in rows):
        notes.append("left out, no classifier is named: whether they are of the right type; classifier=RUN of expertchat reward_model")
    if any(column.measure == "similarity" for column in columns):
        tools.embedder, which = find_embedder(config.embedder, [text.system for item in items for text in item.texts])
        notes.append(which if tools.embedder is not None else f"left out, no embedder: similarity ({which})")
        if tools.embedder is None:
            columns = [column for column in columns if column.measure != "similarity"]
    measures = {column.measure for column in columns}
    if "bleu" in measures:
        tools.bleu = overlap.Bleu(config.bleu_tokenizer)
    if "chrf" in measures:
        tools.chrf = overlap.Chrf()
    if "type" in measures:
        found = {name: load_types(one, config.threads) for name, one in classifiers.items()}
        tools.classifiers = found
        notes += [f"types by {one.name} ({name}), which knows {', '.join(one.names)}" for name, one in found.items()]
    if measures & LIKELIHOODS and config.model is not None:
        backend = load_model(config.model, config.seed, config.threads)
        tools.likelihoods = Likelihoods(backend, config.model, config.context)
        notes += [f"likelihoods by {backend.info.name}, {CONTEXTS[tools.likelihoods.context]}", *backend.info.notes]
    return Plan(columns, tools, notes)


CONTEXTS = {
    "view": "after the turns before a text as the run's expert sees them",
    "chat": "after the turns before a text as a chat",
    "none": "of the texts alone",
}


def _by_reason(gone: Sequence[Column], rows: Sequence[Row]) -> dict[str, list[str]]:
    """Titles of columns by the reason why no text has them; the nine of ROUGE are one."""
    found: dict[str, list[str]] = {}
    for column in (one for one in gone if one.measure != "type"):  # most sources know of no types
        titles = found.setdefault(str(rows[0].lacks(column)), [])
        title = {"rouge": "ROUGE", "bleu": "BLEU", "chrf": "chrF"}.get(column.measure, column.title)
        if title not in titles:
            titles.append(title)
    return found


# -- what comes of it -----------------------------------------------------------------------------------------------------


def summed(config: MetricsConfig, rows: Sequence[Row], plan: Plan) -> dict[str, Any]:
    """All figures as values, with what must be said beside them."""
    every, seed, tools = labels(rows), config.seed, plan.tools
    average = means(rows, every, [column for column in plan.columns if column.mean], seed)
    once, items = each_once(rows, every), {row.item.id for row in rows}
    rows, systems = list(compress(rows, once)), list(compress(every, once))
    whole = added(rows, systems, seed, None if tools.bleu is None else tools.bleu.pooled)
    signatures: dict[str, str] = {}
    referred = [row for row in rows if row.values.get("bleu") is not None or row.values.get("chrf") is not None]
    if tools.bleu is not None and referred:
        signatures["bleu"] = tools.bleu.signature(*_texts(referred))
    if (chrf := tools.chrf) is not None and referred:
        signatures["chrf"] = chrf.pooled(*_texts(referred))[1]
        whole.append(together(rows, systems, "chrf_all", "chrF2, all texts", 2, lambda own: _chrf(chrf, own)))
    if "distinct" in config.measures:
        for n in (1, 2):
            whole.append(together(rows, systems, f"distinct_{n}_all", f"distinct-{n}, all texts", 3, partial(distinct_all, n=n)))
    groups = {row.group for row in rows}
    return finite({
        "schema": 1, "source": ", ".join(config.source.path),
        "items": len(items), "texts": len(rows), "groups": len(groups),
        "systems": list(dict.fromkeys(systems)), "means": average,
        "together": whole, "signatures": signatures, "notes": [*plan.notes, *_notes(rows, systems, len(groups))],
    })  # fmt: skip


def _texts(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    return [row.text for row in rows], [row.item.reference or "" for row in rows]


def _chrf(tool: overlap.Chrf, rows: Sequence[Row]) -> float | None:
    known = [row for row in rows if row.values.get("chrf") is not None]
    return tool.pooled(*_texts(known))[0] if known else None


def _notes(rows: Sequence[Row], systems: Sequence[str], groups: int) -> list[str]:
    """What the figures cannot show."""
    found = []
    if empty := [row for row in rows if blank(row.text)]:
        names = ", ".join(row.item.id for row in empty[:3]) + (", ..." if len(empty) > 3 else "")
        found.append(f"{len(empty)} of {len(rows)} texts are empty and enter no figure ({names})")
    if groups < INTERVAL:
        of = "one group (dialogue or topic)" if groups == 1 else f"only {groups} groups (dialogues or topics)"
        found.append(f"all texts are of {of}: no interval can be given")
    elif groups < FEW:
        found.append(f"only {groups} groups (dialogues or topics): the intervals are wide, for so few show little")
    if len(set(systems)) > 1 and not any(row.item.pair for row in rows):
        found.append("the texts of the systems are not pairs to one same context: no paired difference")
    if len(set(Counter(systems).values())) > 1 and "distinct_1" in rows[0].values:
        found.append("the systems have unequally many texts: distinct-n of all texts falls with their number and cannot be compared")
    cut = sum("context full" in note for row in rows for note in row.notes)
    if cut:
        found.append(f"{cut} texts were scored after a part of their turns: context full")
    return found


def _rows_text(path: str, rows: Sequence[Row], systems: Sequence[str], columns: Sequence[Column]) -> str:
    """A row a text, as CSV or JSONL; what is null says why."""
    names = [column.name for column in columns]
    table: list[dict[str, Any]] = [
        {
            "item": row.item.id, "place": row.place, "system": row.system or ("" if system == ALL else system), "group": row.item.group,
            **{name: row.values.get(name) for name in names}, "problems": row.problems, "notes": row.notes,
        }
        for row, system in zip(rows, systems, strict=True)
    ]  # fmt: skip
    if Path(path).suffix == ".jsonl":
        return "".join(json.dumps(finite(one), ensure_ascii=False) + "\n" for one in table)
    for one in table:
        one["problems"] = "; ".join(f"{name}: {why}" for name, why in one["problems"].items())
        one["notes"] = "; ".join(one["notes"])
    return as_csv(["item", "place", "system", "group", *names, "problems", "notes"], table)
