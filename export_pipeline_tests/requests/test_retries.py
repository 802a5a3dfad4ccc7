"""What becomes of a failed request, as a pure decision."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from export_pipeline.requests.retries import (
    FIRST_DELAY,
    LONGEST_DELAY,
    MOST_RETRIES,
    PASSING,
    Standing,
    after_failure,
    delay_before,
)


def failed(
    code: str, *, retries: int = 0, company: int | None = None, size: int = 1, by_itself: bool = True
) -> Standing:
    return after_failure(code, retries=retries, company=company, size=size, by_itself=by_itself, jitter=1.0)


def test_a_lasting_fault_fails_at_once_and_sends_a_later_retry_alone() -> None:
    assert failed("incomplete", size=500) == Standing("failed", 0, 1, timedelta(0))


def test_a_server_that_is_away_lets_the_whole_batch_travel_together_again() -> None:
    assert failed("mongo_unreachable", size=500) == Standing("pending", 1, None, FIRST_DELAY)


def test_a_missing_right_fails_all_at_once_and_a_retry_by_hand_takes_them_together() -> None:
    assert failed("not_authorized", size=500) == Standing("failed", 0, None, timedelta(0))


def test_a_request_that_could_not_be_read_travels_alone() -> None:
    assert failed("read_failed", size=500).company == 1


def test_retries_end() -> None:
    assert failed("mongo_unreachable", retries=MOST_RETRIES - 1).status == "pending"
    assert failed("mongo_unreachable", retries=MOST_RETRIES).status == "failed"


def test_nobody_tries_again_what_a_command_line_does_itself() -> None:
    assert all(failed(code, by_itself=False).status == "failed" for code in PASSING)


@given(st.integers(1, 10_000))
def test_one_poisoned_request_is_found_in_a_few_rounds_and_fails_none_of_its_neighbours(size: int) -> None:
    standing, rounds = failed("run_lost", size=size), 1
    while size > 1:
        assert (standing.status, standing.retries) == ("pending", 0), "a neighbour has lost nothing but time"
        assert standing.company is not None
        assert standing.company < size
        size = standing.company
        standing = failed("run_lost", retries=standing.retries, company=standing.company, size=size)
        rounds += 1
    assert rounds <= 6
    while standing.status == "pending":
        standing = failed("run_lost", retries=standing.retries, company=1)
        rounds += 1
    assert rounds <= 6 + MOST_RETRIES


@given(st.integers(0, 50), st.floats(0, 1))
def test_waits_grow_and_are_bounded(retries: int, jitter: float) -> None:
    assert 0.75 * FIRST_DELAY <= delay_before(retries, jitter) <= LONGEST_DELAY
    assert delay_before(retries, jitter) <= delay_before(retries + 1, jitter)
