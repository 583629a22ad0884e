"""What to do about an error, by its reason; the wording is that of the command line."""

from caravan_client.errors import CaravanError

_HINTS = {
    "NO_CREDENTIAL": "give one with --api-key, or run in the directory where Caravan was started",
    "INVALID_CREDENTIAL": "check --api-key and CARAVAN_API_KEY; `caravan keys create` makes a key",
    "KEY_EXPIRED": "an administrator can make a new one with `caravan keys create`",
    "KEY_REVOKED": "an administrator can make a new one with `caravan keys create`",
    "PERMISSION_DENIED": "an administrator can make a key with another role",
    "MODEL_NOT_FOUND": "`caravan models list` shows what there is",
    "MODEL_NOT_LOADED": "`caravan models load NAME` loads it",
    "MODEL_LOAD_FAILED": "the engine's log says more; `make logs` shows it",
    "CONTEXT_LENGTH_EXCEEDED": "shorten the input; in a conversation /clear begins anew",
    "NO_CHAT_TEMPLATE": "`caravan generate` continues a text with any model",
    "DEADLINE_EXCEEDED": "--timeout gives it longer",
    "DEADLINE_UNREACHABLE": "--timeout gives it longer; less output takes less long",
    "DEPENDENCY_UNAVAILABLE": "`caravan status` shows what is down",
    "METHOD_NOT_SERVED": "gateway and command may be of different versions",
}


def hint_for(error: CaravanError) -> str | None:
    """What to do about `error`, if there is something to say."""
    if error.reason == "MODEL_NOT_LOADED" and "model" in error.metadata:
        return f"`caravan models load {error.metadata['model']}` loads it"
    return _HINTS.get(error.reason)
