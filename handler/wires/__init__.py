"""The wires: other people's request formats, each an adapter of its own.

A wire is a file in this folder that only decodes what its clients send into
queries and encodes the answers. A new one is added by adding its file and its
name to `settings.WIRES`; `base.py` says what such a file holds.
"""

from importlib import import_module

from handler.wires.base import Endpoint


def endpoints(names: tuple[str, ...]) -> list[Endpoint]:
    """The endpoints of the wires that are on. Two wires may share a path; then it is listed once."""
    found: dict[str, Endpoint] = {}
    for name in names:
        for endpoint in import_module(f"handler.wires.{name}").ENDPOINTS:
            found.setdefault(endpoint.path, endpoint)
    return list(found.values())
