"""Calls in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


def in_a_process(module: str, call: str, environment: Mapping[str, str] | None = None) -> Any:
    """What a call of a function of a module returns in a fresh process, by way of JSON.

    Args:
        module: its name.
        call: as it is written in Python.
        environment: the process's variables; None for those of this one.
    """
    code = f"import json; from {module} import *; print(json.dumps({call}))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=os.environ if environment is None else environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
