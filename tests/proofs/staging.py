"""Seconds of staging a model of random bytes from a tar and from a zip, against reading it in place; and that a flipped byte is caught.

    python -m tests.proofs.staging [GIB [FOLDER [LOCAL]]]

FOLDER stands for the shared storage, LOCAL for the node's own disk (both: a temporary folder). Caches are dropped before every reading
where that is allowed. Exit code 0 if both staged models have every byte and both flips are caught.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = 1 << 24
SHARDS = 4  # files of the model


def cold() -> bool:
    """Drop the page cache; False where that is not allowed."""
    os.sync()
    with suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")
        return True
    return False


def timed(command: list[str], **environment: str) -> tuple[float, subprocess.CompletedProcess[str]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "EXPERTCHAT_"))}
    began = time.monotonic()
    done = subprocess.run(command, env={**kept, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return time.monotonic() - began, done


def reading(folder: Path) -> float:
    """Seconds to read every file, one after the other, from a cold cache."""
    cold()
    return timed(["bash", "-c", 'cat "$1"/* > /dev/null', "_", str(folder)])[0]


def stage(archives: Path, local: Path) -> tuple[float, subprocess.CompletedProcess[str]]:
    cold()
    where = {"EXPERTCHAT_ARCHIVES": str(archives), "EXPERTCHAT_STAGE": "model", "SLURM_TMPDIR": str(local)}
    return timed(["bash", "-c", f"source '{ROOT}/jobs/stage_models.sh'"], **where)


def flip(path: Path) -> None:
    """Flip one bit in the middle."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def one(kind: str, model: Path, shared: Path, local: Path) -> bool:
    """Pack, stage, read, flip, stage again; whether all was as it should be."""
    archives = shared / kind
    seconds, packed = timed([str(ROOT / "jobs" / "pack_models.sh"), *(["--zip"] if kind == "zip" else []), str(archives), str(model)])
    assert packed.returncode == 0, packed.stdout
    print(f"{kind}: packed once in {seconds:.1f} s", flush=True)
    seconds, staged = stage(archives, local)
    assert staged.returncode == 0, staged.stdout
    found = re.findall(r"staged model: .*", staged.stdout)
    print(f"{kind}: {found[0]} (from start to end {seconds:.1f} s)", flush=True)
    print(f"{kind}: the staged model read in {reading(local / 'models' / 'model'):.1f} s", flush=True)
    equal = timed(["diff", "-r", str(model), str(local / "models" / "model")])[1].returncode == 0
    shutil.rmtree(local / "models")
    flip(archives / f"model.{kind}")
    seconds, refused = stage(archives, local)
    caught = refused.returncode == 2 and "is damaged" in refused.stdout and not (local / "models" / "model").exists()
    bytes_are = "every byte equal" if equal else "DIFFERENT"
    print(f"{kind}: {bytes_are}; a flipped bit {'caught' if caught else 'NOT CAUGHT'} in {seconds:.1f} s", flush=True)
    shutil.rmtree(archives)
    return equal and caught


def main(gib: float, shared: str | None = None, local: str | None = None) -> int:
    with tempfile.TemporaryDirectory(dir=shared) as here, tempfile.TemporaryDirectory(dir=local) as disk:
        model = Path(here) / "model"
        model.mkdir()
        each = int(gib * (1 << 30) / SHARDS)
        for number in range(SHARDS):
            with (model / f"model-{number}.safetensors").open("wb") as file:
                for start in range(0, each, BLOCK):
                    file.write(os.urandom(min(BLOCK, each - start)))
        dropped = "yes" if cold() else "not allowed"
        print(f"a model of {SHARDS * each / (1 << 30):.2f} GiB in {SHARDS} files; caches dropped: {dropped}", flush=True)
        print(f"read in place in {reading(model):.1f} s", flush=True)
        results = [one(kind, model, Path(here), Path(disk)) for kind in ("tar", "zip")]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0, *sys.argv[2:4]))
