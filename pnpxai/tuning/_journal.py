"""A study in a file that several processes write to, and that survives any of them being killed."""

from __future__ import annotations

import os
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]  # asked for before it is used


class KernelLock(JournalFileOpenLock):
    """A lock that the operating system takes back from a process that ends, however it ends.

    Optuna's own is a file that a killed process leaves behind, which holds up all others for 30 seconds.

    Args:
        path: the journal, beside which a file to be locked is kept.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = f"{path}.kernel.lock"
        self._held = -1

    def acquire(self) -> bool:
        """Wait for the lock."""
        opened = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX)
        except BaseException:
            os.close(opened)
            raise
        self._held = opened
        return True

    def release(self) -> None:
        """Let others have it."""
        held, self._held = self._held, -1
        os.close(held)


def journal(path: str | Path) -> JournalStorage:
    """Optuna's storage on a journal file, mended where a process was killed while it wrote."""
    lock = KernelLock(str(path)) if fcntl is not None else None
    if lock is not None and Path(path).exists():
        lock.acquire()
        try:
            mend(Path(path))
        finally:
            lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock))


def mend(path: Path) -> None:
    """Cut off a last line that was not written to its end, which the next writer would go on with."""
    with path.open("rb+") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 4096)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            end = start + newline + 1
            if newline >= 0:
                break
        if end < size:
            file.truncate(end)
