"""`query-gateway`: serve, check, classify, calibrate, replay, cache, shadow and key, from one command line.

What a command needs is imported when it runs, so that none pays for another.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from handler import __version__
from handler.settings import Settings, SettingsError, from_env, misspelled, retired, table

if TYPE_CHECKING:
    from handler.model import Router
    from handler.offline import LocalRouter
    from handler.policy import Policy, Source

FAILED = 1
UNUSABLE = 2  # settings or arguments; argparse's own code for the same
SHELLS = ("bash", "zsh", "fish")
VERSION = f"query-gateway {__version__}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the process's exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "version":
        print(VERSION)
        return 0
    if arguments.command == "completion":
        print(_completion(arguments.shell))
        return 0
    if arguments.command == "key":
        from handler import keys

        key = keys.make()
        print(f"key, for the caller: {key}\ndigest, for the gateway: {keys.digest(key.encode()).hex()}")
        return 0
    if arguments.command == "shadow":
        return _shadow(arguments)
    # What the command line says goes the same way as the environment, so that both are checked alike.
    given = {name.upper(): value for name in ("host", "port") if (value := getattr(arguments, name, None))}
    try:
        settings = from_env({**os.environ, **given})
    except SettingsError as exc:
        return _unusable(exc, serving=arguments.command == "serve")
    for seen, likely in misspelled(os.environ):
        print(f"query-gateway: warning: {seen} is not a setting; did you mean {likely}?", file=sys.stderr)
    for seen, instead in retired(os.environ):
        print(
            f"query-gateway: warning: {seen} is no longer a setting; in its place: {instead}", file=sys.stderr
        )
    if arguments.command == "serve":
        from handler.server import serve

        try:
            return serve(settings)
        except SettingsError as exc:
            return _unusable(exc, serving=True)
    if arguments.command == "check":
        return _check(settings)
    if arguments.command == "cache":
        return _cache(settings, arguments)
    if arguments.command in ("calibrate", "replay"):
        return _offline(settings, arguments)
    return _classify(settings, arguments.text, whole=arguments.whole, as_json=arguments.json)


def _unusable(exc: SettingsError, *, serving: bool) -> int:
    """Say why settings cannot be used; a server says it as a line of its log too, which is what tools read."""
    print(f"query-gateway: {exc}", file=sys.stderr)
    if serving:
        from handler.log import Log

        Log(sys.stderr).error("settings", error_type="SettingsError", message=str(exc))
    return UNUSABLE


def _check(settings: Settings) -> int:
    """Verify settings, model and policy without serving: what a deployment runs first."""
    from handler import model as models
    from handler.errors import ModelError
    from handler.health import policy_check
    from handler.model_holder import KEPT_SLOW, policy_of, policy_statistics
    from handler.policy import UnknownTask, kept_slow
    from handler.policy_file import PolicyError
    from handler.wire import encode
    from handler.wiring import open_keyring, open_servers, read_policy

    try:
        _check_machine(settings)
        open_keyring("API_KEYS", settings.api_keys, settings.api_keys_file)
        open_keyring("OPS_KEYS", settings.ops_keys, settings.ops_keys_file)
        if settings.redis_url:
            open_servers(settings)
        file = read_policy(settings)
        router, policy = _load(settings)
    except SettingsError as exc:
        print(f"query-gateway: {exc}", file=sys.stderr)
        return UNUSABLE
    except ModelError as exc:
        print(f"query-gateway: the model cannot be served: {exc}", file=sys.stderr)
        return FAILED
    if slow := kept_slow(router.manifest.policy, settings.fast_tasks):
        print(f"query-gateway: warning: {KEPT_SLOW}: {', '.join(slow)}", file=sys.stderr)
    print("settings: ok")
    found = {"path": str(settings.model_folder), **models.describe(router), "policy": policy.routes}
    print(f"model: ok {encode(found).decode()}")
    print(f"policy: ok {encode(policy_check(policy_statistics(policy, file))).decode()}")
    if settings.shadow_folder is not None:
        try:
            shadow = models.load(settings.shadow_folder)
            policy_of(shadow, settings.fast_tasks, threshold=settings.confidence_threshold, file=file)
            print(f"shadow: ok {encode(models.describe(shadow)).decode()}")
        except (ModelError, PolicyError, UnknownTask) as exc:  # the gateway serves all the same
            print(f"query-gateway: warning: the shadow cannot be used: {exc}", file=sys.stderr)
    return 0


def _load(settings: Settings, source: "Source | Literal['auto'] | None" = None) -> "tuple[Router, Policy]":
    """The model and the policy that the settings name.

    source  instead of the policy's: "tasks" or "outcomes"; by default, where there is no policy
            file, "outcomes" if the model has learnt from some and somebody asks

    Raises `SettingsError` or `ModelError`.
    """
    from handler.model_holder import policy_of
    from handler.policy import UnknownTask
    from handler.policy_file import FAST_TASKS_TOO, PolicyError, with_source
    from handler.wiring import load_router, read_policy

    file = read_policy(settings)
    if source == "outcomes" and settings.fast_tasks:
        raise SettingsError(f"--source outcomes: {FAST_TASKS_TOO}")
    router = load_router(settings)
    if source == "auto":
        source = "outcomes" if file is None and router.learns and not settings.fast_tasks else None
    if source is not None:
        file = with_source(file, source)
    try:
        policy = policy_of(router, settings.fast_tasks, threshold=settings.confidence_threshold, file=file)
    except UnknownTask as exc:
        raise SettingsError(f"ROUTE_FAST_TASKS: {exc}") from None
    except PolicyError as exc:
        raise SettingsError(f"POLICY_FILE: {exc}") from None
    return router, policy


def _check_machine(settings: Settings) -> None:
    """Raise `SettingsError` where a server could not listen. That a gateway runs here already is no error."""
    from handler import listening
    from handler.machine import open_files

    if (
        files := open_files(redis_servers=settings.redis_servers, export=settings.export is not None)
    ).connections < 1:
        raise SettingsError(files.shortage)
    try:
        listening.bind(settings.host, settings.port).close()
    except listening.CannotListen as exc:
        if not exc.taken:
            raise SettingsError(str(exc)) from None
        print(f"query-gateway: warning: {exc}", file=sys.stderr)


def _classify(settings: Settings, texts: Sequence[str], *, whole: bool, as_json: bool) -> int:
    """Route texts without a server; the answers are those that the server would give.

    whole  standard input or a file is one query, line breaks and all, instead of a query a line
    """
    from handler.errors import ModelError, ValidationError
    from handler.offline import LocalRouter
    from handler.wire import write_answer

    try:
        local = LocalRouter(*_load(settings))
        for text in _queries(texts, whole=whole):
            decision = local.classify_one(text)
            if as_json:
                print(write_answer(decision).decode(), flush=True)
            else:
                print(
                    f"{decision.label}\t{decision.route}\t{decision.task}\t{decision.confidence:.4f}",
                    flush=True,
                )
    except (SettingsError, ValidationError) as exc:
        print(f"query-gateway: {exc}", file=sys.stderr)
        return UNUSABLE
    except (ModelError, OSError) as exc:
        print(f"query-gateway: {_plain(exc)}", file=sys.stderr)
        return FAILED
    return 0


def _plain(problem: Exception) -> str:
    """Return an error in words; of one with a file, the file and what is wrong with it."""
    if isinstance(problem, OSError) and problem.filename is not None:
        return f"{problem.filename}: {problem.strerror}"
    return str(problem)


def _require_place(option: str, file: str | None, taken: Mapping[str, str | None]) -> None:
    """Raise SettingsError where nothing can be written to this file: before the work, not after it.

    taken  files that are not to be written over, by what they are
    """
    if not file:
        return
    path = Path(file)
    regular = path.is_file() or not path.exists()  # two outputs may share a pipe
    for what, other in taken.items():
        if regular and other and path.resolve() == Path(other).resolve():
            raise SettingsError(f"{option} {file} is {what}; name another")
    if path.is_dir():
        raise SettingsError(f"{option} {file} is a folder; accepted: the name of a file")
    if not path.absolute().parent.is_dir():
        raise SettingsError(f"{option} {file}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise SettingsError(f"{option} {file}: it may not be written")


def _write(file: str, text: str) -> None:
    """Write a file whole or not at all: a gateway may follow it, and a disk may be full."""
    path = Path(file)
    if path.exists() and not path.is_file():  # a pipe, or standard output
        path.write_text(text, encoding="utf-8")
        return
    path = path.resolve()
    # Not the file's own name with an ending: that may be too long.
    half_written = path.with_name(f".query-gateway.{os.getpid()}")
    try:
        half_written.write_text(text, encoding="utf-8")
        if path.exists():
            half_written.chmod(path.stat().st_mode & 0o777)
        half_written.replace(path)
    finally:
        half_written.unlink(missing_ok=True)


def _picture_file(arguments: argparse.Namespace) -> str | None:
    """Where `calibrate` draws its curve: as asked, or beside the policy."""
    if arguments.svg or not arguments.out:
        return str(arguments.svg) if arguments.svg else None
    return f"{arguments.out.removesuffix('.toml')}.svg"


def _prices(arguments: argparse.Namespace, policy: "Policy") -> dict[str, float]:
    """The price of 1,000 queries of each tier. Raises SettingsError."""
    from handler.replay import Prices

    named = [name for name, _ in arguments.price]
    if twice := [name for name in named if named.count(name) > 1]:
        raise SettingsError(f"--price {twice[0]} is said twice; accepted: once")
    try:
        return Prices(arguments.price_small, arguments.price_large, dict(arguments.price)).of(policy)
    except ValueError as exc:
        raise SettingsError(str(exc)) from None


def _offline(settings: Settings, arguments: argparse.Namespace) -> int:
    """Calibrate or replay: both read a file, ask the model and write what they found."""
    from handler.calibrate import Unfit
    from handler.errors import ModelError
    from handler.machine import usable_cpus
    from handler.offline import LocalRouter
    from handler.policy_file import PolicyError
    from handler.rows import BadRows

    try:
        log = {"the file that is read": arguments.file}
        taken = {**log, "POLICY_FILE": settings.policy_file}
        if arguments.command == "calibrate":
            # A new policy may take the place of the one in force; a picture or a page may not.
            _require_place("--out", arguments.out, log)
            _require_place("--svg", _picture_file(arguments), {**taken, "--out": arguments.out})
        else:
            _require_place("--out", arguments.out, taken)
        router, policy = _load(settings, source=getattr(arguments, "source", None))
        local = LocalRouter(router, policy, lanes=settings.lanes or usable_cpus())
        return (_calibrate if arguments.command == "calibrate" else _replay)(local, settings, arguments)
    except (SettingsError, BadRows, PolicyError) as exc:
        print(f"query-gateway: {exc}", file=sys.stderr)
        return UNUSABLE
    except (Unfit, ModelError, OSError) as exc:
        print(f"query-gateway: {_plain(exc)}", file=sys.stderr)
        return FAILED


def _calibrate(local: "LocalRouter", settings: Settings, arguments: argparse.Namespace) -> int:
    """Choose a threshold by a file of queries, and write it as a policy."""
    from handler import calibrate
    from handler.wiring import read_policy

    names = local.policy.names
    priced = (arguments.price_small, arguments.price_large, arguments.price) != (None, None, [])
    prices = list(_prices(arguments, local.policy).values()) if priced else []
    measured = calibrate.measure(Path(arguments.file), local)
    print(f"{len(measured.needs):,} queries of {arguments.file}, model {local.router.version}", end="")
    print(
        {"none": ", no labels", "tasks": ", labelled by task", "outcomes": ", with outcomes"}[measured.kind]
    )
    if measured.refused:
        print(measured.refused)
    print(calibrate.table(measured, prices))
    if arguments.fast_share is not None:
        chosen = calibrate.by_share(measured, arguments.fast_share)
        wish = f"{arguments.fast_share:.1%} to the first tier"
    elif arguments.wrong_fast_max is not None:
        chosen = calibrate.by_wrong_fast(measured, arguments.wrong_fast_max)
        wish = f"at most {arguments.wrong_fast_max:.1%} wrongly fast"
    elif measured.quality is not None:
        chosen = calibrate.by_knee(measured)
        wish = "the knee of the curve"
    else:
        raise SettingsError("the rows have no labels, so say what you want: --fast-share 0.3, for example")
    svg, picture = calibrate.pictures(measured, chosen)
    print(f"\n{picture}\n")
    found = [
        f"{wish}: threshold {chosen.threshold:.4f} (the first tier ends at need {chosen.boundary:.4f})",
        f"it sends {chosen.fast / len(measured.needs):.1%} of these queries to the first tier; at this sample size "
        f"{chosen.share_interval[0]:.1%} to {chosen.share_interval[1]:.1%} of others like them, and the threshold "
        f"itself is known to {chosen.threshold_interval[0]:.4f} to {chosen.threshold_interval[1]:.4f} (95%)",
    ]
    if measured.quality is not None:
        found.append(
            f"quality {measured.quality_at()[chosen.fast]:.3f}, wrongly fast {measured.wrong_at()[chosen.fast]:.2%} "
            f"of all queries"
        )
        if len(names) > 2:
            found.append(
                f"not known: how good the answers of {', '.join(names[1:-1])} are; what does not go to {names[0]} counts as if "
                f"{names[-1]} answered it"
            )
    if chosen.note:
        found.append(f"note: {chosen.note}")
    if chosen.boundary >= 0.5:
        found.append(
            "note: no CONFIDENCE_THRESHOLD and no query's own threshold moves the boundary to 0.5 or over; "
            "serve this one by a policy file (--out)"
        )
    print("\n".join(found))
    if arguments.out:
        file = read_policy(settings)
        made = f"by query-gateway calibrate from {len(measured.needs)} queries, model {local.router.version}"
        text = calibrate.policy_text(local.policy, file.need if file else {}, chosen, [made, *found])
        _write(arguments.out, text)
        print(
            f"written to {arguments.out}; serve it with POLICY_FILE={arguments.out} (and no CONFIDENCE_THRESHOLD)"
        )
    if picture_file := _picture_file(arguments):
        _write(picture_file, svg + "\n")
        print(f"picture in {picture_file}")
    return 0


def _replay(local: "LocalRouter", settings: Settings, arguments: argparse.Namespace) -> int:
    """Say what would have gone where on a log, and what that saves and risks."""
    from handler import replay

    found = replay.Replay(local.policy, _prices(arguments, local.policy))
    found.add(Path(arguments.file), local)
    print(found.summary())
    html = replay.page(
        found,
        title=f"Replay of {os.fsencode(Path(arguments.file).name).decode(errors='replace')}",
        model=local.router.version,
        texts=not arguments.no_texts,
    )
    _write(arguments.out, html)
    print(f"\npage in {arguments.out}")
    return 0


def _shadow(arguments: argparse.Namespace) -> int:
    """Print what a gateway's shadow would have answered otherwise. It may run elsewhere, with other settings."""
    from handler.shadow_report import Unreported, fetch, report

    key = ""
    try:
        if arguments.key_file:
            key = "".join(Path(arguments.key_file).read_text(encoding="ascii").split())
    except (OSError, UnicodeDecodeError) as exc:
        print(f"query-gateway: --key-file: {exc}", file=sys.stderr)
        return UNUSABLE
    try:
        print(report(fetch(arguments.url, key)))
    except Unreported as exc:
        print(f"query-gateway: {exc}", file=sys.stderr)
        return FAILED
    return 0


def _cache(settings: Settings, arguments: argparse.Namespace) -> int:
    """Show or remove what stands in Redis. Needs the model's manifest, not the model."""
    from handler.errors import ModelError
    from handler.model import read_manifest

    if not settings.redis_url:
        print("query-gateway: REDIS_URL is not set: there is no shared cache", file=sys.stderr)
        return UNUSABLE
    from handler import upkeep

    try:
        everything = arguments.action == "flush" and arguments.all_models
        version = None if everything else read_manifest(settings.model_folder).version
        if arguments.action == "stats":
            found = upkeep.stats(settings)
            for model, count in found.entries.items():
                print(f"model {model}: {count} entries{' (this model)' if model == version else ''}")
            print(f"all models: {sum(found.entries.values())} entries")
            print(f"keys in the database, whoever's they are: {_shown(found.keys)}")
            bound = "none" if found.memory_max_bytes == 0 else f"{_shown(found.memory_max_bytes)} bytes"
            print(
                f"memory: {_shown(found.memory_bytes)} bytes, bound: {bound}, "
                f"evicted keys: {_shown(found.evicted)}"
            )
        else:
            count = upkeep.flush(settings, version, dry_run=arguments.dry_run)
            of = f"model {version}" if version else "all models"
            print(f"{'would remove' if arguments.dry_run else 'removed'} {count} entries of {of}")
    except (ModelError, upkeep.UpkeepError) as exc:
        print(f"query-gateway: {exc}", file=sys.stderr)
        return FAILED
    return 0


def _shown(number: int | None) -> str:
    return "unknown" if number is None else str(number)


def _queries(texts: Sequence[str], *, whole: bool) -> Iterable[str]:
    """The queries that are meant by texts as given: `-` is standard input, `@file` a file."""
    for text in texts:
        if text == "-":
            if sys.stdin is None:
                raise OSError("- stands for standard input, and there is none")
            if isinstance(sys.stdin, TextIOWrapper):
                sys.stdin.reconfigure(encoding="utf-8", errors="replace")
            yield from _read(sys.stdin, whole=whole)
        elif text.startswith("@"):
            with open(text[1:], encoding="utf-8", errors="replace") as file:
                yield from _read(file, whole=whole)
        else:
            # What the shell passed as bytes outside UTF-8 cannot be a query's text.
            yield text.encode(errors="replace").decode()


def _read(file: TextIO, *, whole: bool) -> Iterable[str]:
    """A file's queries: all of it as one, or a query a line. Blank ones are passed over."""
    for text in [file.read()] if whole else file:
        if text.strip():
            yield text.rstrip("\n")


def _parser() -> argparse.ArgumentParser:
    settings = "settings (environment variables):\n" + table()

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=settings,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    parser = argparse.ArgumentParser(
        prog="query-gateway",
        description="Decides per query: can a small model answer it (0), or does it need a large one (1)?",
        epilog=settings,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=VERSION, help="print the version")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = command("serve", "Serve queries over HTTP until told to end.")
    serve.add_argument("--host", metavar="ADDRESS", help="address to listen on, instead of HOST")
    serve.add_argument("--port", metavar="PORT", help="port to listen on, instead of PORT")
    command("check", "Verify settings and model, then exit: 0 when a server would answer.")
    classify = command("classify", "Route texts without a server.")
    classify.add_argument(
        "text", nargs="+", help="a query; - for standard input, @FILE for a file, a query a line"
    )
    classify.add_argument(
        "--whole", action="store_true", help="standard input or a file is one query, of many lines"
    )
    classify.add_argument("--json", action="store_true", help="print the answers as the server would")
    calibrate = command("calibrate", "Choose a threshold by a file of queries, and write it as a policy.")
    calibrate.add_argument("file", help="JSON lines or CSV: text, and if known task, or small and large")
    wish = calibrate.add_mutually_exclusive_group()
    wish.add_argument(
        "--fast-share", type=_share, metavar="SHARE", help="share that is to go to the first tier, 0 to 1"
    )
    wish.add_argument(
        "--wrong-fast-max",
        type=_share,
        metavar="SHARE",
        help="bound on the share of all queries that go there wrongly, by their labels",
    )
    calibrate.add_argument("--out", metavar="FILE", help="write the policy (TOML), and the picture beside it")
    calibrate.add_argument("--svg", metavar="FILE", help="write the picture here")
    calibrate.add_argument(
        "--source",
        choices=("tasks", "outcomes"),
        default="auto",
        help="what need comes from [as POLICY_FILE says; without one, outcomes if the model has learnt from some]",
    )
    replay = command("replay", "Say what would have gone where on a log, and what that saves and risks.")
    replay.add_argument("file", help="JSON lines or CSV: text or request bodies, and if known time")
    replay.add_argument(
        "--out", metavar="FILE", default="replay.html", help="the page to write [%(default)s]"
    )
    replay.add_argument("--no-texts", action="store_true", help="leave the queries' texts out of the page")
    for tool in (calibrate, replay):
        tool.add_argument(
            "--price-small", type=float, metavar="PRICE", help="of 1,000 queries of the first tier"
        )
        tool.add_argument(
            "--price-large", type=float, metavar="PRICE", help="of 1,000 queries of the last tier"
        )
        tool.add_argument(
            "--price",
            action="append",
            default=[],
            type=_price,
            metavar="TIER=PRICE",
            help="of 1,000 queries of a tier by name, as those between the first and the last need it; may be repeated",
        )
    cache = command("cache", "Show or remove what stands in Redis.")
    actions = cache.add_subparsers(dest="action", required=True)
    actions.add_parser("stats", help="count entries by model")
    flush = actions.add_parser("flush", help="remove this model's entries; other keys stay")
    flush.add_argument("--all-models", action="store_true", help="remove every model's entries")
    flush.add_argument("--dry-run", action="store_true", help="only say how many")
    shadow = command("shadow", "Print where a gateway's shadow (SHADOW_MODEL_PATH) parts from its model.")
    shadow.add_argument("--url", default="http://localhost:8080", help="the gateway's address [%(default)s]")
    shadow.add_argument(
        "--key-file", metavar="FILE", help="an operator's key, where OPS_KEYS protects the metrics"
    )
    command("key", "Make a key for a caller, and the digest that the gateway knows it by.")
    completion = command("completion", "Print a script that completes commands and options in a shell.")
    completion.add_argument("shell", choices=SHELLS, help="the shell that it is for")
    command("version", "Print the version.")
    return parser


def _completion(shell: str) -> str:
    """A script for a shell that completes commands, options and names of files."""
    import shtab

    parser = _parser()
    parsers = [parser]
    while parsers:
        for action in parsers.pop()._actions:
            if isinstance(action.choices, dict):
                parsers += action.choices.values()
            elif "FILE" in (action.metavar, action.dest.upper()):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    script: str = shtab.complete(parser, shell)
    return script


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text}: accepted: a number from 0 to 1")
    return share


def _price(text: str) -> tuple[str, float]:
    name, _, price = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text}: accepted: TIER=PRICE")
    return name, float(price)
