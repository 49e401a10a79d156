"""Messages and tools → a prompt whose control tokens come from the template alone.

    template = ChatTemplate.load(folder, tokenizer, is_multimodal=True)
    prompt = template.render(request.messages, request.tools, request.chat_template_kwargs)
    for piece in prompt.tokenize(tokenizer):      # list[int] or MediaPlaceholder, in order
        ...

A prompt is a list of segments that say where each text comes from. User text stays user text
through every template, so that it can forge neither a control token nor a media placeholder.
"""

from backend.chat_template.family import Family, detect_family
from backend.chat_template.prompt import (
    ControlText,
    MediaPlaceholder,
    RenderedPrompt,
    Segment,
    UserText,
)
from backend.chat_template.template import ChatTemplate

__all__ = [
    "ChatTemplate",
    "ControlText",
    "Family",
    "MediaPlaceholder",
    "RenderedPrompt",
    "Segment",
    "UserText",
    "detect_family",
]
