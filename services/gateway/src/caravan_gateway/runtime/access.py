"""Authenticates and authorizes the calls that are no inference: those that are passed on."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from caravan_gateway.domain.admission import require_access
from caravan_gateway.domain.authenticator import Authenticator
from caravan_gateway.domain.authorizer import Authorizer
from caravan_gateway.domain.decision import DEPLOYMENT, model_resource
from caravan_gateway.domain.models import ModelCatalog
from caravan_gateway.domain.principal import Credential, Identity
from caravan_gateway.runtime.live_calls import EndCall, LiveCall, LiveCalls


class AccessGate:
    """Lets a call pass by the same rules as the inference stages do."""

    def __init__(
        self,
        live_calls: LiveCalls,
        authenticator: Authenticator,
        authorizer: Authorizer,
        catalog: ModelCatalog,
    ) -> None:
        self._live_calls = live_calls
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._catalog = catalog

    @asynccontextmanager
    async def passed(
        self,
        method: str,
        authorization: str | None,
        end_call: EndCall,
        model: str | None = None,
    ) -> AsyncGenerator[tuple[LiveCall, Identity], None]:
        """The body runs for a caller that may, and is told who that is.

        Args:
            method: full name of the method.
            authorization: the metadata of that name.
            end_call: ends the call from outside.
            model: the name in the request, if it has one.

        Raises:
            GatewayError: who calls is not known, or may not.
        """
        with self._live_calls.track(end_call) as live:
            credential = Credential.parse(authorization)
            identity = await self._authenticator.authenticate(credential)
            live.bind(credential, identity)
            resource = DEPLOYMENT
            if model is not None:
                resource = model_resource(self._catalog.resolve(model) or model)
            await require_access(self._authorizer, identity, method, resource)
            yield live, identity
