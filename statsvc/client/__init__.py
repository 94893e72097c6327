"""The client of a statsvc server: fetches class weights and caches them."""

from statsvc.client.client import Client, class_weights

__all__ = ["Client", "class_weights"]
