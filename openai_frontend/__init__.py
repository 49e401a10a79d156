"""The OpenAI-compatible translator in front of Triton.

api_server ── launch/     flags, checkpoint folder, tritonserver's life, listeners, drain
app ── middleware         routes; request ids, HTTP metrics, API keys
 └─ endpoints/            HTTP → Plan, one file per endpoint
     ├─ protocol/         OpenAI's objects, no I/O
     └─ reply             Plan → answer: streamed or collected
         └─ generation    n ensemble requests, one mailbox, STOP when the client leaves
             └─ upstream  what is needed of the server; triton_client is the real one
"""

__version__ = "0.1.0"
