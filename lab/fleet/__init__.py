"""Several gateways as one service: run for real on this machine, and reckoned past it.

fleet      gateways, HAProxy in front, Redis behind
scenes     what happens to them                      `just fleet`
judge      whether every answer is the model's own
"""
