"""The command line against a cluster: the same commands as on one machine, through the real API server and the gateway."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.harness import tmux
from tests.harness.agents import python_environment
from tests.harness.cluster import Cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster.start(str(tmp_path_factory.mktemp("cli")), tag="cl", agents=2, agent_flags=["--shells=0"]) as running:
        yield running


@pytest.fixture
def skerry(cluster):
    """Runs one command as a person with KUBECONFIG would, and removes every sandbox afterwards."""

    def run(*words: str, check: int = 0, env=None, typed=None):
        environment = {**python_environment(), "KUBECONFIG": cluster.plane.kubeconfig, **(env or {})}
        environment.pop("SKERRY_SOCKET", None)
        source = {"input": typed} if typed is not None else {"stdin": subprocess.DEVNULL}
        command = [sys.executable, "-m", "skerry", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300, **source)
        assert done.returncode == check, (words, done.returncode, done.stdout, done.stderr)
        return done

    yield run
    run("node", "uncordon", *(agent.name for agent in cluster.agents))
    if names := run("ps", "-aqA").stdout.split():
        run("rm", "-f", *names)


def test_run_is_the_program(skerry):
    """Both outputs come apart, the exit code is the program's, --rm leaves nothing."""
    done = skerry("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 37", check=37)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert skerry("ps", "-aq").stdout == ""


def test_a_life_from_run_to_rm(skerry):
    """Run, look, exec with the program's exit code, stop, start, restart, kill, rm: each does what it does on one machine."""
    assert skerry("run", "-d", "--name", "web", "-l", "app=web", "busybox", "sh", "-c", "echo tick; exec sleep 100000").stdout == "web\n"
    assert skerry("ps", "-q", "--filter", "label=app=web", "--filter", "status=running").stdout == "web\n"
    assert skerry("ps", "-q", "--filter", "label=app=db").stdout == ""
    assert skerry("logs", "web").stdout == "tick\n"
    done = skerry("exec", "-i", "web", "sh", "-c", 'read x; echo "$x;&="; exit 3', check=3, typed="a b\n")
    assert done.stdout == "a b;&=\n"
    skerry("stop", "-t", "0", "web")
    assert skerry("ps", "-q").stdout == ""
    skerry("start", "web")
    skerry("restart", "-t", "0", "web")
    assert [row["reason"] for row in json.loads(skerry("events", "web", "-o", "json").stdout)["items"]].count("Stopped") >= 1
    assert "it runs" in skerry("rm", "web", check=125).stderr
    skerry("kill", "web")
    assert skerry("wait", "web").stdout == "137\n"
    found = json.loads(skerry("inspect", "web").stdout)
    assert found["status"]["termination"]["signal"] == "SIGKILL"
    assert "managedFields" not in found["metadata"]
    skerry("rm", "web")
    assert skerry("ps", "-aq").stdout == ""


def test_namespaces_are_kubectls(skerry, cluster):
    """-n and NAMESPACE/NAME choose, -A shows all, and a context's namespace is the default."""
    cluster.plane.kubectl("create", "namespace", "other")
    skerry("run", "-d", "--name", "here", "busybox", "sleep", "1000")
    skerry("-n", "other", "run", "-d", "--name", "there", "busybox", "sleep", "1000")
    assert skerry("ps", "-q").stdout == "here\n"
    assert skerry("ps", "-qA").stdout.split() == ["here", "other/there"]
    assert skerry("exec", "other/there", "hostname").stdout == "there\n"
    with open(cluster.plane.kubeconfig, encoding="utf-8") as file:
        config = json.load(file)
    config["contexts"].append({"name": "otherwise", "context": {**config["contexts"][0]["context"], "namespace": "other"}})
    path = os.path.join(cluster.directory, "two-contexts")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file)
    assert skerry("ps", "-q", "--context", "otherwise", "--kubeconfig", path).stdout == "there\n"
    assert "no context 'nope'; there is: otherwise, skerry" in skerry("--kubeconfig", path, "ps", "--context", "nope", check=125).stderr


def test_following_goes_on_to_the_end(skerry):
    """Run follows a program that takes longer than its start, and logs -f ends with it."""
    script = "i=0; while [ $i -lt 200 ]; do echo $i; i=$((i+1)); done; sleep 1; echo end"
    lines = skerry("run", "--name", "count", "busybox", "sh", "-c", script).stdout.split()
    assert lines == [*map(str, range(200)), "end"]
    assert skerry("logs", "-f", "--tail", "1", "count").stdout == "end\n"


def test_a_node_is_drained_and_its_sandboxes_move(skerry, cluster):
    """Nothing is removed unasked; --move makes each again, and the other node takes it; --force removes."""
    first, second = (agent.name for agent in cluster.agents)
    skerry("node", "cordon", second)
    skerry("run", "-d", "--name", "mover", "-l", "a=b", "busybox", "sleep", "1000")
    assert "1 sandboxes would be gone for good: default/mover" in skerry("node", "drain", first, check=125).stderr
    assert skerry("ps", "-q").stdout == "mover\n"
    assert "Ready,Cordoned" in skerry("nodes").stdout
    skerry("node", "uncordon", second)
    assert skerry("node", "drain", "--move", first).stdout == "default/mover moved\n"
    skerry("wait", "--for", "ready", "--timeout", "60", "mover")
    assert json.loads(skerry("ps", "-o", "json", "--filter", "label=a=b").stdout)["items"][0]["spec"]["nodeName"] == second
    assert skerry("node", "drain", "--force", second).stdout == "default/mover removed\n"


def test_what_is_refused_says_what_to_do(skerry):
    """Rename, images, a missing sandbox, an unreachable cluster: a sentence, a next step, 125."""
    assert "run a new one" in skerry("rename", "a", "b", check=125).stderr
    assert "skerry --local image" in skerry("image", "ls", check=125).stderr
    assert 'nobody" not found' in skerry("logs", "nobody", check=125).stderr
    away = {"apiVersion": "v1", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c"}}]}
    away["clusters"] = [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}]
    path = f"/tmp/skerry-test-{os.getpid()}.json"
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(away, file)
        assert "kubectl config current-context" in skerry("ps", check=125, env={"KUBECONFIG": path}).stderr
    finally:
        os.unlink(path)


def test_cp_goes_both_ways(skerry, tmp_path):
    """A tree with a link, a mode and a hole goes in and comes back the same, through API server and gateway."""
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "data").write_bytes(os.urandom(3 << 20))
    (tree / "inner" / "data").chmod(0o640)
    (tree / "link").symlink_to("inner/data")
    with (tree / "sparse").open("wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"in the middle")
    skerry("run", "-d", "--name", "box", "busybox", "sleep", "1000")
    skerry("cp", str(tree), "box:/tmp/tree")
    skerry("cp", "box:/tmp/tree", str(tmp_path / "back"))
    done = subprocess.run(["diff", "-r", "--no-dereference", str(tree), str(tmp_path / "back")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "back" / "inner" / "data").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "back" / "sparse").stat().st_blocks * 512 < 8 << 20


def test_a_terminal_through_the_api_server(skerry, cluster, tmp_path):
    """Exec -it under tmux: an editor draws, and draws anew after a resize; Ctrl-C interrupts what runs inside; the exit code is 37."""
    skerry("run", "-d", "--name", "shell", "busybox", "sleep", "1000")
    environment = {**python_environment(), "KUBECONFIG": cluster.plane.kubeconfig}
    command = [sys.executable, "-m", "skerry", "exec", "-it", "shell", "sh"]
    with tmux.running(str(tmp_path), *command, environment=environment, columns=97, rows=31) as terminal:
        terminal.see(lambda lines: any(line.endswith("#") for line in lines))
        terminal.press("stty size", "Enter")
        terminal.see(lambda lines: "31 97" in lines)
        terminal.press("vi /tmp/file", "Enter")
        terminal.see(lambda lines: lines[29] == "~" and "/tmp/file" in lines[30])
        terminal.press("i", "hello from vi", "Escape")
        terminal.see(lambda lines: lines[0] == "hello from vi")
        terminal.resize(120, 40)
        terminal.see(lambda lines: lines[0] == "hello from vi" and lines[38] == "~" and "/tmp/file" in lines[39])
        terminal.press(":wq", "Enter")
        terminal.see(lambda lines: any(line.endswith("#") for line in lines))
        terminal.press("clear; stty size; cat /tmp/file", "Enter")
        terminal.see(lambda lines: "40 120" in lines and "hello from vi" in lines)
        terminal.press("""clear; sh -c 'trap "echo interrupted; exit 5" INT; echo re"ady"; while :; do sleep 0.1; done'; echo code $?""", "Enter")
        terminal.see(lambda lines: "ready" in lines)
        terminal.press("C-c")
        terminal.see(lambda lines: "code 5" in lines and any(line.endswith("interrupted") for line in lines))
        terminal.press("exit 37", "Enter")
        terminal.see(lambda lines: "ended-37" in lines)
