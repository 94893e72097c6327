"""JSON schemas of every response, for OpenAPI.

The models are documentation only: routes send bytes that were rendered before, and nothing is validated
when a response is sent. The API tests validate every response that they receive against these schemas.
"""
