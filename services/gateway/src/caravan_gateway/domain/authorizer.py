"""What a principal may do, remembered by policy version."""

from collections.abc import Callable, Sequence
from functools import partial

from caravan_gateway.domain.decision import Decision, Question
from caravan_gateway.domain.errors import PermissionDeniedError
from caravan_gateway.domain.policy_answers import PolicyAnswers
from caravan_gateway.domain.policy_view import PolicyView
from caravan_gateway.domain.ports import PermissionChecker
from caravan_gateway.domain.principal import Identity, Permission


class Authorizer:
    """Lets calls pass or refuses them. Owned by the event loop."""

    def __init__(
        self,
        checker: PermissionChecker,
        view: PolicyView,
        *,
        max_entries: int,
        ttl_s: float,
        clock: Callable[[], float],
        on_lookup: Callable[[bool], None] = lambda known: None,
    ) -> None:
        self._checker = checker
        self.answers: PolicyAnswers[Question, Decision] = PolicyAnswers(
            view, max_entries=max_entries, ttl_s=ttl_s, clock=clock, on_lookup=on_lookup
        )

    async def require(
        self, identity: Identity, any_of: Sequence[Permission], resource: str
    ) -> None:
        """Returns when at least one of the permissions is held on `resource`.

        Raises:
            PermissionDeniedError: none of them is.
            DependencyUnavailableError: not known here, and policy does not answer.
        """
        for permission in any_of:
            question = Question(identity.tenant, identity.principal, permission, resource)
            ask = partial(self._checker.check_permission, question)
            decision = await self.answers.get(question, ask)
            if decision.allowed:
                return
        raise PermissionDeniedError(any_of)

    def forget_all(self) -> None:
        """Forgets every decision."""
        self.answers.forget_all()
