"""The command line: what it prints, where, and with which exit code."""

import io
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from handler import __version__, server, wire
from handler.cli import main
from handler.settings import Settings, names
from lab.launch import free_port
from tests.models import TASKS, change, make_toy

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("serve", "check", "classify", "calibrate", "replay", "completion", "key", "version")
Captured = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def model(tmp_path: Path, monkeypatch: Patch) -> Path:
    """A toy model that the environment names, and no other setting."""
    for name in names():
        monkeypatch.delenv(name, raising=False)
    folder = make_toy(tmp_path / "toy")
    monkeypatch.setenv("MODEL_PATH", str(folder))
    return folder


# version and help


@pytest.mark.parametrize("argument", ["version", "--version"])
def test_version_prints_the_version(argument: str, capsys: Captured) -> None:
    with suppress(SystemExit):
        assert main([argument]) == 0

    assert capsys.readouterr().out == f"query-gateway {__version__}\n"


def test_version_needs_no_settings_that_can_be_read(capsys: Captured, monkeypatch: Patch) -> None:
    monkeypatch.setenv("PORT", "many")

    assert main(["version"]) == 0


def test_python_m_handler_is_the_same_command() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "handler", "version"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert ran.stdout == f"query-gateway {__version__}\n"


@pytest.mark.parametrize("arguments", [[], *([command] for command in COMMANDS)], ids=" ".join)
def test_every_help_names_every_setting(arguments: list[str], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])

    assert ended.value.code == 0
    first_words = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.split()}
    assert set(names()) <= first_words


def test_the_help_names_every_command(capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])

    told = capsys.readouterr().out
    assert all(f"    {command} " in told for command in COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["dance"], ["classify"], ["check", "--loudly"]], ids=" ".join)
def test_arguments_that_cannot_be_read_end_with_2(arguments: list[str], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: query-gateway")


# settings


@pytest.mark.parametrize("arguments", [["serve"], ["check"], ["classify", "hi"]], ids=" ".join)
def test_a_bad_setting_ends_with_2_and_its_name(
    arguments: list[str], capsys: Captured, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("BATCH_MAX_SIZE", "many")

    assert main(arguments) == 2

    told = capsys.readouterr()
    assert told.err.startswith("query-gateway: BATCH_MAX_SIZE='many' cannot be read: a whole number")
    assert told.out == ""


def test_a_server_says_as_a_line_of_its_log_too_which_setting_is_bad(
    capsys: Captured, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("BATCH_MAX_SIZE", "many")

    assert main(["serve"]) == 2

    line = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (line["level"], line["event"], line["error_type"]) == ("error", "settings", "SettingsError")
    assert line["message"].startswith("BATCH_MAX_SIZE='many' cannot be read")


def test_a_misspelled_setting_is_warned_about_by_name(capsys: Captured, monkeypatch: Patch) -> None:
    monkeypatch.setenv("CONFIDENCE_TRESHOLD", "0.9")

    assert main(["check"]) == 0

    assert capsys.readouterr().err == (
        "query-gateway: warning: CONFIDENCE_TRESHOLD is not a setting; did you mean CONFIDENCE_THRESHOLD?\n"
    )


# serve


def test_serve_serves_with_the_settings_of_the_environment(monkeypatch: Patch) -> None:
    served: list[Settings] = []

    def serve(settings: Settings) -> int:
        served.append(settings)
        return 7

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setenv("PORT", "9001")

    assert main(["serve"]) == 7

    assert [settings.port for settings in served] == [9001]


def test_host_and_port_on_the_command_line_go_before_the_environments(monkeypatch: Patch) -> None:
    served: list[Settings] = []
    monkeypatch.setattr(server, "serve", served.append)
    monkeypatch.setenv("PORT", "9001")
    monkeypatch.setenv("HOST", "127.0.0.1")

    main(["serve", "--port", "9002", "--host", "::1"])

    assert [(settings.host, settings.port) for settings in served] == [("::1", 9002)]


def test_a_port_on_the_command_line_that_is_none_ends_with_2_and_what_is_accepted(capsys: Captured) -> None:
    assert main(["serve", "--port", "http"]) == 2

    assert capsys.readouterr().err.startswith("query-gateway: PORT='http' cannot be read: a whole number")


def first_line_of_a_server(stdout: int) -> None:
    """Start a server that cannot listen, and so ends at once, with its log on a descriptor."""
    subprocess.run(
        [sys.executable, "-m", "handler", "serve", "--host", "203.0.113.1"],
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        timeout=60,
    )


def test_the_log_on_a_terminal_is_text_for_people() -> None:
    ours, servers = os.openpty()

    first_line_of_a_server(servers)

    os.close(servers)
    with open(ours, "rb", buffering=0) as terminal:
        assert b"Z error   cannot_listen error_type=SettingsError" in terminal.read(4096)


def test_the_log_that_is_no_terminals_is_json(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        first_line_of_a_server(log.fileno())

    line = json.loads((tmp_path / "log").read_text().splitlines()[0])
    assert (line["level"], line["event"]) == ("error", "cannot_listen")


# completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_knows_every_command_and_their_options(shell: str, capsys: Captured) -> None:
    assert main(["completion", shell]) == 0

    script = capsys.readouterr().out
    assert [word for word in (*COMMANDS, "fast-share", "all-models") if word not in script] == []


def test_bash_completes_a_command_by_its_script(capsys: Captured, tmp_path: Path) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    typed = f"source {script}; COMP_WORDS=(query-gateway cl); COMP_CWORD=1; _shtab_query_gateway; echo ${{COMPREPLY[*]}}"

    ran = subprocess.run(["bash", "-c", typed], capture_output=True, text=True, check=True)

    assert ran.stdout == "classify\n"


# check


def test_check_of_a_good_model_ends_with_0_and_says_which_it_is(model: Path, capsys: Captured) -> None:
    assert main(["check"]) == 0

    first, second, _ = capsys.readouterr().out.splitlines()
    assert first == "settings: ok"
    assert second.startswith("model: ok ")
    found = msgspec.json.decode(second.removeprefix("model: ok "))
    assert (found["path"], list(found["tasks"])) == (str(model), list(TASKS))


POLICY = """
[need]
coding = 0.5
[[tier]]
name = "small"
need_max = 0.25
[[tier]]
name = "large"
need_max = 1
"""


def test_check_shows_the_policy_that_would_be_in_force(
    tmp_path: Path, capsys: Captured, monkeypatch: Patch
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    monkeypatch.setenv("POLICY_FILE", str(path))

    assert main(["check"]) == 0

    policy = msgspec.json.decode(capsys.readouterr().out.splitlines()[2].removeprefix("policy: ok "))
    assert (policy["file"], policy["threshold"], policy["need"]["coding"]) == (str(path), 0.75, 0.5)
    assert policy["tiers"] == [{"name": "small", "need_max": 0.25}, {"name": "large", "need_max": 1.0}]


@pytest.mark.parametrize(
    ("text", "settings", "told"),
    [
        ("[need]\npoetry = 1", {}, "policy.toml:2: 'poetry' is not a task of this model"),
        ("# nothing yet", {}, "policy.toml is empty, or holds nothing but comments; accepted: "),
        ("source = 'votes'", {}, "policy.toml:1: source is 'votes'; accepted: tasks, outcomes"),
        ("source = 'outcomes'", {}, 'policy.toml:1: source = "outcomes" takes a model that has learnt'),
        (POLICY, {"CONFIDENCE_THRESHOLD": "0.7"}, "policy.toml:4: CONFIDENCE_THRESHOLD is set too"),
        ("[need]\ncoding = 1", {"ROUTE_FAST_TASKS": "coding"}, "policy.toml:1: ROUTE_FAST_TASKS is set too"),
        ("source = 'outcomes'", {"ROUTE_FAST_TASKS": "coding"}, "policy.toml:1: ROUTE_FAST_TASKS is set too"),
    ],
)
@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_policy_file_that_cannot_be_followed_ends_with_2_and_its_line(
    command: str,
    text: str,
    settings: dict[str, str],
    told: str,
    tmp_path: Path,
    monkeypatch: Patch,
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    environ = {"POLICY_FILE": str(path), "PORT": str(free_port()), **settings}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    ran = subprocess.run(
        [sys.executable, "-m", "handler", command], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert ran.returncode == 2
    assert f"POLICY_FILE: {tmp_path}/{told}" in (ran.stdout + ran.stderr).replace('\\"', '"')


def test_check_warns_of_new_easy_tasks_that_an_old_list_keeps_slow(
    model: Path, capsys: Captured, monkeypatch: Patch
) -> None:
    change(model, policy=dict.fromkeys(TASKS, "fast"))
    monkeypatch.setattr("handler.policy.FIRST_TASKS", frozenset(TASKS) - {"coding", "reasoning"})
    monkeypatch.setenv("ROUTE_FAST_TASKS", "summarization,closed_qa")

    assert main(["check"]) == 0

    warning = capsys.readouterr().err
    assert warning.startswith("query-gateway: warning: ROUTE_FAST_TASKS names tasks of the first edition")
    assert warning.endswith(": coding, reasoning\n")


def test_check_of_a_bad_model_ends_with_1_and_says_why(model: Path, capsys: Captured) -> None:
    change(model, format=99)

    assert main(["check"]) == 1

    told = capsys.readouterr()
    assert told.err.startswith(
        f"query-gateway: the model cannot be served: {model / 'manifest.json'} has format 99"
    )
    assert "ok" not in told.out


def test_check_without_a_model_says_what_it_looked_for_and_where(
    tmp_path: Path, capsys: Captured, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("MODEL_PATH", str(tmp_path / "nowhere"))

    assert main(["check"]) == 1

    assert f"Model file not found: {tmp_path / 'nowhere' / 'manifest.json'}" in capsys.readouterr().err


# classify


def test_classify_prints_a_line_for_every_text(capsys: Captured) -> None:
    assert main(["classify", "summarization please", "coding"]) == 0

    assert capsys.readouterr().out == "0\tfast\tsummarization\t0.9997\n1\tslow\tcoding\t1.0000\n"


def test_classify_json_prints_what_the_server_would_send(capsys: Captured) -> None:
    assert main(["classify", "--json", "coding"]) == 0

    assert capsys.readouterr().out == '{"label":"1","route":"slow","task":"coding","confidence":1.0}\n'


def test_classify_follows_the_threshold(capsys: Captured, monkeypatch: Patch) -> None:
    monkeypatch.setenv("CONFIDENCE_THRESHOLD", "1")

    assert main(["classify", "--json", "summarization please do it for me"]) == 0

    answer = msgspec.json.decode(capsys.readouterr().out, type=wire.ClassifyAnswer)
    assert (answer.label, answer.task, answer.reason) == ("1", "summarization", "low_confidence")


def test_classify_follows_the_operators_policy(capsys: Captured, monkeypatch: Patch) -> None:
    monkeypatch.setenv("ROUTE_FAST_TASKS", "coding")

    assert main(["classify", "coding", "summarization"]) == 0

    labels = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert labels == ["0", "1"]


@pytest.mark.parametrize("arguments", [["check"], ["classify", "hi"]], ids=" ".join)
def test_a_policy_with_a_task_that_the_model_does_not_know_ends_with_2_and_its_name(
    arguments: list[str], capsys: Captured, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("ROUTE_FAST_TASKS", "coding,poetry")

    assert main(arguments) == 2

    assert capsys.readouterr().err.startswith("query-gateway: ROUTE_FAST_TASKS: poetry: not a task")


def test_classify_reads_standard_input_a_query_a_line(capsys: Captured, monkeypatch: Patch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("coding\n\n  \nclosed_qa\n"))

    assert main(["classify", "-"]) == 0

    tasks = [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()]
    assert tasks == ["coding", "closed_qa"]


def test_classify_reads_a_file_a_query_a_line(tmp_path: Path, capsys: Captured) -> None:
    queries = tmp_path / "queries.txt"
    queries.write_text("coding\nbrainstorming — größer", encoding="utf-8")

    assert main(["classify", f"@{queries}"]) == 0

    tasks = [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()]
    assert tasks == ["coding", "brainstorming"]


def test_classify_reads_standard_input_whole_as_one_query(capsys: Captured, monkeypatch: Patch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("summarization\n\nof this:\ncoding\n"))

    assert main(["classify", "--whole", "-"]) == 0

    assert len(capsys.readouterr().out.splitlines()) == 1


def test_classify_reads_each_file_whole_as_one_query(tmp_path: Path, capsys: Captured) -> None:
    for name, text in {"first": "coding\nplease\n", "second": "closed_qa\nplease"}.items():
        (tmp_path / name).write_text(text)

    assert main(["classify", "--whole", f"@{tmp_path / 'first'}", f"@{tmp_path / 'second'}"]) == 0

    tasks = [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()]
    assert tasks == ["coding", "closed_qa"]


def test_a_query_of_many_lines_is_answered_as_the_same_text_in_one_argument(
    capsys: Captured, monkeypatch: Patch
) -> None:
    text = "coding\n\n  indented\nclosed_qa"
    monkeypatch.setattr(sys, "stdin", io.StringIO(text + "\n"))

    assert main(["classify", "--json", "--whole", "-", text]) == 0

    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_classify_of_a_missing_file_ends_with_1_and_its_name(tmp_path: Path, capsys: Captured) -> None:
    assert main(["classify", f"@{tmp_path / 'nowhere.txt'}"]) == 1

    assert "nowhere.txt" in capsys.readouterr().err


def test_classify_takes_what_a_file_holds_outside_utf_8(tmp_path: Path, capsys: Captured) -> None:
    queries = tmp_path / "queries.txt"
    queries.write_bytes(b"coding\nclosed_qa \xff\n")

    assert main(["classify", f"@{queries}"]) == 0

    tasks = [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()]
    assert tasks == ["coding", "closed_qa"]


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_classify_takes_what_standard_input_holds_outside_utf_8(
    errors: str, capsys: Captured, monkeypatch: Patch
) -> None:
    content = io.BytesIO(b"coding\nclosed_qa \xff\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(content, encoding="utf-8", errors=errors))

    assert main(["classify", "-"]) == 0

    tasks = [line.split("\t")[2] for line in capsys.readouterr().out.splitlines()]
    assert tasks == ["coding", "closed_qa"]


def test_classify_takes_what_a_shell_passed_outside_utf_8(capsys: Captured) -> None:
    assert main(["classify", "coding \udcff"]) == 0

    assert capsys.readouterr().out.startswith("1\tslow\tcoding")


def test_classify_of_an_empty_text_ends_with_2_and_says_so(capsys: Captured) -> None:
    assert main(["classify", ""]) == 2

    assert capsys.readouterr().err == "query-gateway: text is empty; accepted: a string that is not empty\n"


def test_classify_with_a_bad_model_ends_with_1(model: Path, capsys: Captured) -> None:
    (model / "model.onnx").unlink()

    assert main(["classify", "coding"]) == 1

    assert capsys.readouterr().err == f"query-gateway: Model file not found: {model / 'model.onnx'}\n"
