"""Fixtures of the tests of the service and its page; without a browser its tests are skipped."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.serve.browsing import Visit, chromium
from tests.serve.service import Service


@pytest.fixture(scope="session")
def chrome() -> Iterator[Any]:
    with chromium() as chrome:
        yield chrome


@pytest.fixture(scope="session")
def service(tmp_path_factory) -> Iterator[Service]:
    """The service as it comes. Tests that kill or crowd it have their own."""
    for name in ("httpx", "uvicorn"):
        pytest.importorskip(name, reason="pip install 'frozenseg[serve]'")
    folder = tmp_path_factory.mktemp("empty")
    service = Service(folder)
    yield service
    service.stop()
    assert list(folder.iterdir()) == []


@pytest.fixture
def visit(chrome, service) -> Iterator[Any]:
    """Makes visits, and checks each of them at its end."""
    visits: list[Visit] = []

    def make(**kind: bool) -> Visit:
        visits.append(Visit(chrome, service.url, **kind))
        return visits[-1]

    yield make
    for one in visits:
        one.close()
