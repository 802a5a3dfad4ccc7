"""A bounded share of what ``fuzz`` tries; FUZZ_EXAMPLES says how much of it."""

import os

from export_pipeline_tests.gateway.conftest import House
from export_pipeline_tests.gateway.fuzz import fuzz

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "2"))


def test_every_answer_is_as_documented_and_none_is_a_5xx(house: House) -> None:
    tally = fuzz(house, EXAMPLES)
    described = house.client().get("/v1/openapi.json").json()["paths"]
    assert set(tally.operations) == {f"{method.upper()} {path}" for path in described for method in described[path]}
    assert {200, 401, 404, 422} <= set(tally.statuses)
