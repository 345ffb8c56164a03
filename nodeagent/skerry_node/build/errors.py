"""What can go wrong with a build.

BuildError
├── InvalidDockerfile    the text is at fault, with its line
├── InvalidContext       the context is no tar of files, or goes beyond a bound
├── StepFailed           an instruction could not be done, with its line
└── CommandFailed        the program of a RUN ended badly, with its line and exit code
"""

from __future__ import annotations


class BuildError(Exception):
    """Base of all. *line* counts from 1 in the Dockerfile; 0 where no line is at fault. *hint* is the next step."""

    reason = "BuildFailed"

    def __init__(self, problem: str, *, line: int = 0, hint: str = "") -> None:
        super().__init__(f"Dockerfile line {line}: {problem}" if line else problem)
        self.problem = problem
        self.line = line
        self.hint = hint


class InvalidDockerfile(BuildError):
    """The Dockerfile cannot be understood, or asks for what is refused."""

    reason = "InvalidDockerfile"


class InvalidContext(BuildError):
    """The build context cannot be used."""

    reason = "InvalidContext"


class StepFailed(BuildError):
    """An instruction could not be done."""


class CommandFailed(BuildError):
    """The program of a RUN did not end with 0."""

    def __init__(self, problem: str, *, line: int, exit_code: int) -> None:
        super().__init__(problem, line=line)
        self.exit_code = exit_code
