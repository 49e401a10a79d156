"""Jinja chat templates a tiny checkpoint may carry; what ERNIE-4.5's chat models are prompted with.

`TEXT` is the text models' turn format, `VL` adds numbered pictures and videos and the think prefix.
"""

from __future__ import annotations

TEXT = (
    "{{- '<|begin_of_sentence|>' -}}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'system' -%}{{- message.content + '\\n' -}}"
    "{%- elif message.role == 'user' -%}{{- 'User: ' + message.content + '\\n' -}}"
    "{%- elif message.role == 'assistant' -%}"
    "{{- 'Assistant: ' + message.content + '<|end_of_sentence|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt is not defined or add_generation_prompt -%}"
    "{{- 'Assistant: ' -}}"
    "{%- endif -%}"
)

VL = (
    "{%- set count = namespace(image=0, video=0) -%}"
    "{%- macro render(content) -%}"
    "{%- if content is string -%}{{- content -}}"
    "{%- else -%}"
    "{%- for part in content -%}"
    "{%- if part.type == 'text' -%}{{- part.text -}}"
    "{%- elif part.type in ['image', 'image_url'] -%}"
    "{%- set count.image = count.image + 1 -%}"
    "{{- 'Picture ' ~ count.image ~ ':<|IMAGE_START|><|image@placeholder|><|IMAGE_END|>' -}}"
    "{%- elif part.type in ['video', 'video_url'] -%}"
    "{%- set count.video = count.video + 1 -%}"
    "{{- 'Video ' ~ count.video ~ ':<|VIDEO_START|><|video@placeholder|><|VIDEO_END|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{%- endmacro -%}"
    "{{- '<|begin_of_sentence|>' -}}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'system' -%}{{- render(message.content) + '\\n' -}}"
    "{%- elif message.role == 'user' -%}{{- 'User: ' + render(message.content) -}}"
    "{%- elif message.role == 'assistant' -%}"
    "{{- '\\nAssistant: ' + render(message.content) + '<|end_of_sentence|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt is not defined or add_generation_prompt -%}"
    "{{- '\\nAssistant: <think>' -}}"
    "{%- if enable_thinking is defined and not enable_thinking -%}"
    "{{- '\\n\\n</think>\\n\\n' -}}"
    "{%- endif -%}"
    "{%- endif -%}"
)
