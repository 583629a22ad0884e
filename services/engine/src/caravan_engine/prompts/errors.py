"""What can go wrong between a chat and its prompt; the rest is in `domain.errors`.

CaravanError
├── NoChatTemplateError       the model has no chat template that works
├── ChatTemplateFailedError   its template refused the chat or exceeded a limit
└── RenderQueueFullError      too many chats wait to be rendered
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
