"""A report, or a table of it, as Markdown: what is said, the tables, and each figure in words or as a picture."""

from __future__ import annotations

from collections.abc import Iterator

from expertchat.report.parts import Figure, Report, Section, Shown
from expertchat.text.cells import markdown
from expertchat.text.in_words import line

PUBLISHED = "In italics: what others have reported; nothing of it was measured here."


def table(shown: Shown, level: int = 2) -> str:
    """A table with its heading."""
    lines = [f"{'#' * level} {markdown(shown.title)}", "", "| | " + " | ".join(map(markdown, shown.columns)) + " |"]
    lines.append("|---" * (len(shown.columns) + 1) + "|")
    for name, cells in shown.rows.items():
        said = f"*{markdown(name)}*" if name in shown.published else markdown(name)
        lines.append(f"| {said} | " + " | ".join(markdown(str(cell)) for cell in cells) + " |")
    if shown.published:
        lines += ["", PUBLISHED]
    return "\n".join([*lines, *(["", shown.note] if shown.note else [])])


def written(report: Report, pictures: str | None = None) -> str:
    """The whole report but its transcripts. `pictures`: the folder of the figures' files, as seen from the Markdown file."""
    parts = [f"# {_plain(report.title)}", _plain(report.verdict.says), _plain(report.verdict.cannot), table(report.facts)]
    if report.warnings:
        parts.append("\n".join(f"- {_plain(one)}" for one in report.warnings))
    for section in report.sections:
        parts += _section(section, pictures)
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(section: Section, pictures: str | None) -> Iterator[str]:
    yield f"## {_plain(section.title)}"
    yield from map(_plain, section.lead)
    for part in section.parts:
        yield table(part, 3) if isinstance(part, Shown) else _figure(part, pictures)


def _figure(figure: Figure, pictures: str | None) -> str:
    note = f" {_plain(figure.note)}" if figure.note else ""
    if pictures is None:
        return f"**{_plain(figure.title)}.** {_plain(figure.alt)}{note}"
    return f"![{_plain(figure.alt)}]({pictures}/{figure.name}.svg)\n\n**{_plain(figure.title)}.**{note}"


def _plain(text: str) -> str:
    """A sentence that may hold names of others: no heading, list or link can begin in it."""
    said = markdown(line(text))
    return f"\\{said}" if said[:1] in ("#", "-", "+", ">", "=") else said
