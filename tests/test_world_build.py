"""`expertchat world build`: what is done in which order, and that a build which was stopped goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expertchat.world import recipe
from expertchat.world.config import WorldConfig
from expertchat.world.train import Course, Progress
from tests.test_world import PROMPTS


def _config(out: Path, **changes: Any) -> WorldConfig:
    values: dict[str, Any] = {"seed": 0, "out": str(out), "experts": ["a", "b", "embedder"], "million_tokens": 36, "dialogues": 1}
    return WorldConfig(**{**values, **changes}, threads=1, prompts=PROMPTS)


def _trained(config: WorldConfig, report: Any, name: str, out: Path, course: Course, meeting: str = "", rank: int = 0) -> None:
    """In place of a training: a line of what was asked, and a file as the weights."""
    with (out.parent / "asked.txt").open("a", encoding="utf-8") as file:
        seats, init = "".join(course.seats), course.init.name if course.init else "nothing"
        falls = ", falls" if course.falls else ""
        file.write(f"{out.name} {course.million_tokens:g} {seats} from {init}, hints {course.hints:g}{falls}, by {rank}\n")
    if (out.parent / f"stop {out.name}").exists():
        raise KeyboardInterrupt
    out.mkdir(exist_ok=True)
    (out / "model.safetensors").write_bytes(b"x" * 10)


def _embedder(config: WorldConfig, out: Path, report: Any) -> None:
    (out / "embedder").mkdir(exist_ok=True)
    (out / "embedder" / "model.safetensors").write_bytes(b"x" * 5)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "_train", _trained)
    monkeypatch.setattr(recipe, "_train_embedder", _embedder)


def _asked(out: Path) -> list[str]:
    lines = sorted((out / "asked.txt").read_text("utf-8").splitlines())
    (out / "asked.txt").unlink()
    return lines


# Of 36 million 8 are for both parts with strong hints, 10 for both with faint ones, 18 for its own: 16, 20 and 36 of 72.
FIRST = [f"llama.first 8 ab from nothing, hints 0.5, by {rank}" for rank in (0, 1)]
SECOND = [f"llama.second 10 ab from llama.first, hints 0.05, by {rank}" for rank in (0, 1)]
OWN = [f"{name} 18 {seat} from llama.second, hints 0.05, falls, by 0" for name, seat in (("llama", "a"), ("mixtral", "b"))]


def test_one_model_learns_both_parts_and_then_each_its_own(tmp_path: Path, trained: None):
    recipe.build(_config(tmp_path), print)
    assert _asked(tmp_path) == sorted([*FIRST, *SECOND, *OWN])
    card = json.loads((tmp_path / "card.json").read_text("utf-8"))
    assert card["bytes"] == {"embedder": 5, "llama": 10, "mixtral": 10}
    assert (card["seed"], card["million_tokens"], card["sources"]) == (0, 36, recipe.source_hash(PROMPTS))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["card.json", "embedder", "llama", "mixtral"]


def test_a_build_goes_on_with_what_it_lacks(tmp_path: Path, trained: None):
    (tmp_path / "stop mixtral").touch()
    with pytest.raises(KeyboardInterrupt):
        recipe.build(_config(tmp_path), print)
    assert set(FIRST) < set(_asked(tmp_path)) and not (tmp_path / "card.json").exists()
    (tmp_path / "stop mixtral").unlink()
    recipe.build(_config(tmp_path), print)
    assert OWN[1] in (asked := _asked(tmp_path)) and not set(asked) & {*FIRST, *SECOND}
    assert (tmp_path / "card.json").exists()


@pytest.mark.parametrize("left", ["", '{"settings"', "[]"])
def test_a_damaged_list_of_what_is_done_begins_anew(left: str, tmp_path: Path, trained: None):
    (tmp_path / "build.json").write_text(left)
    recipe.build(_config(tmp_path), print)
    assert set(FIRST) < set(_asked(tmp_path)) and not (tmp_path / "build.json").exists()


def test_another_recipe_goes_on_with_nothing(tmp_path: Path, trained: None, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "stop mixtral").touch()
    with pytest.raises(KeyboardInterrupt):
        recipe.build(_config(tmp_path), print)
    (tmp_path / "stop mixtral").unlink()
    _asked(tmp_path)
    monkeypatch.setattr(recipe, "OWN", recipe.OWN._replace(peak=0.3))
    recipe.build(_config(tmp_path), print)
    assert set(FIRST) < set(_asked(tmp_path))


def test_another_build_begins_anew_and_takes_no_state_of_it(tmp_path: Path, trained: None):
    (tmp_path / "stop mixtral").touch()
    with pytest.raises(KeyboardInterrupt):
        recipe.build(_config(tmp_path), print)
    (tmp_path / "mixtral.state").touch()
    (tmp_path / "stop mixtral").unlink()
    _asked(tmp_path)
    recipe.build(_config(tmp_path, seed=1), print)
    assert set(FIRST) < set(_asked(tmp_path)) and not (tmp_path / "mixtral.state").exists()


def test_rates_rise_stay_and_fall():
    """Up in 40 steps; level for a quarter of the tokens; down in a line to a fiftieth."""
    course = Course(10, peak=0.6)
    at = lambda step, million: Progress(step, million * 1e6).rate(course)  # noqa: E731 - shorter than a function
    assert at(9, 0.1) == pytest.approx(0.6 * 10 / 40)
    assert at(100, 1) == pytest.approx(0.6)
    assert at(900, 7) == pytest.approx(0.6 * (1 - 0.7) / 0.75)  # three tenths are left of the three quarters in which it falls
    assert at(1000, 9.99) == pytest.approx(0.6 * 0.02)


def test_a_rate_stays_where_the_course_does_not_fall():
    course = Course(10, peak=0.6, falls=False)
    assert Progress(9, 1e5).rate(course) == pytest.approx(0.6 * 10 / 40)
    assert Progress(1000, 9.99e6).rate(course) == pytest.approx(0.6)
