"""The table of commands: what each line names is there, nothing else lists commands, and a new one is a line and a file."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from expertchat import cli, doors
from expertchat.command.compose import config_class
from expertchat.command.table import COMMANDS, Command, find
from expertchat.command.work import Work
from expertchat.config import Group, conf_dir

ROOT = Path(__file__).parents[1]
Captured = pytest.CaptureFixture[str]


# -- the lines that there are ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_what_a_line_names_is_there(command: Command) -> None:
    assert callable(find(command.door))
    assert (command.root is None) == (command.config is None)
    if command.root is not None:
        assert (conf_dir() / f"{command.root}.yaml").is_file()
        assert issubclass(config_class(command.name), Group)
    for place in (command.check, command.models):
        assert place is None or callable(find(place))
    assert command.work is None or isinstance(find(command.work), Work)
    if command.resumes:
        assert "run" in config_class(command.name).model_fields
    if command.jobs:
        fields = config_class(command.name).model_fields.keys()
        assert command.resumes and {"models_dir", "view"} <= fields
        assert {"experts", "embedder"} <= fields or "model" in fields
    assert all((conf_dir() / group.partition("@")[0]).is_dir() for group in command.added)


def test_every_command_is_told_of() -> None:
    told = "\n".join(path.read_text("utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))))
    assert [name for name in COMMANDS if f"expertchat {name}" not in told] == []


def test_no_door_and_no_root_file_is_left_over() -> None:
    there = {path.stem for path in Path(doors.__file__ or "").parent.glob("*.py")}
    assert {f"doors.{name}:run" for name in there - {"__init__", "entry", "guard"}} == {command.door for command in COMMANDS.values()}
    assert {path.stem for path in conf_dir().glob("*.yaml")} == {command.root for command in COMMANDS.values()} - {None}


def test_nothing_beside_the_table_lists_commands() -> None:
    """The name of a command stands in its line and in its own file: whoever knew it elsewhere would have to learn of the next one."""
    names = {command.name for command in COMMANDS.values() if command.resumes or command.models}  # the others are words of everyday
    package = Path(cli.__file__).parent
    files = [package / "cli.py", *(package / "command").glob("*.py"), *(package / "slurm").glob("*.py"), *(package / "doors").glob("*.py")]
    found = []
    for path in files:
        texts = {node.value for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant)}
        found += [(path.name, name) for name in sorted(texts & (names - {path.stem}))] if path.name != "table.py" else []
    assert found == []


# -- a new one ------------------------------------------------------------------------------------------------------------

DOOR = '''
"""`expertchat toy`: greets."""

from expertchat.config import Group
from expertchat.doors.entry import composed


class ToyConfig(Group):
    whom: str
    times: int = 1


def run(arguments):
    return composed("toy", arguments, greet)


def greet(job):
    print("hello " * job.config.times + job.config.whom)
    return 0


def check(config, here):
    if config.whom == "nobody":
        yield "whom=nobody: is nobody to greet; name somebody"
'''
LINE = Command("toy", "greets somebody", "doors.toy:run", root="toy", config="doors.toy:ToyConfig", check="doors.toy:check")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new command as it is made: a file of doors/, a root file, a line."""
    (tmp_path / "doors").mkdir()
    (tmp_path / "doors" / "toy.py").write_text(DOOR)
    monkeypatch.setattr(doors, "__path__", [*doors.__path__, str(tmp_path / "doors")])
    conf = tmp_path / "conf"
    conf.mkdir()
    for place in conf_dir().iterdir():
        (conf / place.name).symlink_to(place)
    (conf / "toy.yaml").write_text("# The config of `expertchat toy`.\n\nwhom: world  # who is greeted\ntimes: 1\n")
    for module in ("config", "command.compose", "command.launch"):
        monkeypatch.setattr(f"expertchat.{module}.conf_dir", lambda: conf)
    monkeypatch.setitem(COMMANDS, "toy", LINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def said(toy: Path, capsys: Captured) -> Callable[..., tuple[int, str]]:
    def call(*words: str) -> tuple[int, str]:
        code, heard = cli.main(list(words)), capsys.readouterr()
        return code, heard.out + heard.err

    return call


def test_a_new_command_is_a_file_and_a_line(said: Callable[..., tuple[int, str]]) -> None:
    assert said("toy", "whom=Ann") == (0, "hello Ann\n")
    assert said("toy", "-m", "whom=Ann,Bob", "times=2") == (0, "hello hello Ann\nhello hello Bob\n")
    code, text = said("--help")
    assert code == 0 and "\n  toy         greets somebody\n" in text
    code, text = said("toy", "--help")
    assert code == 0 and text.startswith("greets somebody\n\nusage: expertchat toy [KEY=VALUE ...] [flags]\n")
    assert "  whom: world  # who is greeted\n" in text and "--multirun" in text and "sweeps on Slurm" not in text
    assert said("toy", "--cfg", "job") == (0, "whom: world\ntimes: 1\n")


def test_its_wrong_words_are_told_as_those_of_any_command(said: Callable[..., tuple[int, str]]) -> None:
    assert said("toy", "whom=nobody") == (2, "expertchat: whom=nobody: is nobody to greet; name somebody\n")
    code, text = said("toy", "wom=Ann", "times=often")
    assert code == 2 and "2 problems" in text and "wom: unknown key; did you mean whom?" in text
    code, text = said("tox")
    assert code == 2 and "did you mean toy?" in text
    code, text = said("toy", "-m", "hydra/launcher=submitit_slurm", "times=1,2")
    assert code == 2 and "a sweep of toy runs here" in text


def test_its_config_can_be_frozen(said: Callable[..., tuple[int, str]], toy: Path) -> None:
    (toy / "c.yaml").write_text("whom: Ann\ntimes: 2\n")
    assert said("toy", "--config", "c.yaml", "times=3") == (0, "hello hello hello Ann\n")


def test_submit_refuses_what_may_not_be_submitted(said: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    may = [name for name, command in COMMANDS.items() if command.jobs]
    assert said("submit", "toy") == (2, f"expertchat: submit toy: cannot be submitted; there are {', '.join(may)}\n")
    monkeypatch.setitem(COMMANDS, "toy", LINE._replace(jobs=True))
    code, text = said("submit", "bench")
    assert code == 2 and text.endswith(f"there are {', '.join(may)}, toy\n")
    told = " ".join(said("submit", "--help")[1].split())
    assert f"COMMAND: {' or '.join(may)} or toy, with any of its keys" in told
    assert "sweeps on Slurm" in said("toy", "--help")[1]


def test_a_command_may_read_its_arguments_itself(said: Callable[..., tuple[int, str]], toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy / "doors" / "echo.py").write_text("def run(arguments):\n    print(*arguments)\n    return 3\n")
    monkeypatch.setitem(COMMANDS, "echo", Command("echo", "says it again", "doors.echo:run"))
    assert said("echo", "--loud", "a") == (3, "--loud a\n")
