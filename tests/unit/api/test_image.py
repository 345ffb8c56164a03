"""SandboxImages from JSON: what is taken, what is refused with a sentence, and under which name a built one is found."""

from __future__ import annotations

import pytest

from skerry_api import image as api
from skerry_api.errors import InvalidManifest


def manifest(**spec: object):
    return {"metadata": {"name": "i", "namespace": "team", "uid": "u", "generation": 3}, "spec": spec}


def test_a_reference_with_a_selector():
    """None selects no node, an empty selector all of them."""
    found = api.parse_image(manifest(reference="busybox:1", prepull={"nodeSelector": {"zone": "a"}}, imagePullSecrets=[{"name": "s"}]))
    assert (found.image, found.prepull, found.pull_secrets, found.generation) == ("busybox:1", (("zone", "a"),), ("s",), 3)
    assert api.is_selected(found.prepull, {"zone": "a", "x": "y"})
    assert not api.is_selected(found.prepull, {"zone": "b"})
    assert api.parse_image(manifest(reference="busybox")).prepull is None
    assert not api.is_selected(None, {"zone": "a"})
    assert api.is_selected(api.parse_image(manifest(reference="busybox", prepull={})).prepull, {})


def test_a_built_image_lies_in_its_namespace():
    """No tag takes the place of another namespace's image, or of a registry's."""
    build = {"tag": "app:1", "dockerfile": "FROM scratch", "args": {"A": "b"}, "context": {"inline": {"f": "x"}}, "target": "t"}
    found = api.parse_image(manifest(build=build))
    assert found.image == "localhost/team/app:1"
    assert found.build == api.Build("app:1", "FROM scratch", inline=(("f", "x"),), arguments=(("A", "b"),), target="t")


GOOD = {"tag": "app", "dockerfile": "FROM scratch"}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        pytest.param({}, "spec", id="nothing"),
        pytest.param({"reference": "a", "build": GOOD}, "spec", id="both"),
        pytest.param({"reference": "-a"}, "spec.reference", id="no reference"),
        pytest.param({"reference": "a", "other": 1}, "spec", id="unknown"),
        pytest.param({"build": {**GOOD, "tag": "docker.io/library/python"}}, "spec.build.tag", id="a registry's name"),
        pytest.param({"build": {**GOOD, "tag": "../x"}}, "spec.build.tag", id="a tag that goes up"),
        pytest.param({"build": {**GOOD, "dockerfile": ""}}, "spec.build.dockerfile", id="no Dockerfile"),
        pytest.param({"build": {**GOOD, "context": {"configMap": {"name": "c"}, "inline": {"a": "b"}}}}, "spec.build.context", id="two contexts"),
        pytest.param({"build": {**GOOD, "context": {"configMap": {"name": "A"}}}}, "spec.build.context.configMap.name", id="no ConfigMap"),
        pytest.param({"build": {**GOOD, "args": {"a": 1}}}, "spec.build.args.a", id="an argument that is no text"),
        pytest.param({"reference": "a", "imagePullSecrets": [{"name": 1}]}, "spec.imagePullSecrets", id="no Secret"),
    ],
)
def test_a_bad_image_is_refused_with_its_field(spec, field):
    """The first field that is wrong."""
    with pytest.raises(InvalidManifest) as caught:
        api.parse_image(manifest(**spec))
    assert caught.value.field.startswith(field)
