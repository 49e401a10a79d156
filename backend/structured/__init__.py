"""What constrains an answer besides its probabilities: grammars, and the end of its thinking.

    structured = StructuredOutput(tokenizer, num_token_ids)
    structured.check(spec)                      # preprocessor: InvalidRequestError or nothing
    matcher = structured.compile(spec).result() # engine: one per request
    control = OutputControl(...)                # engine: what the sampler asks about each token
    structured.start_masks([matcher, ...])      # after a step: masks grow while the model runs

Grammars are llguidance's; its limits and its refusals become InvalidRequestError here.
"""

from backend.structured.control import OutputControl
from backend.structured.matcher import Matcher
from backend.structured.output import StructuredOutput
from backend.structured.thinking import ThinkingSection
from backend.structured.tool_grammar import free_calls_spec, tool_call_spec

__all__ = [
    "Matcher",
    "OutputControl",
    "StructuredOutput",
    "ThinkingSection",
    "free_calls_spec",
    "tool_call_spec",
]
