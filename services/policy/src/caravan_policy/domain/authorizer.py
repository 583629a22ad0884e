"""The read path of decisions: always one complete policy, swapped as a whole."""

from collections.abc import Callable

from caravan_policy.domain.decision import Decision, Question
from caravan_policy.domain.field_rules import FieldRules
from caravan_policy.domain.ports import DecisionRules


class Authorizer:
    """Answers questions from memory. Owned by the event loop; never blocks."""

    def __init__(self, rules: DecisionRules, record: Callable[[bool], None]) -> None:
        self._rules = rules
        self._record = record

    @property
    def policy_version(self) -> int:
        """The version that decides now."""
        return self._rules.version

    @property
    def num_rules(self) -> int:
        """How many rules are held in memory."""
        return self._rules.num_rules

    def install(self, rules: DecisionRules) -> None:
        """Decides by `rules` from now on; an older version than the present one changes nothing."""
        if rules.version > self._rules.version:
            self._rules = rules

    def decide(self, question: Question) -> Decision:
        """Decides one question. Who is unknown is denied.

        Raises:
            InvalidFieldsError: the question is incomplete, or asks for an unknown permission.
        """
        check = FieldRules()
        check.name("tenant", question.principal.tenant)
        check.name("principal", question.principal.name)
        check.permission("permission", question.permission)
        check.resource("resource", question.resource)
        check.done()
        rules = self._rules
        allowed = rules.allows(question)
        self._record(allowed)
        return Decision(allowed, rules.version)
