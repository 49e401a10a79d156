"""The engine: everything between a parsed request and its tokens. No Triton, no web."""
