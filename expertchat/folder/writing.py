"""Writing into a run folder: whole files by rename, files of other libraries made to last, and what a failed write is told as."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from expertchat.config import ConfigError
from expertchat.text.sentences import first_line, writable

NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # to open a file of a run: a link in its place would lead out of the folder


class WriteError(Exception):
    """The run folder cannot be written any more; what was written stays readable."""


def cannot_write(path: Path | str, error: BaseException) -> WriteError:
    """What a failed write is told as: which file, and why."""
    place = getattr(error, "filename2", None) or getattr(error, "filename", None) or path
    return WriteError(f"cannot write {place}: {reason(error)}; what was written before stays readable")


def reason(error: BaseException) -> str:
    """Why something could not be written, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if error.args and isinstance(error.args[0], list) and error.args[0]:  # of shutil.copytree: (source, target, why) of each file
        return str(error.args[0][0][-1])
    return first_line(error)


@contextlib.contextmanager
def saving(path: Path | str) -> Iterator[None]:
    """Whatever a disk does to a write in here becomes WriteError, also what safetensors and torch make of it."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from None
    except Exception as error:
        if type(error).__name__ == "SafetensorError" or (isinstance(error, RuntimeError) and _OF_TORCH.search(str(error))):
            raise cannot_write(path, error) from None
        raise


# What torch.save says of a disk.
_OF_TORCH = re.compile("inline_container|PytorchStreamWriter|iostream|cannot be opened|Parent directory", re.IGNORECASE)


def sync_file(path: Path) -> None:
    """Make a file that another library wrote survive a power cut. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | NO_LINK)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(path: Path, text: str, sync: bool = False, mode: int | None = None) -> None:
    """Write a whole file so that readers see either the old or the new one. With `sync` it also survives a power cut.

    `mode`: its permissions, from before its first byte on and whatever the umask is (0o600: nobody else reads it).
    """
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with open(new, "w", encoding="utf-8", opener=_no_link if mode is None else private) as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(text)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(new, path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    if sync:
        _sync_folder(path.parent)


def write_out(said: str, path: Path | str, text: str) -> None:
    """Write a file that the user has asked for, whole. `said`: how, "out=FILE". Raises ConfigError.

    A link stays one, and what is no file (a pipe, /dev/stdout) is written to, not replaced.
    """
    place = Path(path).expanduser()
    try:
        if place.exists() and not place.is_file():
            with open(place, "w", encoding="utf-8") as file:
                file.write(writable(text))
        else:
            replace(Path(os.path.realpath(place)), writable(text))
    except OSError as error:
        raise ConfigError(f"{said}: cannot be written ({error.strerror or error}); name another file") from None


def _sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut, where the file system knows how."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def private(path: str, flags: int) -> int:
    """An opener for `open`: what is made is its owner's alone, whatever the umask is."""
    return os.open(path, flags | NO_LINK, 0o600)


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | NO_LINK, 0o666)
