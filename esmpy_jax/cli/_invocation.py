"""The command as the user gave it, for the record of a result."""

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

_COMMAND = ContextVar("command", default="")


@contextlib.contextmanager
def invoked(name: str, words: Sequence[str]) -> Iterator[None]:
    """Within it, `command()` is this command."""
    token = _COMMAND.set(shlex.join([name, *words]))
    try:
        yield
    finally:
        _COMMAND.reset(token)


def command() -> str:
    """The command being run, ready for a shell; empty outside of one."""
    return _COMMAND.get()
