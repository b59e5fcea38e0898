"""Intelligence Query Gateway: which model should answer this query?

Start reading in `gateway.py`: it tells a query's life from top to bottom.
"""

__version__ = "0.1.0"
