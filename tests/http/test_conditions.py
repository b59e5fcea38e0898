"""Conditions that other people's servers were reported to break under: a real process each."""

import fcntl
import hashlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from lab.launch import CLASSIFY, KEPT, MODEL, ROOT, Served, answers, eventually, free_port

PROBE = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
HALF_A_HEAD = b"GET /health/live HTTP/1.1\r\nhost:"
GATEWAY = (sys.executable, "-m", "handler")
# `shell("… $@ …")` starts the gateway from within a shell's line.
ROOT_ALONE = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a namespace")


def shell(line: str, *arguments: str) -> tuple[str, ...]:
    return ("sh", "-c", line, *(arguments or ("sh",)))


def command(
    name: str, settings: Mapping[str, str], line: str = 'exec "$@"'
) -> subprocess.CompletedProcess[str]:
    """A command of the gateway's, run to its end."""
    kept = {k: v for k, v in os.environ.items() if k in KEPT}
    return subprocess.run(
        [*shell(line), *GATEWAY, name],
        cwd=ROOT,
        env={**kept, "MODEL_PATH": str(MODEL), "PORT": str(free_port()), **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )


def connect(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=30)


def answered(caller: socket.socket) -> bool:
    caller.sendall(PROBE)
    return caller.recv(4096).startswith(b"HTTP/1.1 200")


def closed(caller: socket.socket) -> bool:
    """Whether the gateway closes, at once or after a while, without a 200."""
    try:
        return not caller.recv(4096).startswith(b"HTTP/1.1 200")
    except ConnectionError:
        return True


# Nobody who reads, or does not, can hold the gateway up


def test_a_log_reader_who_stalls_holds_up_no_query_and_no_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDWR)  # and never reads
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    with Served({"LOG_REQUESTS": "1"}, wrapped_in=shell('exec "$@" > "$0"', str(log))) as served:
        codes = {served.ask(f"query {i}").status_code for i in range(60)}
        alive = served.status("/health/live")
        code = served.terminate()

    os.close(reader)
    assert (codes, alive, code) == ({200}, 200, 0)


@pytest.mark.parametrize(
    "streams", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "> /dev/full", "> /dev/full 2>&1"]
)
def test_streams_that_take_nothing_change_no_answer_and_no_exit_code(streams: str) -> None:
    with Served(wrapped_in=shell(f'exec "$@" {streams}')) as served:
        assert served.ask("q").status_code == 200
        assert served.send(b"{}").status_code == 400
        assert served.terminate() == 0


@pytest.mark.parametrize(
    "environ",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=str,
)
def test_a_stream_that_is_not_utf_8_changes_no_answer(environ: dict[str, str]) -> None:
    with Served({**environ, "API_KEYS": "a" * 64}) as served:
        assert served.ask("q").status_code == 401

    assert command("--help", environ).returncode == 0
    assert "…" not in command("--help", environ).stdout


def test_an_answer_that_could_not_be_written_is_an_error() -> None:
    assert command("check", {}, 'exec "$@" > /dev/full').returncode == 1


def test_a_pipe_in_the_place_of_a_models_file_is_told_and_holds_nothing_up(tmp_path: Path) -> None:
    folder = tmp_path / "quantized"
    shutil.copytree(MODEL, folder)
    with Served({"MODEL_PATH": str(folder)}) as served:
        (folder / "manifest.json").unlink()
        os.mkfifo(folder / "manifest.json")  # whoever opens it waits for ever

        files = [served.deep()["checks"]["model"]["files"] for _ in range(2)]

        assert files == ["changed"] * 2
        assert served.status("/health/live") == 200
        assert served.ask("q").status_code == 200
        assert served.terminate() == 0


def test_a_file_of_keys_that_hangs_stops_the_start_by_name(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    os.mkfifo(keys)

    refused = command("check", {"API_KEYS_FILE": str(keys)})

    assert refused.returncode == 2
    assert "API_KEYS_FILE" in refused.stderr


# The end


def test_a_lane_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    settings = {"LANES": "1", "REQUEST_TIMEOUT_MS": "200", "DRAIN_LINGER_MS": "0"}
    with Served(settings, fault=f"gate:{tmp_path / 'never'}") as served:
        assert served.ask("q").status_code == 504

        assert served.terminate() == 0
        assert served.events()[-1] == "stopped"


SILENT_RESOLVER = """
import os, socket, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["mount", "--bind", sys.argv[1], "/etc/resolv.conf"], check=True)
silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.1", 53))
os.set_inheritable(silent.fileno(), True)
os.execvp(sys.argv[2], sys.argv[2:])
"""
INSIDE = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2)"


@ROOT_ALONE
@pytest.mark.skipif(shutil.which("ip") is None, reason="there is no ip command")
def test_a_silent_name_server_does_not_hold_up_the_end(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 127.0.0.1\n")
    settings = {"REDIS_URL": "redis://redis.example.internal:6379", "DRAIN_LINGER_MS": "0"}
    wrapped_in = ("unshare", "-n", "-m", sys.executable, "-c", SILENT_RESOLVER, str(conf))
    with Served(settings, wrapped_in=wrapped_in, wait_for=None) as served:
        eventually(lambda: "l2_down" in served.events(), "Redis is looked for in vain")

        assert served.terminate() == 0
        assert served.events()[-1] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@ROOT_ALONE
def test_a_signal_before_the_start_is_over_ends_process_1(number: signal.Signals) -> None:
    # As the image starts it: what comes before Python's handlers stand is kept.
    process_1 = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    unlost = ("env", "--block-signal=TERM,INT,HUP")
    with Served(wrapped_in=(*process_1, *unlost), wait_for=None) as served:
        parent = served.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children")
        child = int(eventually(children.read_text, "process 1 is there").split()[0])
        started = Path(f"/proc/{child}/comm")
        eventually(lambda: started.read_text() not in ("unshare\n", "env\n"), "it has become the gateway's")
        os.kill(child, number)

        assert served.process.wait(timeout=10) == 0


def test_a_signal_while_the_model_is_loaded_ends_the_process(tmp_path: Path) -> None:
    folder = tmp_path / "quantized"
    shutil.copytree(MODEL, folder)
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")  # the load never ends
    with Served({"MODEL_PATH": str(folder), "DRAIN_LINGER_MS": "0"}, wait_for="/health/live") as served:
        assert served.terminate() == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"REDIS_URL": "rediss://127.0.0.1:1", "REDIS_CA_FILE": "/nonexistent"},
        {"REDIS_URL": "redis://127.0.0.1:1?foo=1"},
        {"REDIS_URL": "rediss://127.0.0.1:1?ssl_cert_reqs=bogus"},
        {"REDIS_URL": "redis://:a#b@127.0.0.1:1"},
        {"API_KEYS_FILE": "/nonexistent"},
        {"HOST": "no-such-host.invalid"},
        {"CORS_ORIGINS": "app.example"},
    ],
    ids=str,
)
def test_settings_that_cannot_serve_end_check_and_serve_alike(settings: dict[str, str]) -> None:
    checked, served = command("check", settings), command("serve", settings)

    assert (checked.returncode, served.returncode) == (2, 2)
    for told in (checked.stderr, served.stdout + served.stderr):
        assert next(iter(settings)).partition("_")[0] in told
        assert "Traceback" not in told


# The address


@pytest.mark.parametrize("host", ["localhost", socket.gethostname(), "::1", "[::1]"])
def test_a_host_that_is_checked_is_served(host: str) -> None:
    with Served({"HOST": host}, wait_for=None) as served:
        name = host.strip("[]")

        def listens() -> bool:
            try:
                with socket.create_connection((name, served.port), timeout=5) as caller:
                    return answered(caller)
            except OSError:
                return False

        eventually(listens, "it answers")
    assert command("check", {"HOST": host}).returncode == 0


def test_of_two_started_at_once_on_one_port_one_says_that_it_is_taken() -> None:
    port = str(free_port())
    with ExitStack() as both:
        gateways = [both.enter_context(Served({"PORT": port}, wait_for=None)) for _ in range(2)]

        eventually(lambda: [g for g in gateways if g.process.poll() is not None], "one gives way")
        (away,) = [g for g in gateways if g.process.poll() is not None]
        (here,) = [g for g in gateways if g is not away]

        assert away.process.returncode == 1
        assert "Port already in use" in away.text()
        eventually(lambda: answers(here.url + "/health/ready"), "the other one serves")


def test_that_the_port_is_taken_now_is_no_fault_of_the_settings() -> None:
    with Served() as served:
        checked = command("check", {"PORT": str(served.port)})

    assert checked.returncode == 0
    assert "Port already in use" in checked.stderr


# Other people's environment


@pytest.mark.parametrize("name", ["PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"])
@pytest.mark.parametrize("exists", [True, False])
def test_metrics_are_not_written_to_a_folder_meant_for_others(
    name: str, exists: bool, tmp_path: Path
) -> None:
    folder = tmp_path if exists else tmp_path / "nonexistent"
    with Served({name: str(folder)}) as served:
        served.ask("q")

        assert served.metric("query_gateway_requests_total", status="success") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "environ",
    [
        {"LITESTAR_DEBUG": "1", "LITESTAR_PDB": "1"},
        {"PYTHONASYNCIODEBUG": "1"},
        {"PYTHONOPTIMIZE": "2"},
        {"PYTHONDEVMODE": "1"},
        {"GRANIAN_HOST": "256.0.0.1", "GRANIAN_PORT": "1"},
        {"UV_THREADPOOL_SIZE": "1"},
    ],
    ids=str,
)
def test_names_that_are_meant_for_others_change_no_answer(environ: dict[str, str]) -> None:
    with Served(environ) as served:
        assert served.ask("q").status_code == 200
        assert served.status("/nowhere") == 404
        assert served.send(b"{}").json()["error"]["status"] == "INVALID_ARGUMENT"


# Connections


@pytest.fixture(scope="module")
def patient() -> Iterator[Served]:
    """Keeps connections for an hour, and does not wait long for a head."""
    with Served({"READ_TIMEOUT_MS": "600", "KEEP_ALIVE_SEC": "3600"}) as served:
        yield served


def test_an_idle_connection_outlives_the_time_that_a_head_may_take(patient: Served) -> None:
    with connect(patient) as idle, connect(patient) as late:
        assert answered(idle)
        late.sendall(HALF_A_HEAD)

        assert closed(late)
        assert answered(idle)


def test_on_a_kept_connection_too_a_head_must_come_in_full(patient: Served) -> None:
    with connect(patient) as caller:
        assert answered(caller)
        with connect(patient) as silent:
            assert closed(silent)  # time has passed since the answer
        caller.sendall(HALF_A_HEAD)

        assert closed(caller)


def test_a_connection_that_never_sends_is_given_up_and_counted(patient: Served) -> None:
    before = patient.metric("query_gateway_connections_closed_total", reason="late_head")

    with connect(patient) as silent:
        assert closed(silent)

    assert patient.metric("query_gateway_connections_closed_total", reason="late_head") > before


def test_a_connection_is_idle_no_longer_than_was_said() -> None:
    with Served({"READ_TIMEOUT_MS": "60000", "KEEP_ALIVE_SEC": "1"}) as served, connect(served) as idle:
        assert answered(idle)

        assert closed(idle)


def test_a_query_that_takes_longer_than_a_head_may_is_answered(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    settings = {"READ_TIMEOUT_MS": "1000", "REQUEST_TIMEOUT_MS": "20000"}
    body = b'{"text":"q"}'
    with Served(settings, fault=f"gate:{gate}") as served, connect(served) as caller:
        caller.sendall(
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\n\r\n%b" % (CLASSIFY.encode(), body)
        )
        with connect(served) as silent:
            assert closed(silent)  # so long the query has waited now
        gate.touch()

        assert caller.recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("files", [24, 25, 32, 48, 64, 96, 128, 129])
def test_idle_connections_shut_nobody_out_however_few_files_may_be_open(files: int) -> None:
    with ExitStack() as stack:
        wrapped_in = shell(f'ulimit -n {files}; exec "$@"')
        served = stack.enter_context(Served({"LANES": "1"}, wrapped_in=wrapped_in))
        for _ in range(min(files - 18, 40)):  # more than may be open at a time, where that is little
            caller = stack.enter_context(connect(served))
            caller.sendall(PROBE)

        assert served.status("/health/live") == 200
        assert served.ask("q").status_code == 200
        eventually(lambda: "few_open_files" in served.events(), "the operator is told")


def test_too_few_files_stop_the_start_with_the_number_that_it_takes() -> None:
    line = 'ulimit -n 20; exec "$@"'

    assert command("serve", {}, line).returncode == 1
    assert command("check", {}, line).returncode == 2
    assert "at least 24 are needed" in command("check", {}, line).stderr


def test_the_files_that_a_gateway_holds_by_itself_are_those_that_are_kept_for_it() -> None:
    from handler.machine import OWN_FILES

    with Served({"LANES": "1"}) as served:
        held = os.listdir(f"/proc/{served.process.pid}/fd")

    assert len(held) <= OWN_FILES


# What HTTP asks


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served(
        {"CORS_ORIGINS": "https://app.example", "API_KEYS": hashlib.sha256(b"ours").hexdigest()}
    ) as served:
        yield served


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/health/deep", "/metrics", "/schema"])
def test_what_get_answers_head_answers_without_a_body(served: Served, path: str) -> None:
    head = served.client.head(path)

    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == served.client.get(path).headers["content-type"]


def test_head_is_no_way_to_ask_a_query(served: Served) -> None:
    assert served.client.head(CLASSIFY, headers={"x-api-key": "ours"}).status_code == 405


@pytest.mark.parametrize("path", [b"/health/live", b"/metrics", CLASSIFY.encode()])
def test_two_host_lines_are_refused(served: Served, path: bytes) -> None:
    with connect(served) as caller:
        caller.sendall(b"GET %b HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n" % path)

        assert caller.recv(4096).startswith(b"HTTP/1.1 400")


def test_a_page_is_allowed_to_ask_without_a_key_whether_it_may(served: Served) -> None:
    preflight = served.client.options(
        CLASSIFY,
        headers={
            "origin": "https://app.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type,x-api-key",
        },
    )
    asked = served.ask("q", **{"origin": "https://app.example", "x-api-key": "ours"})
    refused = served.ask("q", origin="https://app.example")

    assert preflight.status_code == 204
    for answer in (preflight, asked, refused):
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert (asked.status_code, refused.status_code) == (200, 401)


@pytest.mark.parametrize(
    ("path", "headers", "code"),
    [
        (CLASSIFY, {"x-api-key": "ours", "content-type": "application/json"}, 413),
        (CLASSIFY, {"content-type": "application/json"}, 401),
        (CLASSIFY, {"x-api-key": "ours", "content-type": "text/plain"}, 415),
        ("/nowhere", {}, 404),
        ("/health/live", {}, 405),
    ],
)
@pytest.mark.parametrize("chunked", [True, False])
def test_a_client_that_sends_all_before_it_reads_is_told_why_it_is_refused(
    served: Served, path: str, headers: dict[str, str], code: int, chunked: bool
) -> None:
    chunk, chunks = b"a" * 100_000, 80
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)

    body = (chunk for _ in range(chunks)) if chunked else chunk * chunks
    connection.request("POST", path, body=body, headers=headers, encode_chunked=chunked)

    assert connection.getresponse().status == code
    connection.close()


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "ours", "authorization": "Bearer eyJhbGciOiJSUzI1NiJ9.x.y"},
        {"x-api-key": "ours", "authorization": "Basic dTpw"},
        {"x-api-key": "theirs", "authorization": "Bearer ours"},
    ],
)
def test_one_right_key_is_enough_whatever_stands_beside_it(served: Served, headers: dict[str, str]) -> None:
    assert served.ask("q", **headers).status_code == 200


# SIGHUP


def test_sighup_reads_the_keys_again_and_ends_nothing(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(hashlib.sha256(b"old").hexdigest())
    with Served({"API_KEYS_FILE": str(keys)}) as served:
        keys.write_text(hashlib.sha256(b"new").hexdigest())
        served.process.send_signal(signal.SIGHUP)

        eventually(lambda: served.ask("q", **{"x-api-key": "new"}).status_code == 200, "the new key opens")
        assert served.ask("q", **{"x-api-key": "old"}).status_code == 401
        eventually(lambda: "signal" in served.events(), "it is logged")
        assert served.process.poll() is None


def test_sighup_while_it_starts_ends_nothing() -> None:
    with Served(wait_for=None) as served:
        eventually(lambda: comm(served) != "sh", "Python runs")
        eventually(lambda: ignores_hangups(served.process.pid), "it is prepared")
        served.process.send_signal(signal.SIGHUP)

        eventually(lambda: answers(served.url + "/health/ready"), "it serves")


def comm(served: Served) -> str:
    return Path(f"/proc/{served.process.pid}/comm").read_text().strip()


def ignores_hangups(pid: int) -> bool:
    """Whether SIGHUP is ignored or blocked, by the masks that the kernel shows."""
    fields = dict(
        line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    bit = 1 << (signal.SIGHUP - 1)
    return bool((int(fields["SigIgn"], 16) | int(fields["SigBlk"], 16)) & bit)


# Files on a volume that hangs keep nothing else from changing


def test_while_the_policys_volume_hangs_keys_are_followed_all_the_same(tmp_path: Path) -> None:
    policy, keys = tmp_path / "policy.toml", tmp_path / "keys"
    policy.write_text("[need]\n")
    keys.write_text(hashlib.sha256(b"old").hexdigest())
    with Served({"POLICY_FILE": str(policy), "API_KEYS_FILE": str(keys)}) as served:
        policy.unlink()
        os.mkfifo(policy)  # whoever reads it waits for ever
        keys.write_text(hashlib.sha256(b"new").hexdigest())

        eventually(lambda: served.ask("q", **{"x-api-key": "new"}).status_code == 200, "the new key opens")
        assert served.terminate() == 0


def test_a_reader_who_stalls_is_given_up(tmp_path: Path) -> None:
    line = b'{"text":"%b"}\n' % (b"word " * 10)
    with Served({"KEEP_ALIVE_SEC": "1"}) as served, socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.settimeout(0.2)
        caller.connect(("127.0.0.1", served.port))
        caller.sendall(
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n"
            b"transfer-encoding: chunked\r\n\r\n" % CLASSIFY.encode()
        )
        block = b"%x\r\n%b\r\n" % (len(line) * 100, line * 100)
        with suppress(OSError):
            for _ in range(1000):  # never reads an answer, until nothing more is taken
                caller.sendall(block)

        eventually(lambda: served.metric("query_gateway_active_requests") == 0, "nobody waits for it")
