"""Pictures and videos: fetched under strict limits, decoded, cut into patches, given positions.

    fetch (url, address, http, local_file, data_uri) ──bytes──▶ image | video ──▶ MediaItem

Nothing here knows of tokens or templates. Messages of MediaError are fixed texts of this project:
a decoder's own words can hold addresses and paths and are never quoted.
"""
