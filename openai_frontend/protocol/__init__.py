"""OpenAI's objects: request bodies in, response bodies and stream chunks out. No I/O."""
