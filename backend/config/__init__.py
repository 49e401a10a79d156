"""Settings, built once at the edge and passed down: a model's (`model`), a server's (`serving`)."""
