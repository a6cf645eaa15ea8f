"""The blocks that Anthropic's messages are made of. Pure."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from gateway.api.kinds import one_of
from gateway.api.written import Written

NO_MEDIA: Final = "Content of type '{kind}' cannot be read by this model: send text."
NO_SERVER_TOOLS: Final = (
    "Content of type '{kind}' is not known here, or belongs to a server tool; there is none."
)


class TextBlock(Written):
    """A piece of text."""

    type: Literal["text"]
    text: str

    def __str__(self) -> str:
        return self.text


class ThinkingBlock(Written):
    """What the model thought aloud."""

    type: Literal["thinking"]
    thinking: str


class RedactedBlock(Written):
    """What another model thought; it can tell us nothing."""

    type: Literal["redacted_thinking"]


class CallBlock(Written):
    """A tool that the model used."""

    type: Literal["tool_use"]
    id: Annotated[str, Field(min_length=1)]
    name: str
    input: dict[str, Any]


_media: Final[dict[str, str]] = dict.fromkeys(
    ("image", "document", "audio", "container_upload"), NO_MEDIA
)


def _as_blocks(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


TextBlocks = Annotated[
    list[Annotated[TextBlock, one_of({"text": TextBlock}, refused=_media, others=NO_SERVER_TOOLS)]],
    Field(fail_fast=True),
    BeforeValidator(_as_blocks),
]


class ResultBlock(Written):
    """What came of a tool."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: TextBlocks = Field([])
    is_error: bool | None = None


Block = TextBlock | ThinkingBlock | RedactedBlock | CallBlock | ResultBlock

Blocks = Annotated[
    list[
        Annotated[
            Block,
            one_of(
                {
                    "text": TextBlock,
                    "thinking": ThinkingBlock,
                    "redacted_thinking": RedactedBlock,
                    "tool_use": CallBlock,
                    "tool_result": ResultBlock,
                },
                refused=_media,
                others=NO_SERVER_TOOLS,
            ),
        ]
    ],
    Field(fail_fast=True),
    BeforeValidator(_as_blocks),
]


def joined(blocks: list[TextBlock]) -> str:
    """Blocks as one text, each on lines of its own."""
    return "\n".join(block.text for block in blocks)
