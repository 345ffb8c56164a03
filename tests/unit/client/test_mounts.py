"""Docker's -v as volumes and mounts that the API takes."""

import pytest

from skerry.cli import manifests
from skerry_api import sandbox as api


@pytest.mark.parametrize(
    ("texts", "volumes", "mounts"),
    [
        pytest.param([], [], [], id="none"),
        pytest.param(["/srv/a:/b"], [{"name": "host-1", "hostPath": {"path": "/srv/a"}}], [{"name": "host-1", "mountPath": "/b"}], id="node"),
        pytest.param(
            ["/srv/a:/b:ro", "/srv/a/:/c:rw"],
            [{"name": "host-1", "hostPath": {"path": "/srv/a"}}],
            [{"name": "host-1", "mountPath": "/b", "readOnly": True}, {"name": "host-1", "mountPath": "/c"}],
            id="one directory twice is one volume",
        ),
        pytest.param(
            ["./a:/b", "..:/c"],
            [{"name": "host-1", "hostPath": {"path": "/work/here/a"}}, {"name": "host-2", "hostPath": {"path": "/work"}}],
            [{"name": "host-1", "mountPath": "/b"}, {"name": "host-2", "mountPath": "/c"}],
            id="below here",
        ),
        pytest.param(
            ["data:/b", "data:/c:ro"],
            [{"name": "data", "emptyDir": {}}],
            [{"name": "data", "mountPath": "/b"}, {"name": "data", "mountPath": "/c", "readOnly": True}],
            id="a name is shared within the sandbox",
        ),
        pytest.param(
            ["/b", "own-1:/c"],
            [{"name": "own-2", "emptyDir": {}}, {"name": "own-1", "emptyDir": {}}],
            [{"name": "own-2", "mountPath": "/b"}, {"name": "own-1", "mountPath": "/c"}],
            id="one without a name is nobody else's",
        ),
        pytest.param(["/b:ro"], [{"name": "own-1", "emptyDir": {}}], [{"name": "own-1", "mountPath": "/b", "readOnly": True}], id="empty, read-only"),
    ],
)
def test_volumes(texts, volumes, mounts):
    """Each word becomes a volume and a mount of it, and the API parses what comes out."""
    rendered = manifests.render(manifests.RunOptions(image="a", name="a", volumes=texts), namespace="d", environment={}, directory="/work/here")
    assert (rendered["spec"].get("volumes", []), rendered["spec"].get("volumeMounts", [])) == (volumes, mounts)
    assert len(api.parse_sandbox(rendered).spec.volume_mounts) == len(texts)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("data:b", "'b', must begin with /", id="relative inside"),
        pytest.param("data", "write it as", id="no place"),
        pytest.param("", "write it as", id="nothing"),
        pytest.param("/a:/b:/c", "write it as", id="three paths"),
        pytest.param("/a:/b:z", "not 'z'", id="SELinux labels"),
        pytest.param("a:/b:ro:rw", "write it as", id="two modes"),
        pytest.param("My_Data:/b", "write my-data", id="a name of docker's"),
    ],
)
def test_what_cannot_be_meant_says_what_to_write(text, words):
    """The option is named, and the way to write it."""
    with pytest.raises(manifests.BadOptionError, match="write") as caught:
        manifests.render(manifests.RunOptions(image="a", volumes=[text]), namespace="d", environment={})
    assert caught.value.option == "--volume"
    assert words in str(caught.value)
