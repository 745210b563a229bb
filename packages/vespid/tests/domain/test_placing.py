"""In which order hosts are tried for a turn."""

import pytest

from vespid.domain.placing import GRACE_MS, SHUNNED_MS, Attempt, Wish, attempts
from vespid_protocol.ids import ExecutorId

OWN, MANAGED = ExecutorId("own"), ExecutorId("managed")


def test_an_organizations_own_hosts_come_first_and_managed_ones_behind_them() -> None:
    assert attempts(Wish()) == attempts(Wish(pool="byon")) == (Attempt("byon"), Attempt("managed"))


def test_a_session_that_asks_for_managed_hosts_gets_no_others() -> None:
    assert attempts(Wish(pool="managed")) == (Attempt("managed"),)


def test_a_pinned_session_goes_back_to_its_host_which_is_waited_for() -> None:
    back, *others = attempts(Wish(pinned=OWN, pinned_pool="byon"))
    assert back == Attempt("byon", OWN, is_held_for=True)
    assert others == [Attempt("byon"), Attempt("managed")]


def test_a_session_of_one_host_is_tried_nowhere_else() -> None:
    wish = Wish(only=OWN, pinned=MANAGED, pinned_pool="managed")
    assert attempts(wish) == (Attempt("byon", OWN, is_held_for=True), Attempt("managed", OWN, is_held_for=True))


def test_home_is_tried_before_the_managed_host_that_stood_in_for_it() -> None:
    wish = Wish(pinned=MANAGED, pinned_pool="managed", pin_policy="home")
    assert attempts(wish) == (Attempt("byon"), Attempt("managed", MANAGED, is_held_for=True), Attempt("managed"))


def test_home_means_nothing_to_a_session_that_is_there_or_may_not_be() -> None:
    at_home = Wish(pinned=OWN, pinned_pool="byon", pin_policy="home")
    assert attempts(at_home)[0] == Attempt("byon", OWN, is_held_for=True)
    managed_only = Wish(pool="managed", pinned=MANAGED, pinned_pool="managed", pin_policy="home")
    assert attempts(managed_only)[0] == Attempt("managed", MANAGED, is_held_for=True)


@pytest.mark.parametrize("reason", ["silent", "unopened", "declined"])
def test_a_host_that_stands_and_does_not_answer_is_passed_over_for_a_while(reason: str) -> None:
    wish = Wish(pinned=OWN, pinned_pool="byon", lost=OWN, lost_reason=reason, lost_ms=SHUNNED_MS - 1)
    assert wish.shunned == OWN
    assert attempts(wish) == (Attempt("byon"), Attempt("managed"))
    assert Wish(lost=OWN, lost_reason=reason, lost_ms=SHUNNED_MS).shunned is None


def test_only_a_host_whose_connection_went_is_given_a_moment_to_come_back() -> None:
    assert Wish(lost=OWN, lost_reason="closed", lost_ms=GRACE_MS - 1).may_come_back
    assert not Wish(lost=OWN, lost_reason="closed", lost_ms=GRACE_MS).may_come_back
    assert not Wish(lost=OWN, lost_reason="revoked").may_come_back
    assert not Wish(lost=OWN, lost_reason="journal").may_come_back
    assert not Wish().may_come_back
