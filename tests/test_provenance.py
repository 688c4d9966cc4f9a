"""What is noted of the code's origin, without touching it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from expertchat.folder.provenance import _git


def test_looking_at_a_checkout_writes_nothing_into_it(tmp_path: Path) -> None:
    """`git status` writes the index anew where times have changed; cut off while it does, it leaves the repository locked."""

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x", *words], check=True, capture_output=True)

    file = tmp_path / "code.py"
    file.write_text("1\n")
    git("init", "-q")
    git("add", "code.py")
    git("commit", "-qm", "first")
    os.utime(file, (1e9, 1e9))  # the same content at another time
    before = (tmp_path / ".git" / "index").read_bytes()
    assert _git(tmp_path, "status", "--porcelain", "--untracked-files=no") == ""
    assert (tmp_path / ".git" / "index").read_bytes() == before
