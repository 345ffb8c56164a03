"""Entry point of `skerry` and of the plugin `kubectl skerry`."""

from __future__ import annotations

import os
import signal
import sys

from skerry.cli import app, output, running
from skerry.errors import Refused, SkerryError


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run(sys.argv))


def run(argv: list[str]) -> int:
    """The exit code of one command: the program's, 127 and 126 when it is not there or cannot be run, 125 for our own failure, 2 for wrong usage."""
    called = os.path.basename(argv[0]) if argv else "skerry"
    name = "kubectl skerry" if called == "kubectl-skerry" else "skerry"
    try:
        app.built()(args=argv[1:], prog_name=name)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else running.FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Refused as error:
        general = {404: "see what there is: skerry ps -a", 409: "see it: skerry ps -a"}.get(error.status, "")
        # A refusal that names a command has said the next step.
        hint = (error.hint or general) if "skerry " not in str(error) else error.hint
        output.print_error(str(error), hint=hint)
        return running.UNABLE.get(error.reason, running.FAILED)
    except SkerryError as error:
        output.print_error(str(error), hint=error.hint)
        return running.FAILED
    return 0


if __name__ == "__main__":
    main()
