"""The command line against a node whose kernel is a stand-in: what people see, and what scripts get."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml

import skerry as sdk
from skerry import __main__ as command_line
from skerry.cli import output


def test_run_ends_as_the_program_ends(skerry):
    """Output goes where it belongs, the exit code is the program's, the sandbox stays."""
    assert skerry("run", "--name", "a", "busybox:latest", "hello") == (0, "hello\n", "oops\n")
    assert skerry("run", "--name", "b", "busybox:latest", "fail") == (37, "bad\n", "")
    assert skerry("ps", "-q") == (0, "", "")
    assert skerry("ps", "-aq") == (0, "a\nb\n", "")
    assert skerry("logs", "a") == (0, "hello\n", "oops\n")
    assert skerry("wait", "b") == (0, "37\n", "")


def test_run_rm_leaves_nothing(skerry, agent):
    """Not the object, not its manifest, not its records."""
    assert skerry("run", "--rm", "busybox:latest", "fail")[0] == 37
    assert skerry("ps", "-aq")[1] == ""
    assert os.listdir(f"{agent.path}/manifests") == []
    assert os.listdir(f"{agent.path}/status/.records") == []


def test_what_cannot_start_says_why_and_leaves_nothing(skerry):
    """127 as in docker, the reason with the field, and the name is free again."""
    for mode in ((), ("-d",)):
        code, out, err = skerry("run", *mode, "--name", "a", "busybox:latest", "missing")
        assert (code, out) == (127, "")
        assert "CommandNotFound: spec.command" in err
        skerry("wait", "--for", "deleted", "a")
    assert skerry("ps", "-aq")[1] == ""


def test_a_life_detached(skerry):
    """Run -d, ps, stop, start, rm."""
    assert skerry("run", "-d", "--name", "web", "-m", "64m", "--cpus", "0.5", "busybox:latest", "sleep")[:2] == (
        0,
        "web\n",
    )
    _, out, _ = skerry("ps")
    header, row = (line.split() for line in out.splitlines())
    assert header == ["NAME", "PHASE", "IMAGE", "ADDRESS", "AGE", "PORTS"]
    assert row[:4] == ["web", "Running", "busybox:latest", "-"]
    code, _, err = skerry("rm", "web")
    assert code == 125
    assert "skerry stop web" in err
    assert skerry("stop", "-t", "3", "web") == (0, "web\n", "")
    (found,) = json.loads(skerry("ps", "-a", "-o", "json")[1])["items"]
    assert found["spec"]["terminationGracePeriodSeconds"] == 3
    assert found["spec"]["resources"]["limits"] == {"cpu": "500m", "memory": "64Mi"}
    assert skerry("ps", "-q")[1] == ""
    assert skerry("start", "web") == (0, "web\n", "")
    assert skerry("ps", "-q")[1] == "web\n"
    assert skerry("rm", "-f", "web") == (0, "web\n", "")
    assert skerry("ps", "-aq")[1] == ""


def test_outputs(skerry):
    """Tables line up; JSON and YAML are whole; wide says more; names are kubectl's."""
    skerry("-n", "team", "run", "--name", "a-long-name", "busybox:latest", "fail")
    skerry("run", "--name", "b", "busybox:latest", "hello")
    lines = skerry("ps", "-a", "-o", "wide")[1].splitlines()
    assert lines[0].split()[:3] == ["NAMESPACE", "NAME", "PHASE"]
    column = lines[0].index("IMAGE")
    assert [line[column:].split()[0] for line in lines[1:]] == ["busybox:latest"] * 2
    assert {"3", "ms", "Error", "37"} <= set(lines[2].split())
    assert yaml.safe_load(skerry("ps", "-a", "-o", "yaml")[1])["kind"] == "List"
    assert skerry("ps", "-a", "-o", "name", "-n", "team")[1] == "sandbox.skerry.dev/a-long-name\n"
    assert skerry("ps", "-aq")[1] == "b\nteam/a-long-name\n"
    assert json.loads(skerry("inspect", "team/a-long-name")[1])["node"] == {"layers": [], "name": "a-long-name"}
    assert len(yaml.safe_load(skerry("inspect", "-o", "yaml", "b", "team/a-long-name")[1])) == 2
    assert skerry("rm", "b", "team/a-long-name")[0] == 0


def test_logs_options(skerry):
    """Tail, timestamps, one stream, since."""
    skerry("run", "--name", "a", "busybox:latest", "hello")
    assert skerry("logs", "--tail", "1", "a")[1:] == ("", "oops\n")
    assert skerry("logs", "--stream", "stdout", "-f", "a")[1:] == ("hello\n", "")
    code, out, _ = skerry("logs", "-t", "--stream", "stdout", "--since", "1h", "a")
    assert (code, out.split()[1], out.split()[0][-1]) == (0, "hello", "Z")
    assert skerry("logs", "--tail", "x", "a")[0] == 2
    code, _, err = skerry("logs", "--since", "noon", "a")
    assert code == 2
    assert "--since" in err


def test_binary_output_is_not_touched(skerry):
    """Bytes in, bytes out."""
    assert skerry("run", "--rm", "busybox:latest", "binary")[1].encode(errors="surrogateescape") == b"\x00\xff" * 100_000


def test_pull(skerry, agent, tmp_path):
    """The image at last, in every form; the registry's words when there is none; a config is read here and sent along."""
    digest = "sha256:" + "ef" * 32
    assert skerry("image", "pull", "x:1") == (0, f"x:1   {digest}\n", "")
    assert json.loads(skerry("image", "pull", "-o", "json", "x:1")[1])["digest"] == digest
    assert skerry("image", "pull", "-o", "name", "x:1")[1] == "x:1\n"
    code, out, err = skerry("image", "pull", "wrong:1")
    assert (code, out) == (125, "")
    assert "the registry answers 401: UNAUTHORIZED" in err
    (tmp_path / "config.json").write_text("right")
    assert skerry("image", "pull", "--auth-file", str(tmp_path / "config.json"), "wrong:1")[0] == 0
    assert "cannot be read" in skerry("image", "pull", "--auth-file", "/does/not/exist", "x:1")[2]
    looks = list(sdk.Client(agent.socket).pull_image("x:1"))
    assert [sorted(look) for look in looks] == [["progress"], ["image"]]


def test_a_terminal_gets_bars(skerry, monkeypatch):
    """On a terminal each layer has its bar, on stderr; what a pipe reads stays clean."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    code, out, err = skerry("image", "pull", "x:1")
    assert (code, out) == (0, f"x:1   sha256:{'ef' * 32}\n")
    assert "efefefefefef" in err


def test_images(skerry, tmp_path):
    """Import, ls, rm."""
    assert skerry("image", "import", str(tmp_path), "mine:1")[:2] == (0, f"mine:1   sha256:{'cd' * 32}\n")
    lines = skerry("image", "ls")[1].splitlines()
    assert lines[0].split() == ["REFERENCE", "DIGEST", "LAYERS", "SIZE", "AGE"]
    assert lines[1].split()[:5] == ["busybox:latest", "ab" * 6, "2", "4.1", "MiB"]
    assert json.loads(skerry("image", "ls", "-o", "json")[1])["items"][1]["reference"] == "mine:1"
    assert skerry("image", "rm", "mine:1") == (0, "mine:1\n", "")
    assert skerry("image", "rm", "mine:1")[0] == 125
    assert "no such file" in skerry("image", "import", "/does/not/exist")[2]


def test_version_and_info(skerry):
    """Of both sides."""
    assert json.loads(skerry("version", "-o", "json")[1])["agent"] == "1.2.3"
    assert "cgroup=2" in skerry("info")[1]
    assert json.loads(skerry("info", "-o", "json")[1])["mode"] == "standalone"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        pytest.param(["--help"], 0, "Usage", id="all is well"),
        pytest.param(["run", "--help"], 0, "--pids-limit", id="help of a command"),
        pytest.param(["run", "--memory", "lots", "busybox"], 2, "64m", id="a size that is none"),
        pytest.param(["run", "--cpus", "many", "busybox"], 2, "0.5", id="a number that is none"),
        pytest.param(["run", "--network", "mesh", "busybox"], 2, "bridge, none, host", id="unknown network"),
        pytest.param(["run", "--restart", "maybe", "busybox"], 2, "on-failure", id="unknown restart policy"),
        pytest.param(["run", "-e", "=x", "busybox"], 2, "NAME=VALUE", id="variable without a name"),
        pytest.param(["run", "--colour", "busybox"], 2, "No such option", id="unknown option"),
        pytest.param(["run", "--name", "Bad_Name", "busybox:latest"], 125, "metadata.name", id="the agent refuses"),
        pytest.param(["run", "-w", "tmp", "busybox:latest"], 125, "spec.workingDir", id="the field is named"),
        pytest.param(["inspect", "none"], 125, "skerry ps -a", id="no such sandbox"),
        pytest.param(["stop", "none", "none2"], 125, "none2", id="each of several is named"),
        pytest.param(["wait", "--for", "rain", "x"], 2, "finished, ready or deleted", id="unknown condition"),
        pytest.param(["--socket", "/no/where", "ps"], 125, "skerry-agent --standalone", id="no agent"),
        pytest.param(["ps", "--socket", "/no/where"], 125, "skerry-agent --standalone", id="no agent, other place"),
    ],
)
def test_errors_say_the_next_step(skerry, arguments, code, text):
    """2 for wrong usage, 125 for our own failure, and a text that helps."""
    found, out, err = skerry(*arguments)
    assert (found, text in out + err) == (code, True), out + err


def test_a_taken_name_is_named(skerry):
    """The second run of a name says so and harms nothing."""
    skerry("run", "-d", "--name", "a", "busybox:latest", "sleep")
    code, _, err = skerry("run", "--name", "a", "busybox:latest", "hello")
    assert code == 125
    assert "exists" in err
    assert skerry("ps", "-q")[1] == "a\n"


def start_process(agent, *arguments: str):
    environment = {**os.environ, "SKERRY_SOCKET": agent.socket, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", "skerry", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_sandbox_and_its_exit_code_is_ours(agent, number):
    """Ctrl-C reaches the program as a stop."""
    process = start_process(agent, "run", "--name", "a", "--rm", "busybox:latest", "sleep")
    assert process.stdout.readline() == b"asleep\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=180)
    assert (process.returncode, err) == (143, b"")
    assert sdk.Client(agent.socket).list() == ()


@pytest.mark.thorough
def test_a_start_that_takes_long_says_why_and_can_be_given_up(agent):
    """The reason is printed once, and Ctrl-C ends the wait."""
    process = start_process(agent, "run", "--name", "a", "--rm", "busybox:latest", "stuck")
    assert b"no address is free" in process.stderr.readline()
    client = sdk.Client(agent.socket)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=180)
    assert b"stopped before it had started" in err
    assert process.returncode == 125
    assert client.list() == ()


@pytest.mark.thorough
def test_a_run_outlives_its_agent(agent):
    """The agent is replaced under a run in the foreground: no output twice, and the exit code arrives."""
    process = start_process(agent, "run", "--name", "a", "busybox:latest", "sleep")
    assert process.stdout.readline() == b"asleep\n"
    agent.stop()
    time.sleep(0.3)
    agent.start()
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=180)[0] == b""
    assert process.returncode == 143


def test_a_closed_pipe_ends_quietly(agent):
    """`skerry logs | head` shows no traceback."""
    client = sdk.Client(agent.socket)
    client.create({"metadata": {"name": "a"}, "spec": {"image": "busybox:latest", "args": ["binary"]}})
    client.wait("a")
    process = start_process(agent, "logs", "a")
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(20) == 141


def test_a_closed_pipe_stops_what_runs_for_it(agent):
    """`skerry run --rm ... | head` ends the sandbox too."""
    process = start_process(agent, "run", "--rm", "busybox:latest", "chatty")
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(20) == 143
    assert sdk.Client(agent.socket).list() == ()


def test_nothing_of_a_sandbox_steers_the_terminal(capsys):
    """Control characters are spelled out in tables and messages."""
    output.print_table(["A"], [["x\x1b[2J\ny"]])
    assert capsys.readouterr().out == "A\nx\\x1b[2J\\ny\n"


def test_colours_only_on_a_terminal(monkeypatch, capsys):
    """A pipe gets plain text, a terminal colours, NO_COLOR wins."""
    output.print_table(["PHASE"], [["Running"]])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    output.print_table(["PHASE"], [["Running"]])
    monkeypatch.setenv("NO_COLOR", "1")
    output.print_table(["PHASE"], [["Running"]])
    plain = "PHASE\nRunning\n"
    assert capsys.readouterr().out == f"{plain}PHASE\n\x1b[32mRunning\x1b[0m\n{plain}"


def test_the_kubectl_plugin_knows_its_name(capfd):
    """Help says what to type."""
    assert command_line.run(["/usr/bin/kubectl-skerry", "--help"]) == 0
    assert "Usage: kubectl skerry" in capfd.readouterr().out


def test_the_sdk(agent):
    """The docstring's example, and waiting, following and refusing."""
    client = sdk.Client(agent.socket)
    created = client.create({"metadata": {"name": "a"}, "spec": {"image": "busybox:latest", "args": ["sleep"]}})
    assert created.spec.image == "busybox:latest"
    assert client.wait("a", condition="Ready", timeout_seconds=5).status.phase == "Running"
    pieces = []
    thread = threading.Thread(target=lambda: pieces.extend(client.logs("a", follow=True)))
    thread.start()
    client.stop("a", grace_seconds=1)
    thread.join(10)
    assert pieces == [sdk.LogPiece("stdout", b"asleep\n")]
    assert client.wait("a").status.termination.exit_code == 143
    client.start("a")
    assert client.wait("a", condition="Ready").metadata.generation == 3
    with pytest.raises(sdk.Refused) as refused:
        client.wait("a", timeout_seconds=0.01)
    assert refused.value.status == 408
    client.delete("a")
    with pytest.raises(sdk.Refused):
        client.get("a")
    with pytest.raises(sdk.AgentUnavailable):
        sdk.Client("/no/where").list()
