"""`lab.launch` under its former name."""

from lab.launch import CLASSIFY, MODEL, ROOT, UNHURRIED, Served, eventually, free_port

__all__ = ["CLASSIFY", "MODEL", "ROOT", "UNHURRIED", "Served", "eventually", "free_port"]
