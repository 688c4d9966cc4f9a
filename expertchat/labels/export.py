"""Labels for others: preference pairs as TRL reads them, with people as their source, and a table of everything."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from statistics import fmean

from expertchat.labels.store import standing_by_annotator
from expertchat.labels.tasks import Key
from expertchat.records import PreferencePair
from expertchat.records.lab import Choice, Item, Label
from expertchat.text.cells import csv_cell
from expertchat.text.sentences import neutralise

Standing = Mapping[str, Mapping[Key, Label]]


# -- preference pairs ---------------------------------------------------------------------------------------------------


@dataclass
class Preferences:
    """The pairs that people make, and what became of the other items: why -> how many."""

    pairs: list[PreferencePair] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def preferences_of(labels: Sequence[Label], items: Sequence[Item]) -> Preferences:
    """A preference pair of every pair that more annotators decide one way than the other.

    The score of a text is the share of the annotators who prefer it, a tie being half a preference for each; the margin is the difference.
    Answers that came a second time do not count. Where the texts were rated one by one, an annotator prefers the one with the higher mean
    of the categories rated in both. A tie makes no pair, nor does what nobody answered.
    """
    made, standing = Preferences(), standing_by_annotator(labels)
    for item in items:
        if not item.pair:
            made.dropped["one text alone"] += 1
            continue
        votes = [vote for own in standing.values() if (vote := _vote(item.id, own)) is not None]
        prompt = prompt_of(item)
        if not votes:
            skipped = any(key.item == item.id for own in standing.values() for key in own)
            made.dropped["skipped, or not decided" if skipped else "not labelled"] += 1
        elif votes.count("first") == votes.count("second"):
            made.dropped["tie"] += 1
        elif item.texts[0].text == item.texts[1].text:
            made.dropped["two identical texts"] += 1
        elif not prompt:
            made.dropped["no prompt: neither a topic nor turns before it"] += 1
        else:
            made.pairs.append(_pair(item, votes, prompt))
    return made


def _vote(item: str, standing: Mapping[Key, Label]) -> Choice | None:
    """What one annotator prefers, in the form that was answered last."""
    own = [key for key in standing if key.item == item and not key.again]
    for form in dict.fromkeys(key.form for key in reversed(own)):
        if (found := _preferred(*(standing.get(Key(item, place, False, form)) for place in (0, 1)))) is not None:
            return found
    return None


def _preferred(one: Label | None, two: Label | None) -> Choice | None:
    """What a choice says, or the ratings of both texts."""
    if one is not None and one.choice is not None:
        return one.choice
    if one is None or two is None:
        return None
    rated = [(x, y) for name, x in one.ratings.items() if x is not None and (y := two.ratings.get(name)) is not None]
    if not rated:
        return None
    first, second = fmean(x for x, _ in rated), fmean(y for _, y in rated)
    return "tie" if first == second else "first" if first > second else "second"


def _pair(item: Item, votes: Sequence[Choice], prompt: list[dict[str, str]]) -> PreferencePair:
    shares = [(votes.count(name) + votes.count("tie") / 2) / len(votes) for name in ("first", "second")]
    best = 0 if shares[0] > shares[1] else 1
    chosen, rejected = item.texts[best], item.texts[1 - best]
    return PreferencePair(
        id=item.id,
        prompt=prompt,
        chosen=[{"role": "assistant", "content": neutralise(chosen.text)}],
        rejected=[{"role": "assistant", "content": neutralise(rejected.text)}],
        score_chosen=shares[best],
        score_rejected=shares[1 - best],
        margin=shares[best] - shares[1 - best],
        round=0,
        policy_version=0,
        provenance={
            "item": item.id,
            "source": item.source,
            "judge": "people",
            "annotators": len(votes),
            "chosen": chosen.candidate or f"{item.id}/{best}",
            "rejected": rejected.candidate or f"{item.id}/{1 - best}",
        },
    )


def prompt_of(item: Item) -> list[dict[str, str]]:
    """What stands before the texts, as its subject sees it: its own turns are "assistant", all others "user", and a user comes first.

    Where the subject opened, or nothing was said, the topic is what the user says; [] where there is none either.
    """
    found: list[dict[str, str]] = []
    turns = item.turns if not item.whole else []
    if item.topic.strip() and (not turns or turns[0].speaker == item.subject):
        found.append({"role": "user", "content": neutralise(item.topic)})
    for turn in turns:
        role = "assistant" if turn.speaker == item.subject else "user"
        text = neutralise(turn.text)
        if found and found[-1]["role"] == role:
            found[-1]["content"] += f"\n{text}"
        else:
            found.append({"role": role, "content": text})
    return found if found and found[0]["role"] == "user" else []


# -- a table ------------------------------------------------------------------------------------------------------------


def table_of(labels: Sequence[Label], items: Sequence[Item], form_flags: Sequence[str], wim: Mapping[str, float | None]) -> str:
    """A CSV of all labels that count, one a line: who, what, when, and a column for each category and flag; `wim`: label id -> score.

    A text that a table program would take for a formula gets an apostrophe before it.
    """
    known = {item.id: item for item in items}
    rows = [label for own in standing_by_annotator(labels).values() for label in own.values()]
    scales = list(dict.fromkeys(name for label in rows for name in label.ratings))
    flags = list(dict.fromkeys([*form_flags, *(name for label in rows for name in label.flags)]))
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow([
        "annotator", "item", "place", "again", "form", "at", "seconds", "skipped", "seen", "left", "choice", "preferred", "system",
        *(f"rating_{name}" for name in scales), *(f"flag_{name}" for name in flags), "missing", "wim", "comment", "topic",
    ])  # fmt: skip
    for label in rows:
        item = known.get(label.item)
        systems = [text.system or "" for text in item.texts] if item is not None else []
        chosen = {"first": 0, "second": 1}.get(label.choice or "")
        preferred = systems[chosen] if systems and chosen is not None else ""
        rated = systems[label.place] if systems and label.choice is None and label.ratings else ""
        score = wim.get(label.id)
        table.writerow([
            csv_cell(label.annotator), csv_cell(label.item), label.place, int(label.again), label.form,
            datetime.fromtimestamp(label.at, timezone.utc).isoformat(timespec="seconds"), label.seconds,
            int(label.skipped), int(label.seen),
            label.shown or "", label.choice or "", csv_cell(preferred), csv_cell(rated),
            *("" if (value := label.ratings.get(name)) is None else value for name in scales),
            *(int(name in label.flags) for name in flags),
            csv_cell(label.missing or ""), "" if score is None else round(score, 6), csv_cell(label.comment or ""),
            csv_cell(item.topic if item is not None else ""),
        ])  # fmt: skip
    return out.getvalue()
