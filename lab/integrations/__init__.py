"""Other people's programs in front of a gateway, or asking one: `just integrations`.

Each recipe in `integrations/` is run as it stands there, with its addresses and its key replaced,
against the real program that it is for. Start reading at `__main__`; `checks` says what a check is.
"""
