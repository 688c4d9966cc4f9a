"""A measure of one's own: with a file and its line in the registry it can be rewarded and evaluated by, and is in the figures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import expertchat
from expertchat.config import conf_dir

MEASURE = '''
from expertchat.text.program import Program, share
from expertchat.text.sentences import sentences


def exclaims(text: str) -> float | None:
    said = sentences(text)
    return sum(sentence.endswith("!") for sentence in said) / len(said) if said else None


EXCLAIMS = Program(exclaims, share, "share of exclamations")
'''
USE = """
import json, sys
from pathlib import Path
from expertchat.config import ConfigError
from expertchat.preferences.score import measured
from expertchat.records import Score
from tests.scripted import Double
from tests.staged import Stage, config_of

config = config_of("reward=length", "reward.source=exclaims", "evaluation=reward", "evaluation.histories=2")
policy, base = Double(lambda request: "Bees! Wax!"), Double(lambda request: "Bees. Wax!")
stage = Stage(Path(sys.argv[1]), config, policy=policy, base=base)
assert stage.prepare()
score = measured(Score(id="k", transcript="c", turn=1, speaker="a", source=config.reward.source), "Bees! Wax. Honey! Queens!")
other = config_of("evaluation=reward", "evaluation.measure=exclaims")
try:
    config_of("reward=length", "reward.source=exclaim")
except ConfigError as error:
    refused = str(error)
print(json.dumps([stage.evaluate(2).figures, score.measured, score.reward, other.program, refused]))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The package in another place, links but for what is changed, with the new file and its line."""
    real, copy = Path(expertchat.__file__).parent, tmp_path / "lib" / "expertchat"
    copy.mkdir(parents=True)
    for entry in real.iterdir():
        if entry.name != "text":
            (copy / entry.name).symlink_to(entry)
    (copy.parent / "conf").symlink_to(conf_dir())  # which is looked for beside the package
    shutil.copytree(real / "text", copy / "text", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "text" / "exclaims.py").write_text(MEASURE)
    registry = copy / "text" / "measures.py"
    text = registry.read_text().replace("PROGRAMS = {\n", 'PROGRAMS = {\n    "exclaims": EXCLAIMS,\n')
    first = "from expertchat.text.likeness"
    registry.write_text(text.replace(first, f"from expertchat.text.exclaims import EXCLAIMS\n{first}"))
    return copy.parent


def test_a_file_and_a_line_make_a_measure(package: Path, tmp_path: Path) -> None:
    paths = os.pathsep.join([str(package), str(Path(__file__).parents[1])])
    command = [sys.executable, "-c", USE, str(tmp_path / "run")]
    # Not in this folder, where the package itself would be found first.
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    figures, measured, reward, program, refused = json.loads(done.stdout)
    # Both sentences of the policy's replies are exclamations, one of two of the base's.
    assert (figures["judge"], figures["measure_policy"], figures["measure_base"]) == ("program (more exclaims)", 1.0, 0.5)
    assert figures["win_rate"] == 1.0 and figures["measure_difference"] == 0.5
    assert (measured, reward, program) == (0.75, 0.5, "exclaims")  # 3 of 4; 2 * 0.75 - 1
    assert "reward.source" in refused and "exclaims" in refused
