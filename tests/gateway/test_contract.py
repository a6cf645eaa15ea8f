"""Every documented operation, tried with what fits its description and with what does not."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from gateway.app import build_app
from tests.fakes import END, FakeGenerator, tokens_of
from tests.gateway.conftest import services_around

pytestmark = pytest.mark.contract

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]
app = build_app(services_around(FakeGenerator(tokens_of(f"hi{END}"))))
schema: Any = schemathesis.openapi.from_asgi("/openapi.json", app)


@schema.parametrize()
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_crashes_and_every_status_is_documented(case: Any):
    case.call_and_validate(checks=CHECKS)
