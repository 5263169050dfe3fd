"""The other libraries, in a folder of their own that the project's environment does not know."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path("build") / "peers"
REQUIREMENTS = (
    "captum==0.9.0",
    "captum-rise==1.0",
    "loguru==0.7.3",
    "muppet-xai==1.0.0",
    "quantus==0.6.0",
    "relax-xai==0.0.5",
)
"""Without their dependencies: what else they need the project's environment has."""


def install(folder: Path = FOLDER) -> Path:
    """The folder with the libraries; installed unless it holds just them."""
    stamp = folder / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS) + "\n"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "--no-deps", "--upgrade", "--target", str(folder), *REQUIREMENTS], check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return folder


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The variables of a process that finds the folder before everything installed, and runs on one thread."""
    paths = [str(folder.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **more}
