"""What measures, breaks, loads and operates real gateways. `tests/` checks them; this shows them.

launch     start a gateway process, wait for it, read it, end it
drive      ask it: closed loops and open arrivals
bench      figures against limits            `just bench`
chaos      what happens when it is broken    `just chaos`
load       its users, and its promises       `just load`
fleet      several gateways as one service   `just fleet`
ops        image, stack, runbook, alerts     `just image-smoke`, `just runbook`, `just drill`
capacity   unique queries a second here      `just capacity`
"""
