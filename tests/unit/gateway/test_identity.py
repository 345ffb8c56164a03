"""Who the API server says that calls, and when it is not believed."""

from __future__ import annotations

import json

import pytest

from skerry_operator.gateway import identity
from skerry_operator.gateway.errors import Unauthenticated

DATA = {
    "requestheader-client-ca-file": "-----BEGIN CERTIFICATE-----",
    "requestheader-allowed-names": json.dumps(["front-proxy-client"]),
    "requestheader-username-headers": json.dumps(["X-Remote-User"]),
    "requestheader-uid-headers": json.dumps(["X-Remote-Uid"]),
    "requestheader-group-headers": json.dumps(["X-Remote-Group"]),
    "requestheader-extra-headers-prefix": json.dumps(["X-Remote-Extra-"]),
}
CONFIG = identity.parse_config(DATA)
PROXY = {"subject": ((("organizationName", "x"),), (("commonName", "front-proxy-client"),))}
HEADERS = [
    ("X-Remote-User", "ann"), ("X-Remote-Uid", "7"), ("X-Remote-Group", "one"), ("x-remote-group", "two"),
    ("X-Remote-Extra-Authentication.kubernetes.io%2fnode-Name", "n1"), ("Other", "x"),
]  # fmt: skip


def test_the_whole_identity():
    """Name, uid, groups in order, extras with decoded keys."""
    found = identity.identify(CONFIG, PROXY, HEADERS)
    assert (found.name, found.uid, found.groups) == ("ann", "7", ("one", "two"))
    assert found.extra == (("authentication.kubernetes.io/node-name", ("n1",)),)


@pytest.mark.parametrize(
    ("certificate", "headers"),
    [
        pytest.param(None, HEADERS, id="no certificate"),
        pytest.param({}, HEADERS, id="an unverified certificate"),
        pytest.param({"subject": ((("commonName", "somebody"),),)}, HEADERS, id="another name"),
        pytest.param(PROXY, [], id="no user"),
        pytest.param(PROXY, [("X-Remote-User", "")], id="an empty user"),
        pytest.param(PROXY, [("X-Remote-User", "ann"), ("x-remote-user", "admin")], id="two users"),
        pytest.param(PROXY, [("X-Remote-User", "ann"), *[("X-Remote-Group", "g")] * 1001], id="groups without end"),
    ],
)
def test_whom_nobody_vouches_for(certificate, headers):
    """Each is unauthenticated."""
    with pytest.raises(Unauthenticated):
        identity.identify(CONFIG, certificate, headers)


def test_no_allowed_names_allows_every_certificate_of_the_authority():
    """As kube-apiserver documents --requestheader-allowed-names."""
    config = identity.parse_config({**DATA, "requestheader-allowed-names": "[]"})
    assert identity.identify(config, {"subject": ((("commonName", "any"),),)}, HEADERS).name == "ann"


@pytest.mark.parametrize("missing", ["requestheader-client-ca-file", "requestheader-username-headers"])
def test_a_server_without_aggregation_is_told_so(missing):
    """Better no gateway than one that believes everybody."""
    with pytest.raises(ValueError, match="aggregation"):
        identity.parse_config({key: value for key, value in DATA.items() if key != missing})
