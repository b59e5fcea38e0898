"""How many users the spike has at what time, for locust. Given to it beside `locustfile.py`."""

import json
import os

from locust import LoadTestShape

from lab.load.shapes import users_at


class Spike(LoadTestShape):
    """The plan's rate, but three times as much in the middle."""

    def __init__(self) -> None:
        super().__init__()
        plan = {"rate": 100, "seconds": 30.0} | json.loads(os.environ.get("LOAD_PLAN", "{}"))
        self.rate, self.seconds = plan["rate"], plan["seconds"]

    def tick(self) -> tuple[int, float] | None:
        at_s = self.get_run_time()
        if at_s > self.seconds + 1:
            return None
        users = users_at("spike", self.rate, self.seconds, at_s)
        return users, users  # all of them at once
