"""The client of a statsvc server: fetches class weights and caches them.

::

    client         Client and class_weights, the public functions
    endpoints      URL and response of each endpoint that the client uses
    cached_server  GET requests that fall back to the cache
    cache          cached responses on disk
    retry          repeated attempts
    http           one attempt: a GET request, and the exception for each kind of failure
    query          parameters as a query string and as a command line
    settings       validation of the settings
    pinned         weights recorded in a checkpoint, checked against the request
    distributed    one request for all ranks of a torch.distributed process group
"""

from statsvc.client.client import Client, class_weights

__all__ = ["Client", "class_weights"]
