"""Route a data set of prompts with Ray Data: one router per actor, one core per actor.

    python classify.py prompts/ routes/                     # Parquet in, Parquet out
    python classify.py prompts.jsonl routes/ --text query   # JSON lines, another column
    python classify.py s3://bucket/prompts s3://bucket/routes --format json --actors 64

Every column of a row is kept; label, route, task, confidence, need and reason are added. A row without
a readable text goes to the last tier with the reason `no_text` or `unreadable`. Runs on the cluster of
`RAY_ADDRESS`, or on this machine. Blocks of a worker that dies are done again by another.
"""

import argparse

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, SaveMode

from handler import LocalRouter

# Rows that are routed at a time: some 2 s of one core.
BATCH_ROWS = 2048
# What a router adds to a row; a data set may have no column of such a name.
ADDED = {"label", "route", "task", "confidence", "need", "reason"}


class Router:
    """What an actor holds: a router, and the name of the column with the texts."""

    def __init__(self, text: str, model: str | None, policy_file: str | None) -> None:
        options = {"model": model, "policy_file": policy_file}
        self.local = LocalRouter.open(**{name: value for name, value in options.items() if value})
        self.text = text

    def __call__(self, batch: dict) -> dict:
        """batch: {column: (row,) array}. Returns it with the router's columns added."""
        return batch | self.local.classify_many(batch[self.text])


def routed(
    prompts: Dataset, text: str, actors: int, model: str | None = None, policy_file: str | None = None
) -> Dataset:
    """The data set with its routes. Nothing is computed before the result is asked for."""
    return prompts.map_batches(
        Router,
        fn_constructor_args=(text, model, policy_file),
        batch_format="numpy",
        batch_size=BATCH_ROWS,
        compute=ActorPoolStrategy(size=actors),
        # One core each: a router runs its model on one thread.
        num_cpus=1,
    )


# Reading and writing cost little next to routing; they need no core of their own, since the actors hold them all.
LITTLE = {"num_cpus": 0}


def read(path: str, kind: str | None = None) -> Dataset:
    if kind is None:
        kind = "json" if path.removesuffix(".gz").endswith((".jsonl", ".json", ".ndjson")) else "parquet"
    # The second form of reading lists files in tasks of a whole core each: behind the actors they would wait for ever.
    DataContext.get_current().use_datasource_v2 = False
    if kind == "json":
        return ray.data.read_json(path, file_extensions=None, ray_remote_args=LITTLE)
    return ray.data.read_parquet(path, ray_remote_args=LITTLE)


def write(routes: Dataset, path: str) -> None:
    # A block that is written again has its old name, so nothing is doubled; nor is it by a second run.
    routes.write_parquet(path, mode=SaveMode.CREATE, ray_remote_args=LITTLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("prompts", help="a file or folder of Parquet or JSON lines")
    parser.add_argument("routes", help="the folder to write Parquet to; there must be none yet")
    parser.add_argument(
        "--format", choices=("parquet", "json"), help="of the prompts [by the name's ending; Parquet]"
    )
    parser.add_argument("--text", default="text", help="column with the prompts [%(default)s]")
    parser.add_argument("--actors", type=int, help="routers, a core each [the cluster's cores]")
    parser.add_argument("--model", help="a model's folder, on every machine of the cluster [the wheel's]")
    parser.add_argument("--policy-file", help="a policy (TOML), on every machine of the cluster")
    options = parser.parse_args()
    ray.init()
    actors = options.actors or max(1, int(ray.cluster_resources()["CPU"]))
    prompts = read(options.prompts, options.format)
    schema = prompts.schema()
    columns = schema.names if schema else []
    if options.text not in columns:
        parser.error(
            f"{options.prompts} has no column {options.text}; it has {', '.join(columns) or 'no rows'}"
        )
    if taken := sorted(set(columns) & ADDED):
        parser.error(f"{options.prompts} has columns that would be lost: {', '.join(taken)}; rename them")
    write(routed(prompts, options.text, actors, options.model, options.policy_file), options.routes)


if __name__ == "__main__":
    main()
