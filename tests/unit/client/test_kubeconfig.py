"""Kubeconfigs as people have them: which entry counts, where files lie, what a plugin gives, and what is said when something is missing."""

from __future__ import annotations

import base64
import json
import stat

import pytest

from skerry import kubeconfig
from skerry.kubeconfig import BadKubeconfig


def _config(user, **cluster: str):
    return {
        "current-context": "one",
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "ns"}}, {"name": "two", "context": {"cluster": "c"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://example:6443/", **cluster}}],
        "users": [{"name": "u", "user": user}],
    }


@pytest.fixture
def write(tmp_path):
    def write_one(value, name="config"):
        path = tmp_path / name
        path.write_text(json.dumps(value))
        return str(path)

    return write_one


@pytest.mark.parametrize(
    ("user", "header"),
    [
        pytest.param({"token": "t"}, "Bearer t", id="token"),
        pytest.param({"username": "ann", "password": "p:w"}, "Basic " + base64.b64encode(b"ann:p:w").decode(), id="password"),
        pytest.param({"tokenFile": "token"}, "Bearer from-file", id="a file beside it"),
        pytest.param({}, None, id="nobody"),
    ],
)
def test_credentials(write, tmp_path, user, header):
    """Each becomes the header; files are looked for beside the kubeconfig."""
    (tmp_path / "token").write_text("from-file\n")
    found = kubeconfig.load(write(_config(user)), environ={})
    assert (found.authorization, found.server, found.namespace) == (header, "https://example:6443", "ns")


def test_the_context_that_is_named(write):
    """Its cluster, no user, and the default namespace."""
    found = kubeconfig.load(write(_config({"token": "t"})), context="two", environ={})
    assert (found.authorization, found.namespace) == (None, "default")


def test_several_files_are_one(write, tmp_path):
    """As kubectl merges KUBECONFIG: the first that has a name wins; each file's paths are its own; missing ones are left out."""
    first = {"current-context": "one", "users": [{"name": "u", "user": {"token": "first"}}]}
    environ = {"KUBECONFIG": f"{tmp_path}/missing:{write(first, 'first')}:{write(_config({'token': 'second'}), 'second')}"}
    assert kubeconfig.load(environ=environ).authorization == "Bearer first"
    assert kubeconfig.is_configured(environ=environ)


def test_a_plugin_is_asked_and_told_of_the_protocol(write, tmp_path):
    """client-go's credential plugins: a token from a program beside the file, run with KUBERNETES_EXEC_INFO and its own environment."""
    plugin = tmp_path / "plugin"
    plugin.write_text('#!/bin/sh\ncase "$KUBERNETES_EXEC_INFO" in *ExecCredential*) echo "{\\"status\\": {\\"token\\": \\"$1-$WHO\\"}}";; esac\n')
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    user = {"exec": {"command": "./plugin", "args": ["for"], "env": [{"name": "WHO", "value": "ann"}]}}
    assert kubeconfig.load(write(_config(user)), environ={"PATH": "/usr/bin:/bin"}).authorization == "Bearer for-ann"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        pytest.param(_config({"exec": {"command": "surely-not-there", "installHint": "get it at example"}}), "get it at example", id="no plugin"),
        pytest.param(_config({"exec": {"command": "false"}}), "gave no credential", id="a plugin that fails"),
        pytest.param(_config({"auth-provider": {"name": "gcp"}}), "use an exec plugin", id="a provider"),
        pytest.param(_config({}, **{"proxy-url": "http://p"}), "proxy-url", id="a proxy"),
        pytest.param({**_config({}), "current-context": ""}, "no current-context", id="no context"),
        pytest.param({**_config({}), "clusters": []}, "no cluster 'c'; there is: none", id="no cluster"),
        pytest.param(["list"], "kubeconfig", id="a list"),
        pytest.param({**_config({}), "contexts": [{"nome": 1}]}, "kubeconfig", id="an entry without a name"),
    ],
)
def test_what_is_wrong_is_said(write, value, words):
    """The file and the entry, in one error."""
    with pytest.raises(BadKubeconfig, match=words):
        kubeconfig.load(write(value), environ={"PATH": "/usr/bin:/bin"})


def test_no_file_is_no_cluster(tmp_path):
    """Without any, nothing is configured, and asking says what to do."""
    environ = {"HOME": str(tmp_path)}
    assert not kubeconfig.is_configured(environ=environ)
    with pytest.raises(BadKubeconfig) as caught:
        kubeconfig.load(environ=environ)
    assert "--local" in caught.value.hint
