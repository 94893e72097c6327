"""The HTTP service: serves statistics of published versions from memory. It never reads label maps.

Layers, from top to bottom: `serve` and `app`; `routes`; `state` (what a process keeps in memory); `http`
(parameters, formats, conditional requests, problems, access) and `schemas` (OpenAPI).
"""
