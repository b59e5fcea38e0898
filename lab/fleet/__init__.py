"""Several gateways as one service: run for real on this machine, and reckoned past it.

fleet        gateways, HAProxy in front, Redis behind
scenes       what happens to them                          `just fleet`
judge        whether every answer is the model's own
costs        what a query, a start and an end cost         `just fleet simulate --measure`
autoscalers  three platforms' rules, as documented
hits         what the caches answer
simulation   queries, instances and an autoscaler in SimPy
check        the real fleet beside the same fleet reckoned
sums         knobs, money, and where Redis ends            `just fleet simulate`
"""
