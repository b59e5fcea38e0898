"""How a gateway is put together: one function, which returns the parts.

`assemble` reads the settings and gives every stage what it needs. What the parts
do, and when they start and end, is elsewhere: `server.py`.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from handler import aside, policy_file, redis_url
from handler.batching import Batcher, Plan
from handler.cache import L1
from handler.errors import ModelError
from handler.follow import Fingerprint, Followed, Follower, fingerprint
from handler.gateway import Gateway
from handler.health import Health
from handler.keys import Keyring
from handler.l2 import L2, OneServer, Servers
from handler.log import Log
from handler.machine import free_large_blocks_at_once, give_memory_back, usable_cpus
from handler.model_holder import ModelHolder, Serving
from handler.policy import Policy, UnknownTask
from handler.policy_file import PolicyError, PolicyFile
from handler.refusals import Refusals
from handler.settings import Settings, SettingsError
from handler.shadow import Shadow
from handler.statistics import ShadowStatistics
from handler.telemetry import Telemetry
from handler.tracing import Tracer

if TYPE_CHECKING:
    from handler.model import Router
    from handler.otlp import Exporter

# After the last query that may still use it, an old model is freed.
FREED_S = 1.0
# A start waits so long for a file of keys.
KEYS_READ_S = 5.0
# No model run takes this long: a lane that does hangs, and the process is not alive.
STALL_S = 10.0
# Refusals a second and CPU, where callers ask again at once: each costs 0.25 ms there, beside lanes that
# are never idle, so that a sixteenth of the CPU goes to them (docs/decisions/0011).
REFUSALS_PER_S = 250


class Parts(msgspec.Struct, frozen=True):
    """Everything that one gateway process holds, wired.

    follower   of the files that may change meanwhile
    callers    whose keys open `/v1/*`; None: no key is asked for
    operators  whose keys open the metrics and the deep report
    tracer     keeps the spans of queries; None: none is traced
    exporter   sends metrics and traces; None: nothing is sent
    """

    settings: Settings
    log: Log
    telemetry: Telemetry
    model: ModelHolder
    batcher: Batcher
    gateway: Gateway
    health: Health
    follower: Follower
    callers: Keyring | None
    operators: Keyring | None
    tracer: Tracer | None
    exporter: "Exporter | None"


def assemble(settings: Settings, log: Log) -> Parts:
    """Put a gateway together; nothing runs yet. Raises `SettingsError` when settings do not fit together."""
    telemetry = Telemetry()
    looks = _look_first(settings)
    shadow: Shadow | None = None

    def placed(serving: Serving) -> None:
        telemetry.expect_answers(serving.policy.labels, serving.policy.tasks)
        if shadow is not None:
            shadow.refit()

    model = ModelHolder(
        settings.model_folder,
        lambda: load_router(settings),
        log,
        fast_tasks=settings.fast_tasks,
        threshold=settings.confidence_threshold,
        policy_file=read_policy(settings),
        placed=placed,
    )
    lanes = settings.lanes or usable_cpus()
    batcher = Batcher(
        Plan(
            size_max=settings.batch_max_size,
            tokens_max=settings.batch_max_tokens,
            queue_min=settings.queue_min,
            queue_max=settings.queue_max,
            lanes=lanes,
            wait_max_s=settings.request_timeout_ms / 1000,
        ),
        lanes=lanes,
        executor=ThreadPoolExecutor(max_workers=lanes, thread_name_prefix="lane"),
        stall_s=STALL_S,
        telemetry=telemetry,
        log=log,
    )
    if settings.shadow_folder is not None:
        shadow = _shadow(settings, model, batcher, log)
    gateway = Gateway(
        model=model,
        l1=L1(size_max=settings.cache_l1_size, ttl_s=settings.cache_l1_ttl_sec, now=monotonic),
        batcher=batcher,
        refusals=Refusals(delayed_max=settings.queue_max, per_s=REFUSALS_PER_S * lanes),
        telemetry=telemetry,
        l2=open_l2(settings, telemetry, log) if settings.redis_url else None,
        shadow=shadow,
    )
    telemetry.watch_batcher(batcher.statistics)
    telemetry.watch_l1(gateway.l1.statistics)
    telemetry.watch_model(model.statistics)
    callers = open_keyring("API_KEYS", settings.api_keys, settings.api_keys_file)
    operators = open_keyring("OPS_KEYS", settings.ops_keys, settings.ops_keys_file)
    follower = Follower(_followed(settings, looks, model, callers, operators), log)
    telemetry.watch_refused(follower.trouble, keys=follower.troubles("keys"))
    telemetry.watch_policy(lambda: model.policy_statistics(follower.trouble("POLICY_FILE")))
    if shadow is not None:
        telemetry.watch_shadow(partial(_shadow_statistics, shadow, follower))
    telemetry.watch_log(lambda: log.dropped)
    tracer, exporter = open_export(settings, telemetry, log)
    return Parts(
        settings=settings,
        log=log,
        telemetry=telemetry,
        model=model,
        batcher=batcher,
        gateway=gateway,
        health=Health(gateway, settings, follower),
        follower=follower,
        callers=callers,
        operators=operators,
        tracer=tracer,
        exporter=exporter,
    )


def _shadow(settings: Settings, model: ModelHolder, batcher: Batcher, log: Log) -> Shadow:
    def in_force() -> "tuple[Router, Policy] | None":
        return (model.serving.router, model.serving.policy) if model.loaded else None

    return Shadow(
        str(settings.shadow_folder),
        share=settings.shadow_share,
        in_force=in_force,
        policy_for=model.policy_for,
        idle=lambda: batcher.idle,
        executor=ThreadPoolExecutor(max_workers=1, thread_name_prefix="shadow"),
        log=log,
    )


def _shadow_statistics(shadow: Shadow, follower: Follower) -> ShadowStatistics:
    return shadow.statistics(follower.trouble("SHADOW_MODEL_PATH"))


def _look_first(settings: Settings) -> dict[str, Fingerprint]:
    """What the files that are followed look like before they are read: what changes meanwhile is read again."""
    paths = [path for path in (settings.policy_file, settings.api_keys_file, settings.ops_keys_file) if path]
    if not paths:
        return {}
    try:
        return aside.within(lambda: {path: (fingerprint(Path(path)),) for path in paths}, KEYS_READ_S, "look")
    except aside.TookTooLong:
        return dict.fromkeys(paths, ())  # whoever reads it says what is wrong


def _followed(
    settings: Settings,
    looks: dict[str, Fingerprint],
    model: ModelHolder,
    callers: Keyring | None,
    operators: Keyring | None,
) -> list[Followed]:
    """What may change on disk while we serve."""
    found = []
    if path := settings.policy_file:
        load = partial(_read_policy, settings)
        found.append(
            Followed("POLICY_FILE", "policy", (Path(path),), load, model.place_policy, taken=looks[path])
        )
    for setting, path, keyring in (
        ("API_KEYS_FILE", settings.api_keys_file, callers),
        ("OPS_KEYS_FILE", settings.ops_keys_file, operators),
    ):
        if keyring is not None and path:
            found.append(
                Followed(setting, "keys", (Path(path),), keyring.load, keyring.place, taken=looks[path])
            )
    return found


def followed_model(settings: Settings, model: ModelHolder) -> Followed:
    """The model on disk, once there is one in service: the next is verified and proven, then swapped in. Blocks."""
    from handler.model import read_manifest

    folder = settings.model_folder
    followed = _followed_folder("MODEL_PATH", "model", folder, settings, model, model.swap, taken=None)
    try:
        same = read_manifest(folder) == model.serving.router.manifest
    except ModelError:
        same = False
    if not same:  # it has changed since the one in service was read
        followed.taken = ()
    return followed


def followed_shadow(settings: Settings, folder: Path, model: ModelHolder, shadow: Shadow) -> Followed:
    """The shadow on disk, its first reading included: no query waits for it, or minds that there is none."""
    return _followed_folder("SHADOW_MODEL_PATH", "shadow", folder, settings, model, shadow.place, taken=())


def _followed_folder(
    setting: str,
    what: str,
    folder: Path,
    settings: Settings,
    model: ModelHolder,
    place: "Callable[[Router], dict[str, Any]]",
    *,
    taken: Fingerprint | None,
) -> Followed:
    # By then every query that began with the old model was answered, or its time was over.
    freed_s = settings.request_timeout_ms / 1000 + FREED_S

    def load() -> "Router":
        from handler import model as models

        return models.load(folder, beside=model.serving.router)

    def put(router: "Router") -> dict[str, Any]:
        facts = place(router)
        loop = asyncio.get_running_loop()
        loop.call_later(freed_s, aside.start, give_memory_back, "give memory back")
        return facts

    return Followed(setting, what, (folder,), load, put, (ModelError, PolicyError, UnknownTask), taken=taken)


def read_policy(settings: Settings) -> PolicyFile | None:
    """The operator's own policy; None where there is none. Raises `SettingsError`."""
    try:
        return _read_policy(settings) if settings.policy_file else None
    except PolicyError as exc:
        raise SettingsError(f"POLICY_FILE: {exc}") from None


def _read_policy(settings: Settings) -> PolicyFile:
    return policy_file.read(
        settings.policy_file,
        fast_tasks=bool(settings.fast_tasks),
        threshold_given=settings.threshold_given,
    )


def load_router(settings: Settings) -> "Router":
    """Open the model that the settings name. Blocks; raises `ModelError`."""
    from handler.model import load

    free_large_blocks_at_once()
    return load(settings.model_folder)


def open_keyring(name: str, given: str, file: str) -> Keyring | None:
    """The keys of a pair of settings; None when neither is set. Raises `SettingsError`."""
    if not given and not file:
        return None
    try:
        return aside.within(lambda: Keyring(given, file), KEYS_READ_S, f"read {name}_FILE")
    except OSError as exc:
        raise SettingsError(f"{name}_FILE: {file} cannot be read ({exc.strerror or exc})") from None
    except ValueError as exc:
        raise SettingsError(f"{name}_FILE: {file}: {exc}") from None


def open_servers(settings: Settings) -> Servers:
    """Prepare to speak to Redis; nothing is sent. Raises `SettingsError` when the settings do not allow it."""
    # Tens of milliseconds that only Redis is worth.
    from handler import redis_cluster, redis_link

    endpoint = redis_url.read(settings.redis_url)
    files = {
        "ca_file": settings.redis_ca_file,
        "cert_file": settings.redis_cert_file,
        "key_file": settings.redis_key_file,
    }
    try:
        if endpoint.cluster:
            return redis_cluster.open_cluster(endpoint, **files)
        return OneServer(redis_link.open_link(endpoint, **files), endpoint.shown)
    except ValueError as exc:
        raise SettingsError(f"REDIS_URL, REDIS_*_FILE: Redis cannot be reached so: {exc}") from None


def open_export(
    settings: Settings, telemetry: Telemetry, log: Log
) -> "tuple[Tracer | None, Exporter | None]":
    """Prepare to send metrics and traces. Nothing is sent, and OpenTelemetry is not imported, before it runs."""
    export = settings.export
    if export is None:
        return None, None
    from handler.otlp import Exporter

    tracer = None
    if export.traces is not None:
        tracer = Tracer(share=export.share, follows=export.follows, queue_max=export.queue_max)
    exporter = Exporter(export, log, families=telemetry.families, tracer=tracer)
    telemetry.watch_export(exporter.statistics)
    return tracer, exporter


def open_l2(settings: Settings, telemetry: Telemetry, log: Log) -> L2:
    """Prepare the shared cache level. Raises `SettingsError`; that Redis is away is no error."""
    l2 = L2(
        open_servers(settings),
        address=redis_url.read(settings.redis_url).shown,
        timeout_s=settings.cache_l2_timeout_ms / 1000,
        ttl_s=settings.cache_l2_ttl_sec,
        log=log,
        operation=telemetry.l2_operation,
    )
    telemetry.watch_l2(l2.statistics)
    return l2
