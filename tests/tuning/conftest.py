from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import postgres


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The address of a PostgreSQL server."""
    reason = postgres.why_not()
    if reason:
        pytest.skip(reason)
    with postgres.server() as address:
        yield address
