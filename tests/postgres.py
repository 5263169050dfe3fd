"""A PostgreSQL server of the tests' own, from the distribution's package."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

USER = "postgres"


def binaries() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl``, of the newest version there is."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda each: float(each.parts[-3]))
    return found[-1].parent if found else None


def why_not() -> str:
    """Why no server can be started here; empty if one can."""
    if binaries() is None:
        return "needs PostgreSQL: apt-get install postgresql"
    if os.geteuid() == 0 and not _known(USER):
        return f"needs the user {USER}: PostgreSQL does not run as root"
    return ""


def _known(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@contextlib.contextmanager
def server() -> Iterator[str]:
    """An empty server on a socket in a scratch folder; its address for tune()."""
    folder, place = Path(tempfile.mkdtemp(prefix="pg")), binaries()
    assert place is not None
    as_user: list[str] = []
    if os.geteuid() == 0:  # the server refuses root
        shutil.chown(folder, USER)
        as_user = ["runuser", "-u", USER, "--"]

    def run(program: str, *arguments: str) -> None:
        command = [*as_user, str(place / program), *arguments]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=60)

    data, settings = str(folder / "data"), f"-F -c listen_addresses= -c unix_socket_directories={folder}"
    folder.chmod(0o755)
    try:
        run("initdb", "--no-sync", "--auth=trust", f"--username={USER}", data)
        run("pg_ctl", "start", "--wait", "-D", data, "-l", str(folder / "log"), "-o", settings)
        try:
            yield f"postgresql://{USER}@/{USER}?host={folder}"
        finally:
            run("pg_ctl", "stop", "--wait", "-D", data, "--mode=immediate")
    finally:
        shutil.rmtree(folder)
