"""Models packed once and staged to a node's disk: whole, checked, and every problem said at once."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_jobs import JOBS, bash


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder with a blank in its name: three models, two packed as tar and one as zip, and room to stage them to."""
    if not shutil.which("zip") or not shutil.which("unzip"):
        pytest.skip("zip and unzip are not installed")
    here = tmp_path / "on shelf"
    for i, name in enumerate(("Llama", "Mixtral", "mpnet")):
        folder = here / "models" / name
        folder.mkdir(parents=True)
        (folder / "weights.bin").write_bytes(os.urandom(300_000 + i))
        (folder / "a file.json").write_text(name)
        (folder / ".cache").mkdir()
        (folder / ".cache" / "left by a download").write_text("x")
    (here / "blob").write_text("linked")
    (here / "models" / "Llama" / "link").symlink_to(here / "blob")  # as in a hub's cache
    (here / "tmp").mkdir()
    made = bash(f"'{JOBS}/pack_models.sh' archives models/Llama models/Mixtral/; '{JOBS}/pack_models.sh' --zip archives models/mpnet", here)
    assert made.returncode == 0, made.stdout
    return here


def stage(shelf: Path, names: str, **environment: str) -> subprocess.CompletedProcess[str]:
    where = {"EXPERTCHAT_ARCHIVES": str(shelf / "archives"), "SLURM_TMPDIR": str(shelf / "tmp"), "EXPERTCHAT_STAGE": names, **environment}
    return bash(f"source '{JOBS}/stage_models.sh'; echo \"options $- models ${{EXPERTCHAT_MODELS:-}}\"", shelf, **where)


def same(shelf: Path, name: str) -> bool:
    """Whether the staged model has the files of the packed one, without what a download left."""
    staged = {p.name: p.read_bytes() for p in (shelf / "tmp/models" / name).iterdir()}
    return staged == {p.name: p.read_bytes() for p in (shelf / "models" / name).iterdir() if p.is_file()}


def test_models_are_packed_once_and_whole(shelf: Path) -> None:
    archives = shelf / "archives"
    assert sorted(p.name for p in archives.iterdir()) == [
        "Llama.tar", "Llama.tar.sha256", "Mixtral.tar", "Mixtral.tar.sha256", "mpnet.zip", "mpnet.zip.sha256"
    ]  # fmt: skip
    for name in ("Llama.tar", "mpnet.zip"):
        assert (archives / f"{name}.sha256").read_text().split() == [hashlib.sha256((archives / name).read_bytes()).hexdigest(), name]
    again = bash(f"'{JOBS}/pack_models.sh' archives models/Llama", shelf)
    assert again.returncode == 0 and "there already, and whole" in again.stdout
    (archives / "Llama.tar.sha256").unlink()  # as after a kill
    refused = bash(f"'{JOBS}/pack_models.sh' archives models/Llama models/none other/Llama", shelf)
    assert refused.returncode == 2
    assert "Llama.tar is there, but does not have the checksum" in refused.stdout and "models/none: no such folder" in refused.stdout


def test_models_are_staged_in_parallel_once_and_the_others_stay_findable(shelf: Path) -> None:
    done = stage(shelf, "meta-llama/Llama mpnet Llama", EXPERTCHAT_MODELS="models")
    assert done.returncode == 0, done.stdout
    assert same(shelf, "Llama") and same(shelf, "mpnet")
    assert (shelf / "tmp/models/Llama/link").read_text() == "linked"
    other = shelf / "tmp/models/Mixtral"
    assert other.is_symlink() and other.resolve() == shelf / "models" / "Mixtral"
    assert f"options ehuBc models {shelf}/tmp/models" in done.stdout  # set -eu as before
    assert len(re.findall(r"staged \w+: 0\.0 GiB in \d+\.\d s, \d+ MiB/s, checksum right", done.stdout)) == 2
    again = stage(shelf, "Llama mpnet")
    assert again.stdout.count("staged already") == 2 and "checksum right" not in again.stdout
    assert sorted(p.name for p in (shelf / "tmp/models").iterdir()) == [".Llama.whole", ".mpnet.whole", "Llama", "Mixtral", "mpnet"]
    shutil.rmtree(shelf / "tmp/models")  # a requeued job finds its disk empty
    assert stage(shelf, "Llama").returncode == 0 and same(shelf, "Llama")


def test_a_half_unpacked_model_is_unpacked_anew(shelf: Path) -> None:
    half = shelf / "tmp/models/Llama"
    half.mkdir(parents=True)
    (half / "weights.bin").write_bytes(b"half")
    assert stage(shelf, "Llama").returncode == 0 and same(shelf, "Llama")


@pytest.mark.parametrize(("name", "kind"), [("Llama", "tar"), ("mpnet", "zip")])
def test_a_flipped_byte_is_caught(name: str, kind: str, shelf: Path) -> None:
    archive = shelf / "archives" / f"{name}.{kind}"
    content = bytearray(archive.read_bytes())
    expected = hashlib.sha256(content).hexdigest()
    content[200_000] ^= 1
    archive.write_bytes(content)
    done = stage(shelf, f"{name} Mixtral")
    assert done.returncode == 2
    found = hashlib.sha256(content).hexdigest()
    assert f"{name}: {archive} is damaged: its checksum should be {expected} and is {found}" in done.stdout
    assert "staged Mixtral" in done.stdout and not (shelf / "tmp/models" / name).exists()
    assert "options" not in done.stdout  # the job has ended


def test_a_cut_archive_is_caught_to_its_last_byte(shelf: Path) -> None:
    archive = shelf / "archives" / "Llama.tar"
    cut = archive.read_bytes()[:-1]  # tar itself would not notice
    archive.write_bytes(cut)
    done = stage(shelf, "Llama")
    assert done.returncode == 2 and f"is {hashlib.sha256(cut).hexdigest()}" in done.stdout


def test_what_cannot_be_staged_is_named_at_once(shelf: Path) -> None:
    archives = shelf / "archives"
    (archives / "mpnet.zip.sha256").unlink()
    with (archives / "huge.tar").open("wb") as file:
        file.truncate(10 << 40)  # 10 TiB of nothing
    (archives / "huge.tar.sha256").write_text("0 huge.tar\n")
    done = stage(shelf, "Llama qwen mpnet huge")
    assert done.returncode == 2
    assert "qwen: no qwen.tar and no qwen.zip" in done.stdout and "there: Llama.tar, Mixtral.tar, huge.tar, mpnet.zip" in done.stdout
    assert f"mpnet: no checksum {archives}/mpnet.zip.sha256" in done.stdout
    assert re.search(r"needs 10240\.0 GiB for Llama huge, [0-9.]+ GiB are free", done.stdout)
    assert not (shelf / "tmp/models/Llama").exists()  # nothing was begun
    assert "no such folder" in stage(shelf, "Llama", EXPERTCHAT_ARCHIVES="").stdout


def test_without_a_local_disk_models_are_read_in_place(shelf: Path) -> None:
    in_place = stage(shelf, "Llama", SLURM_TMPDIR="", EXPERTCHAT_MODELS="models")
    assert in_place.returncode == 0 and "read in place" in in_place.stdout and "models models" in in_place.stdout
    packed = stage(shelf, "Llama", SLURM_TMPDIR="")
    assert packed.returncode == 2 and "Llama: there is no SLURM_TMPDIR to unpack it to" in packed.stdout
    nothing = stage(shelf, "", SLURM_TMPDIR="")
    assert nothing.returncode == 0 and nothing.stdout.strip() == "options ehuBc models"
