"""What a docker user types: other words for commands, options that are not there, templates, exit codes of shells."""

import json

import pytest

from skerry.cli import formats, looking, output, words
from skerry_api import sandbox as api


def test_dockers_commands_lead_to_those_here(skerry):
    """The same answer by either word, with what stands before the command, too."""
    assert skerry("images", "-q") == skerry("image", "ls", "-q") == (0, "busybox:latest\n", "")
    assert skerry("pull", "-o", "name", "x:1") == (0, "x:1\n", "")
    assert skerry("rmi", "x:1") == (0, "x:1\n", "")


@pytest.mark.parametrize("word", sorted(words.COMMANDS))
def test_commands_without_a_counterpart_say_what_to_do(skerry, word):
    """2, and the next step."""
    code, out, err = skerry(word, "x")
    assert (code, out) == (2, "")
    assert words.COMMANDS[word] in " ".join(err.split())


@pytest.mark.parametrize(("command", "option"), [(command, option) for command, hints in words.OPTIONS.items() for option in hints])
def test_options_without_a_counterpart_say_what_to_do(skerry, command, option):
    """2, and the next step: none of them is an option in truth."""
    code, out, err = skerry(command, option, "x")
    assert (code, out) == (2, "")
    assert words.OPTIONS[command][option] in " ".join(err.split())


def test_other_unknown_options_are_unknown(skerry):
    """Click's own words."""
    code, _, err = skerry("run", "--bogus", "busybox:latest")
    assert (code, "No such option: --bogus" in err) == (2, True)


def test_usage_reads_as_dockers(skerry):
    """No braces, dots once, optional ones in brackets."""
    assert "skerry stop [OPTIONS] NAME...\n" in skerry("stop", "-h")[1]
    assert "skerry run [OPTIONS] IMAGE [ARGUMENT]...\n" in skerry("run", "-h")[1]
    assert "skerry image import [OPTIONS] PATH [REFERENCE]\n" in skerry("image", "import", "-h")[1]


def test_a_program_that_ends_before_it_is_asked_for_was_started(skerry):
    """`run -d --rm` of a short program: its name, and 0."""
    assert skerry("run", "-d", "--rm", "--name", "a", "busybox:latest", "hello") == (0, "a\n", "")


def test_hints(skerry):
    """One next step, also for one of several names."""
    _, _, err = skerry("stop", "a")
    assert err.splitlines()[1:] == ["  see what there is: skerry ps -a"]


def test_unless_stopped_is_always(skerry):
    """What was stopped stays stopped here in any case."""
    skerry("run", "-d", "--name", "a", "--restart", "unless-stopped", "busybox:latest", "sleep")
    assert json.loads(skerry("ps", "-o", "json")[1])["items"][0]["spec"]["restartPolicy"] == "Always"


def test_ps_format(skerry):
    """Lines, JSON, and a wrong one."""
    skerry("run", "-d", "--name", "a", "-l", "app=web", "busybox:latest", "sleep")
    assert skerry("ps", "--format", "{{.Names}} is {{ .State }}: {{.Command}}")[1] == "a is running: sleep\n"
    assert json.loads(skerry("ps", "--format", "json")[1])["Labels"] == "app=web"
    code, _, err = skerry("ps", "--format", "{{.Nope}}")
    assert code == 2
    assert ".Nope" in err


def test_paused_ones_have_not_ended():
    """Also when an earlier start of theirs has an end."""
    for reason, has_ended in (("Paused", False), ("Stopped", True)):
        conditions = [{"type": "Ready", "status": "False", "reason": reason, "message": "", "lastTransitionTime": "2026-01-31T12:00:00Z"}]
        status = {"phase": "Paused", "conditions": conditions, "termination": {"reason": "Stopped", "exitCode": 143}}
        raw = {"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": "a"}, "spec": {"image": "busybox"}, "status": status}
        assert looking._has_ended(api.parse_sandbox(raw)) is has_ended


def _sandbox(name: str) -> api.Sandbox:
    raw = {"apiVersion": "skerry.dev/v1alpha1", "kind": "Sandbox", "metadata": {"name": name}, "spec": {"image": "busybox"}}
    return api.parse_sandbox(raw)


def test_tables_of_templates_line_up():
    """A header from the fields, columns where the tabulators are."""
    found = [_sandbox("a"), _sandbox("a-long-name")]
    assert formats.render(r"table {{.Names}}\t{{.Image}}", found) == ["NAMES         IMAGE", "a             busybox", "a-long-name   busybox"]
    assert formats.render(r"{{.Names}}\t{{.Image}}", found[:1]) == ["a\tbusybox"]


@pytest.mark.parametrize("template", ["{{.Names", "{{range .}}", "plain", "{{.Ports}}"])
def test_templates_that_cannot_be_meant(template):
    """Named, with those that there are."""
    with pytest.raises(formats.BadFormatError, match="Names"):
        formats.check(template)


def test_a_next_step_is_said_once(capsys):
    """A message that ends with its hint needs no second line."""
    output.print_error("unknown instruction RUNN; did you mean RUN?", hint="did you mean RUN?")
    output.print_error("no agent", hint="start one")
    assert capsys.readouterr().err == "error: unknown instruction RUNN; did you mean RUN?\nerror: no agent\n  start one\n"
