"""The service keeps to its own OpenAPI document, whatever is made from that document and sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from small_service import Small, listening

BOUNDS = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def document() -> Iterator[Any]:
    """The document of a service that listens."""
    with listening(Small(max_images=4, max_body=100_000, timeout=5).app) as (address, _):
        yield schemathesis.openapi.from_url(f"{address}/openapi.json")


POSTS = {"POST /v1/predict", "POST /models/{name}", "POST /v2/models/{name}/infer"}
A_SCHEMA_KNOWS_NO_IMAGES = [positive_data_acceptance]


def check(operation: Any, mode: GenerationMode) -> None:
    """Send what is right, or wrong, by the document, and check the answers against it."""

    @BOUNDS
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        case.call_and_validate(timeout=20, excluded_checks=A_SCHEMA_KNOWS_NO_IMAGES)

    send()


def test_what_is_right_by_the_document(document: Any) -> None:
    operations = {found.ok().label: found.ok() for found in document.get_all_operations()}
    assert set(operations) > POSTS | {
        "GET /v1/models",
        "GET /v2/models/{name}",
        "GET /metrics",
        "GET /readyz",
    }
    for operation in operations.values():
        check(operation, GenerationMode.POSITIVE)


@pytest.mark.parametrize("name", sorted(POSTS))
def test_what_is_wrong_by_the_document(document: Any, name: str) -> None:
    operations = {found.ok().label: found.ok() for found in document.get_all_operations()}
    check(operations[name], GenerationMode.NEGATIVE)
