"""Building blocks of the models, written over `backend.ops`: no framework, no weights' files."""
