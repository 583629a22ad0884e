import asyncio

import pytest

from caravan_gateway.domain.authenticator import AuthenticationLimits, Authenticator
from caravan_gateway.domain.errors import (
    DependencyUnavailableError,
    InvalidCredentialError,
    KeyExpiredError,
    KeyRevokedError,
)
from caravan_gateway.domain.policy_view import PolicyView
from caravan_gateway.domain.principal import Credential

GOOD = Credential.parse("Bearer cvn_good")
WRONG = Credential.parse("Bearer cvn_wrong")


class Checker:
    def __init__(self, identity):
        self.answer = identity
        self.asked = []
        self.before_answer = None

    async def check_credential(self, credential):
        self.asked.append(credential.text)
        answer = self.answer
        if self.before_answer is not None:
            self.before_answer()
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def view():
    view = PolicyView()
    view.resynchronize(1)
    return view


@pytest.fixture
def checker(make_identity):
    return Checker(make_identity())


@pytest.fixture
def lookups():
    return []


@pytest.fixture
def authenticator(checker, view, fake_clock, lookups):
    limits = AuthenticationLimits(max_entries=3, ttl_s=60, max_refusals=2, refusal_ttl_s=1)
    return Authenticator(
        checker,
        view,
        limits,
        clock=fake_clock,
        wall_clock=fake_clock,
        on_lookup=lookups.append,
    )


async def test_policy_is_asked_again_only_after_the_time_to_live(
    authenticator, checker, fake_clock, lookups
):
    for _ in range(3):
        assert (await authenticator.authenticate(GOOD)).principal == "alice"
    assert len(checker.asked) == 1
    assert lookups == [False, True, True]
    fake_clock.advance(60)
    await authenticator.authenticate(GOOD)
    assert len(checker.asked) == 2


async def test_a_key_expires_at_its_very_moment(authenticator, checker, make_identity, fake_clock):
    checker.answer = make_identity(expire_time_s=fake_clock() + 10)
    await authenticator.authenticate(GOOD)
    fake_clock.advance(9.999)
    await authenticator.authenticate(GOOD)
    fake_clock.advance(0.001)
    with pytest.raises(KeyExpiredError):
        await authenticator.authenticate(GOOD)
    assert len(authenticator.answers) == 0


async def test_a_refusal_is_remembered_briefly(authenticator, checker, make_identity, fake_clock):
    checker.answer = InvalidCredentialError()
    for _ in range(3):
        with pytest.raises(InvalidCredentialError):
            await authenticator.authenticate(WRONG)
    assert len(checker.asked) == 1
    fake_clock.advance(1)
    checker.answer = make_identity()
    await authenticator.authenticate(WRONG)


@pytest.mark.parametrize("error", [KeyRevokedError, KeyExpiredError, InvalidCredentialError])
async def test_each_refusal_keeps_its_reason_while_remembered(authenticator, checker, error):
    checker.answer = error()
    for _ in range(2):
        with pytest.raises(error):
            await authenticator.authenticate(GOOD)
    assert len(checker.asked) == 1


async def test_refusals_are_bounded(authenticator, checker):
    checker.answer = InvalidCredentialError()
    for number in range(20):
        with pytest.raises(InvalidCredentialError):
            await authenticator.authenticate(Credential.parse(f"Bearer cvn_{number}"))
    assert authenticator.num_refusals == 2


async def test_identities_are_bounded(authenticator):
    for number in range(20):
        await authenticator.authenticate(Credential.parse(f"Bearer cvn_{number}"))
    assert len(authenticator.answers) == 3


async def test_an_outage_is_not_remembered(authenticator, checker, make_identity):
    checker.answer = DependencyUnavailableError("policy")
    with pytest.raises(DependencyUnavailableError):
        await authenticator.authenticate(GOOD)
    checker.answer = make_identity()
    await authenticator.authenticate(GOOD)


async def test_known_callers_live_on_in_an_outage_until_their_time_is_over(
    authenticator, checker, view, fake_clock
):
    await authenticator.authenticate(GOOD)
    view.lose()
    checker.answer = DependencyUnavailableError("policy")
    fake_clock.advance(59)
    await authenticator.authenticate(GOOD)
    fake_clock.advance(1)
    with pytest.raises(DependencyUnavailableError):
        await authenticator.authenticate(GOOD)


async def test_a_new_version_asks_again(authenticator, checker, view, make_identity):
    await authenticator.authenticate(GOOD)
    view.advance(2)
    checker.answer = make_identity(policy_version=2, priority_cap=1)
    assert (await authenticator.authenticate(GOOD)).priority_cap == 1


async def test_a_gap_asks_again_even_without_a_new_version(authenticator, checker, view):
    await authenticator.authenticate(GOOD)
    view.resynchronize(1)
    await authenticator.authenticate(GOOD)
    assert len(checker.asked) == 2


async def test_dropped_keys_are_gone_from_memory(authenticator, make_identity, checker):
    await authenticator.authenticate(GOOD)
    checker.answer = make_identity(key_id="k2")
    await authenticator.authenticate(WRONG)
    authenticator.drop_keys({"k1"})
    assert len(authenticator.answers) == 1
    authenticator.forget_all()
    assert len(authenticator.answers) == 0


async def test_an_answer_that_policy_overtook_is_asked_for_again(
    authenticator, checker, view, make_identity
):
    def revoke():
        view.advance(2)
        checker.answer, checker.before_answer = KeyRevokedError(), None

    checker.before_answer = revoke
    with pytest.raises(KeyRevokedError):
        await authenticator.authenticate(GOOD)
    assert len(checker.asked) == 2


async def test_an_answer_from_before_a_gap_is_asked_for_again(authenticator, checker, view):
    def gap():
        checker.before_answer = None
        view.resynchronize(1)

    checker.before_answer = gap
    await authenticator.authenticate(GOOD)
    assert len(checker.asked) == 2


async def test_a_policy_that_never_catches_up_is_unavailable(authenticator, view):
    view.advance(9)
    with pytest.raises(DependencyUnavailableError):
        await authenticator.authenticate(GOOD)


async def test_an_answer_newer_than_the_news_is_believed(
    authenticator, checker, view, make_identity
):
    checker.answer = make_identity(policy_version=5)
    await authenticator.authenticate(GOOD)
    view.advance(5)
    await authenticator.authenticate(GOOD)
    assert len(checker.asked) == 1


async def test_callers_who_share_a_question_each_check_the_answer(authenticator, checker, view):
    """A revocation between the answer and a waiter's turn is not missed."""
    release = asyncio.Event()
    first = checker.check_credential

    async def slow(credential):
        answer = await first(credential)
        await release.wait()
        return answer

    checker.check_credential = slow
    waiting = [asyncio.create_task(authenticator.authenticate(GOOD)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    release.set()
    view.advance(2)
    checker.answer = KeyRevokedError()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [KeyRevokedError] * 3
