"""A line of audit is one line, whatever a caller is called."""

from __future__ import annotations

from skerry_operator.gateway import audit


def test_nobody_writes_a_second_line_or_another_field():
    """Quotes, line ends and length are kept in their place; what is empty is left out."""
    entry = audit.Entry("ns", 'x" outcome="allowed', "exec", "GET", "::1", user="eve\naudit outcome=allowed", command=("sh", "-c", "y" * 9999))
    line = audit.render(entry, "refused", "no")
    assert line.startswith('outcome="refused" user="eve\\naudit outcome=allowed"')
    assert "\n" not in line
    assert 'name="x\\" outcome=\\"allowed"' in line
    assert len(line) < 1200
    assert "uid=" not in line
