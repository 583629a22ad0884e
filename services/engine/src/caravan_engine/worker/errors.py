"""The exceptions that only a worker's outer half has; the others are in `domain.errors`.

CaravanError
├── NoChatTemplateError       the model has no chat template that works
├── ChatTemplateFailedError   its template refused the chat or exceeded a limit
├── RenderQueueFullError      too many chats wait to be rendered
└── WrongModelError           the request names a model that this worker doesn't serve
"""

from typing import ClassVar

from caravan_rpckit.errors import CaravanError, Reason


class NoChatTemplateError(CaravanError):
    """A chat needs a template; `text` and `token_ids` don't."""

    reason: ClassVar[Reason] = Reason.NO_CHAT_TEMPLATE

    def __init__(self, model: str) -> None:
        super().__init__(
            f"model {model!r} has no usable chat template; send `text` instead of `chat`",
            metadata={"model": model},
        )


class ChatTemplateFailedError(CaravanError):
    """The model's template refused these messages, failed, or exceeded a limit."""

    reason: ClassVar[Reason] = Reason.CHAT_TEMPLATE_FAILED

    def __init__(self, what: str) -> None:
        super().__init__(f"the model's chat template {what}")


class RenderQueueFullError(CaravanError):
    """More chats wait for the template than allowed."""

    reason: ClassVar[Reason] = Reason.QUEUE_FULL

    def __init__(self, capacity: int) -> None:
        super().__init__(
            f"{capacity} chats wait to be rendered already",
            metadata={"queue_capacity": str(capacity)},
            retry_after_s=1.0,
        )


class WrongModelError(CaravanError):
    """The endpoint now serves another model than the caller believes."""

    reason: ClassVar[Reason] = Reason.MODEL_NOT_FOUND

    def __init__(self, model: str) -> None:
        super().__init__(f"this worker does not serve {model!r}", metadata={"model": model})
