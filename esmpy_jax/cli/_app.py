"""The program: its commands, and one sentence for whatever goes wrong."""

import contextlib
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .._checks import InputError
from ._compiled import keep_compiled
from ._demo import demo
from ._fit import fit
from ._info import info
from ._invocation import invoked
from ._plan import plan
from ._quantify import quantify
from ._refine import refine
from ._simulate import simulate

# Typer brings its own copy of Click or not, by version: the base of its usage errors either way.
_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

_ARGUMENTS = re.compile(
    r"`?\b(beam_energy|take_off_angle|energy_offset|energy_gain|energy_range|max_steps"
    r"|tilt_alpha|tilt_beta|beam_current|dwell_time|live_time|solid_angle|bound_oxygen|(?<=`)(?:signal|region|bin))\b`?"
)

#: Arguments whose options have names of their own.
_OWN_NAMES = {"bound_oxygen": "oxides"}

#: Exit status for bad input, and for a fit that went wrong with good input.
BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130


class _Program(TyperGroup):
    """Turns errors into one sentence on standard error and an exit status."""

    def main(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        standalone_mode: bool = True,
        **options: Any,
    ) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        name = "esmpy-jax"
        try:
            with invoked(name, words):
                status = super().main(words or ["--help"], name, standalone_mode=False, **options)
        except InputError as error:
            status = _complain(_with_flags(str(error)), BAD_INPUT)
        except _UsageError as error:
            status = _complain(_usage(error), BAD_INPUT)
        except (RuntimeError, MemoryError) as error:
            if not _is_ours(error):
                raise
            status = _complain(str(error) or "The memory of this machine is used up.", FAILED)
        except (KeyboardInterrupt, typer.Abort):
            status = INTERRUPTED
        if status == INTERRUPTED:  # where Typer has caught it, too
            _complain("Interrupted; nothing was written.", INTERRUPTED)
        if not standalone_mode:
            return status
        sys.exit(status if isinstance(status, int) else 0)


def _complain(sentence: str, status: int) -> int:
    typer.echo(" ".join(sentence.split()), err=True)
    return status


def _with_flags(sentence: str) -> str:
    """The sentence with arguments of the library written as the options that give them.

    One that speaks of options already is the program's own, and stays.
    """
    if re.search(r"(?<!\S)--[a-z]", sentence):
        return sentence

    def option(found: re.Match[str]) -> str:
        return "--" + _OWN_NAMES.get(found[1], found[1]).replace("_", "-")

    return re.sub(_ARGUMENTS, option, sentence)


def _is_ours(error: BaseException) -> bool:
    """A failure that `fit` reports, or no memory left; any other error is a bug to be shown."""
    return isinstance(error, MemoryError) or type(error) is RuntimeError


def _usage(error: Any) -> str:
    """Typer's complaint about options and arguments as one sentence."""
    text = " ".join(str(error.format_message()).split()).replace(". ", "; ").rstrip(".")
    context = getattr(error, "ctx", None)
    path = "esmpy-jax" if context is None else context.command_path
    return f"{text}; see '{path} --help'."


app = typer.Typer(
    name="esmpy-jax",
    cls=_Program,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(info)
app.command()(fit)
app.command()(refine)
app.command()(quantify)
app.command()(plan)
app.command()(simulate)


@app.callback(invoke_without_command=True)
def _program(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and stop.", is_eager=True)
    ] = False,
) -> None:
    """Find the phases of a STEM-EDXS spectrum image: their spectra, compositions and maps."""
    if version:
        from ._output import program_version

        typer.echo(f"esmpy-jax {program_version()}")
        raise typer.Exit


def main() -> None:
    """The program `esmpy-jax`, without the chatter of the packages below it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    keep_compiled()
    with _quiet():
        app()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings and no log messages but errors, which also reach the user as sentences."""
    names = ("jax", "jax._src.xla_bridge", "rsciio", "hyperspy", "matplotlib", "distributed")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
