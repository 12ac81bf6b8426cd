"""Fixtures of the tests of the page; what needs a browser is skipped where there is none."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.serve.browsing import Visit, chromium


@pytest.fixture(scope="session")
def chrome() -> Iterator[Any]:
    with chromium() as chrome:
        yield chrome


@pytest.fixture(scope="session")
def page_service(chrome, tmp_path_factory) -> Iterator[Any]:
    # It is skipped where what a service needs is absent.
    from tests.serve.test_serve import Service

    service = Service(tmp_path_factory.mktemp("empty"))
    yield service
    service.process.terminate()
    service.process.wait(30)


@pytest.fixture
def visit(chrome, page_service) -> Iterator[Any]:
    """Makes visits, and checks each of them at its end."""
    visits: list[Visit] = []

    def make(**kind: bool) -> Visit:
        visits.append(Visit(chrome, page_service.url, **kind))
        return visits[-1]

    yield make
    for one in visits:
        one.close()
