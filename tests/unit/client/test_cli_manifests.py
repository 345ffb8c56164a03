"""From docker's words to a manifest that the API takes."""

import re

import pytest

from skerry.cli import manifests
from skerry_api import sandbox as api

ENVIRONMENT = {"HOME": "/root"}


@pytest.mark.parametrize(
    ("change", "spec"),
    [
        pytest.param({}, {}, id="all is well: nothing is said that was not asked"),
        pytest.param({"arguments": ["sh", "-c", "a"]}, {"args": ["sh", "-c", "a"]}, id="arguments replace CMD"),
        pytest.param({"entrypoint": "/bin/x"}, {"command": ["/bin/x"]}, id="entry point"),
        pytest.param(
            {"env": ["A=1=2", "B=", "HOME", "NOT_SET", "A=3"]},
            {
                "env": [
                    {"name": "A", "value": "3"},
                    {"name": "B", "value": ""},
                    {"name": "HOME", "value": "/root"},
                ]
            },
            id="environment: the last one counts, the unset is left out",
        ),
        pytest.param({"memory": "64m"}, {"resources": {"limits": {"memory": "64Mi"}}}, id="docker's m is binary"),
        pytest.param({"memory": "1.5g"}, {"resources": {"limits": {"memory": "1.5Gi"}}}, id="fraction"),
        pytest.param({"memory": "2GB"}, {"resources": {"limits": {"memory": "2Gi"}}}, id="docker's GB"),
        pytest.param({"memory": "1048576"}, {"resources": {"limits": {"memory": "1048576"}}}, id="bytes"),
        pytest.param({"memory": "256Mi"}, {"resources": {"limits": {"memory": "256Mi"}}}, id="Kubernetes' own"),
        pytest.param({"cpus": ".5"}, {"resources": {"limits": {"cpu": "0.5"}}}, id="no leading zero"),
        pytest.param({"cpus": "250m"}, {"resources": {"limits": {"cpu": "250m"}}}, id="millicores"),
        pytest.param({"pids_limit": 5}, {"resources": {"limits": {"pids": 5}}}, id="pids"),
        pytest.param({"network": "none"}, {"network": {"mode": "None"}}, id="network"),
        pytest.param({"restart": "on-failure"}, {"restartPolicy": "OnFailure"}, id="restart"),
        pytest.param({"restart": "Always"}, {"restartPolicy": "Always"}, id="restart, Kubernetes' own"),
        pytest.param({"pull": "missing"}, {"imagePullPolicy": "IfNotPresent"}, id="pull"),
        pytest.param({"is_read_only": True}, {"security": {"readOnlyRootFilesystem": True}}, id="read-only"),
        pytest.param({"user": "1:2", "workdir": "/w"}, {"user": "1:2", "workingDir": "/w"}, id="user, workdir"),
        pytest.param({"is_removed": True}, {"ttl": {"secondsAfterFinished": 600}}, id="rm, if the client dies"),
        pytest.param({"is_removed": True, "is_detached": True}, {"ttl": {"secondsAfterFinished": 0}}, id="rm, detached"),
    ],
)
def test_options_become_the_spec(change, spec):
    """Each option sets its field and nothing else, and the API parses what comes out."""
    options = manifests.RunOptions(image="busybox:latest", name="a", **change)
    rendered = manifests.render(options, namespace="team", environment=ENVIRONMENT)
    assert rendered["spec"] == {"image": "busybox:latest", **spec}
    parsed = api.parse_sandbox(rendered)
    assert (parsed.metadata.namespace, parsed.metadata.name) == ("team", "a")


@pytest.mark.parametrize(
    ("change", "option"),
    [
        pytest.param({"memory": "lots"}, "--memory", id="memory"),
        pytest.param({"memory": "-1m"}, "--memory", id="negative memory"),
        pytest.param({"cpus": "1,5"}, "--cpus", id="comma"),
        pytest.param({"cpus": "."}, "--cpus", id="dot"),
        pytest.param({"network": "x"}, "--network", id="network"),
        pytest.param({"restart": "x"}, "--restart", id="restart"),
        pytest.param({"pull": "sometimes"}, "--pull", id="pull"),
        pytest.param({"env": ["=a"]}, "--env", id="variable"),
        pytest.param({"labels": ["a"]}, "--label", id="label"),
    ],
)
def test_a_bad_value_names_its_option(change, option):
    """The person sees what they typed wrong."""
    with pytest.raises(manifests.BadOptionError) as error:
        manifests.render(manifests.RunOptions(image="a", **change), namespace="default", environment={})
    assert error.value.option == option


@pytest.mark.parametrize(
    ("image", "stem"),
    [
        pytest.param("busybox:latest", "busybox", id="tag"),
        pytest.param("docker.io/library/python@sha256:abc", "python", id="digest"),
        pytest.param("localhost:5000/My_App:1", "my-app", id="registry with a port"),
        pytest.param("3proxy", "s-3proxy", id="starts with a digit"),
        pytest.param("x" * 300, "x" * 40, id="long"),
        pytest.param("", "sandbox", id="nothing"),
    ],
)
def test_made_up_names_are_valid_and_tell_the_image(image, stem):
    """A DNS label: the image's last part and five letters."""
    name = manifests.generate_name(image)
    assert re.fullmatch(re.escape(stem) + "-[a-z0-9]{5}", name)
    assert len(name) <= 63
