"""A client's REQUEST → everything the engine needs: tokens, positions, pixels, settings.

    preprocessor = Preprocessor(settings)
    prepared = preprocessor.prepare(request, media, request_id)   # raises ErnieError

All that a request can get wrong is found here, before it costs the engine anything.
"""

from backend.preprocess.preprocessor import PreparedRequest, Preprocessor

__all__ = ["PreparedRequest", "Preprocessor"]
