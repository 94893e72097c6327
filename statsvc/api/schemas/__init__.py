"""JSON schemas of every response, for OpenAPI.

The models are documentation only: routes send bytes that were rendered before, and nothing is validated
when a response is sent. The API tests validate every response that they receive against these schemas.

No model is called like one of its fields, `Weights` with a field `weights`: clients that
openapi-python-client generates would not type-check.
"""
