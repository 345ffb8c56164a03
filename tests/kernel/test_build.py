"""Builds on the real kernel: RUN in sandboxes of ours, through the command line, to images that run at once."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.harness import clibuilds, standalone


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A node with busybox on it, shared: every build here has a name of its own."""
    directory = str(tmp_path_factory.mktemp("node"))
    with standalone.running_busybox(directory, tag="b0", flags=("--shells=0",)) as agent:
        yield agent


def test_a_built_image_runs_at_once(node, tmp_path):
    """COPY, RUN as another user, ENV and CMD: built through the command line, then run."""
    dockerfile = """
        FROM busybox
        ENV greeting=hello
        WORKDIR /app
        COPY --chown=alice who .
        USER alice
        RUN id -un > /tmp/who && echo "$greeting $(cat who)"
        CMD ["sh", "-c", "echo $greeting $(cat who) $(cat /tmp/who); stat -c %U /app/who /tmp/who"]
    """
    context = clibuilds.write(tmp_path, {"Dockerfile": dockerfile, "who": "world"})
    done = clibuilds.build(node, context, "-t", "app:1")
    assert done.returncode == 0, done.stderr
    assert "hello world\n" in done.stderr
    with node.sandbox("app", image="app:1"):
        node.wait_end("app")
        assert node.output("app") == "hello world alice\nalice\nalice\n"


@pytest.mark.host("the builder's words and its cache do not depend on the kernel")
def test_a_failing_run_ends_the_build_with_its_code(node, tmp_path):
    """The program's exit code is ours, the line is named, no image appears, and what was done before is in the cache."""
    context = clibuilds.write(tmp_path, {"Dockerfile": "FROM busybox\nRUN echo first > /first\nRUN echo gone wrong >&2; exit 37\n"})
    done = clibuilds.build(node, context, "-t", "failing:1")
    assert done.returncode == 37
    assert "gone wrong" in done.stderr
    assert "Dockerfile line 3" in done.stderr
    assert not [image for image in node.client.images() if "failing" in image["reference"]]
    again = clibuilds.build(node, context, "-t", "failing:1")
    assert again.stderr.count("--> cached") == 1


@pytest.mark.host("the builder's words do not depend on the kernel")
@pytest.mark.parametrize(
    ("dockerfile", "code", "words"),
    [
        pytest.param("FROM busybox\nRUNN x", 125, "line 2: unknown instruction RUNN; did you mean RUN", id="an unknown instruction"),
        pytest.param("FROM busybox\nRUN sh -c 'kill -9 $$'; exit $?", 137, "ended with exit code 137", id="killed"),
        pytest.param('FROM busybox\nRUN ["nope"]', 125, "no program 'nope'", id="no such program"),
        pytest.param("FROM localhost/nope:1", 125, "line 1: no image 'localhost/nope:1' here", id="no such image"),
        pytest.param("FROM busybox\nUSER nobody-here\nRUN true", 125, "nobody-here", id="no such user"),
        pytest.param("FROM busybox\nRUN --mount=type=secret,id=x true", 125, "line 2: RUN --mount is refused", id="a mount"),
    ],
)
def test_what_fails_says_why(node, tmp_path, dockerfile, code, words):
    """Every failure has a code, a line and a reason."""
    done = clibuilds.build(node, clibuilds.write(tmp_path, {"Dockerfile": dockerfile}), "-q")
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr


def test_run_is_confined_as_a_sandbox_is(node, tmp_path):
    """The same ids, rights and filter as any sandbox; no network but the loopback; no limit of the host's."""
    probe = "grep -E '^(NoNewPrivs|Seccomp|CapBnd|CapInh|CapAmb):' /proc/self/status; cat /proc/self/uid_map; ls /sys/class/net"
    script = f"({probe}) > /seen; mount -t tmpfs x /tmp && echo mounted > /seen; mknod /n c 1 1 && echo made > /seen; cat /seen"
    done = clibuilds.build(node, clibuilds.write(tmp_path, {"Dockerfile": f"FROM busybox\nRUN {script}"}), "-t", "probe:1")
    assert done.returncode == 0, done.stderr
    with node.sandbox("probe", "sh", "-c", f"({probe}) > /mine; cat /seen /mine", image="probe:1", network={"mode": "None"}):
        node.wait_end("probe")
        lines = node.output("probe").splitlines()
    seen, mine = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    assert seen[:5] == mine[:5]
    assert {"NoNewPrivs:\t1", "Seccomp:\t2", "CapInh:\t" + "0" * 16} <= set(seen)
    assert (seen[5].split()[0], seen[5].split()[2], seen[6:]) == ("0", "65536", ["lo"])
    assert int(seen[5].split()[1]) >= 65_536


def test_network_on_demand(node, tmp_path):
    """A network where it is asked for, for the whole build or one RUN."""
    probe = "ls /sys/class/net | wc -l"
    context = clibuilds.write(tmp_path, {"Dockerfile": f"FROM busybox\nRUN {probe}\nRUN --network=default {probe}\n"})
    assert "\n1\n" in (first := clibuilds.build(node, context, "--no-cache")).stderr
    assert "\n2\n" in first.stderr
    second = clibuilds.build(node, context, "--no-cache", "--network", "default")
    assert "\n1\n" not in second.stderr
    assert second.stderr.count("\n2\n") == 2


@pytest.mark.host("the bytes of a layer do not depend on the kernel")
def test_two_builds_one_digest(node, tmp_path):
    """With SOURCE_DATE_EPOCH, RUN included, without the cache."""
    dockerfile = "FROM busybox\nWORKDIR /w\nCOPY a b\nRUN mkdir d && echo x > d/f && ln d/f d/g && rm /etc/lower-file\nRUN chown 5:6 d/f && touch b\n"
    context = clibuilds.write(tmp_path, {"Dockerfile": dockerfile, "a": "a"})
    found = [clibuilds.build(node, context, "-q", "--no-cache", environment={"SOURCE_DATE_EPOCH": "1600000000"}) for _ in range(2)]
    assert [done.returncode for done in found] == [0, 0]
    assert found[0].stdout == found[1].stdout
    assert clibuilds.build(node, context, "-q", "--no-cache").stdout != found[0].stdout


@pytest.mark.host("what is recorded does not depend on the kernel")
def test_no_argument_is_told(node, tmp_path):
    """A build argument stands in no config, no history, no log and no record, unless a RUN writes it down."""
    secret = "s3cr3t-" + os.urandom(8).hex()
    context = clibuilds.write(tmp_path, {"Dockerfile": 'FROM busybox\nARG token\nRUN test -n "$token" && echo used\nRUN echo $http_proxy | wc -c\n'})
    done = clibuilds.build(node, context, "-t", "secret:1", "--build-arg", f"token={secret}", "--build-arg", f"http_proxy=http://{secret}")
    assert "\nused\n" in done.stderr
    grep = ["grep", "-r", "-l", "--exclude=scratch.img", secret, node.place.state_dir, node.place.run_dir, node.log_path]
    found = subprocess.run(grep, check=False, capture_output=True)
    assert (found.returncode, found.stdout) == (1, b"")


@pytest.mark.host("a connection that ends does not depend on the kernel")
def test_a_client_that_goes_takes_its_build_along(node, tmp_path):
    """The sandbox of a RUN is gone soon after its client, and the ledger says that nothing stayed."""
    context = clibuilds.write(tmp_path, {"Dockerfile": "FROM busybox\nRUN echo started; sleep 1000\n"})
    with clibuilds.start(node, context) as client:
        clibuilds.wait_for_line(client.stderr, b"started\n")
        assert clibuilds.guests(node)
        client.kill()
        clibuilds.wait_until(lambda: not clibuilds.guests(node))
