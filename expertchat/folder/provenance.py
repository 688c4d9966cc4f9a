"""Where a run comes from: package versions, commit, machine and command line."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from expertchat.folder.here import place
from expertchat.folder.jsonl import read_json
from expertchat.text.redaction import hide, hide_words

# Files that are there to hold secrets; a change of them is no change of the code.
OF_SECRETS = (
    ".env*", "*.env", ".netrc", "_netrc", ".pypirc", ".npmrc", ".git-credentials", ".pgpass", ".htpasswd", "*.pem", "*.key", "*.p12",
    "*.pfx", "*.keystore", "*.kdbx", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*credentials*", "secret.*", "secrets.*", "*.secret",
    "*.secrets", "token", "*.token", "tokens.*",
)  # fmt: skip
PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "safetensors", "accelerate", "numpy", "pydantic", "hydra-core")


def versions() -> dict[str, str | None]:
    """Installed versions; None where a package is not installed. Reads metadata only, imports nothing."""
    from expertchat import __version__

    found: dict[str, str | None] = {"expertchat": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def commit() -> dict[str, Any] | None:
    """The git commit of the checkout that this package runs from, or None where it is installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        changed = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": head, "changed": changed}


def provenance(command_line: list[str]) -> dict[str, Any]:
    """What provenance.json holds. Keys and tokens of the command line are hidden."""
    job = place()
    return {
        "schema": 1,
        "command_line": hide_words(command_line),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "slurm": job and {"job": job.job, "restarts": job.restarts},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "executable": sys.executable,
        "git": commit(),
        "packages": versions(),
    }


def moved_on(path: Path, since: str) -> list[str]:
    """A warning where the code or its packages are others than those of an earlier provenance.json; nothing where there is none."""
    before = read_json(path) or {}
    packages, git, now = before.get("packages"), before.get("git"), versions()
    if not isinstance(packages, dict):
        return []
    changed = [f"{name} {packages[name]} -> {now.get(name)}" for name in packages if packages[name] != now.get(name)]
    here = commit()
    if isinstance(git, dict) and here is not None and git.get("commit") != here["commit"]:
        changed.append(f"commit {str(git.get('commit'))[:10]} -> {here['commit'][:10]}")
    return [f"since {since}, this has changed: {', '.join(changed)}; texts may differ"] if changed else []


def _git(root: Path, *arguments: str) -> str:
    line = ["git", "--no-optional-locks", "-C", str(root), *arguments]  # else one that is cut off leaves the user's repository locked
    done = subprocess.run(line, capture_output=True, text=True, timeout=5, check=True)
    return done.stdout.strip()


def changes() -> str | None:
    """What the checkout's files have that its commit has not, as `git diff` writes it; None where there is nothing, or no checkout.

    Keys and tokens in it are hidden, files that are there to hold some are left out, which its first lines say.
    """
    root = Path(__file__).resolve().parents[2]
    found = commit()
    if found is None or not found["changed"]:
        return None
    diff = ("diff", "--no-ext-diff", "--no-textconv", "--no-color")
    hidden = [f":(icase,glob)**/{name}" for name in OF_SECRETS]
    try:
        left_out = _git(root, *diff, "--name-only", "HEAD", "--", *hidden).splitlines()
        text = _git(root, *diff, "HEAD", "--", ".", *(f":(exclude,icase,glob)**/{name}" for name in OF_SECRETS)) + "\n"
    except (OSError, subprocess.SubprocessError):
        return None
    said = f"# {len(left_out)} changed files that may hold secrets are left out\n" if left_out else ""
    return said + hide(text)
