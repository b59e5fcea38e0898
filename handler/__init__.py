"""Intelligence Query Gateway: which model should answer this query?

Start reading in `gateway.py`: it tells a query's life from top to bottom. For use from
Python: `from handler import LocalRouter` (docs/python.md).
"""

__version__ = "0.1.0"

# The public interface, by where it lives. Imported when it is asked for: a server, and whoever wants
# the version, pays for none of it.
_PUBLIC = {
    "LocalRouter": "offline",
    "Explained": "offline",
    "Decision": "policy",
    "UnknownTask": "policy",
    "PolicyError": "policy_file",
    "ModelError": "errors",
    "ValidationError": "errors",
}
__all__ = [
    "Decision",
    "Explained",
    "LocalRouter",
    "ModelError",
    "PolicyError",
    "UnknownTask",
    "ValidationError",
]

TYPE_CHECKING = False  # not of `typing`, whose import a start would pay for
if TYPE_CHECKING:
    from handler.errors import ModelError, ValidationError
    from handler.offline import Explained, LocalRouter
    from handler.policy import Decision, UnknownTask
    from handler.policy_file import PolicyError


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
