"""What the terminal shows: tables on standard output, progress on standard error."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich import box
from rich.console import Console
from rich.table import Table

Progress = Callable[[int, int, float], None]


def console() -> Console:
    """Standard output; without a terminal lines are as long as they need to be, and plain."""
    terminal = sys.stdout.isatty()
    return Console(file=sys.stdout, width=None if terminal else 10_000, highlight=False)


def table(title: str = "", *, header: bool = True) -> Table:
    """An empty table, drawn with lines in a terminal and in plain columns elsewhere."""
    return Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        show_header=header,
        header_style="bold",
        box=box.SIMPLE_HEAD if sys.stdout.isatty() else None,
        padding=(0, 1) if sys.stdout.isatty() else (0, 2, 0, 0),
        pad_edge=False,
    )


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on standard error while something takes its time; nothing without a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    with Console(stderr=True).status(what):
        yield


@contextlib.contextmanager
def fit_progress() -> Iterator[Progress | None]:
    """A `progress` callback for `fit` that moves a bar on standard error; `None` without terminal.

    A fit has several passes (starts, binned image, full image); each fills the bar anew, and most
    end before it is full.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("fit: compiling", total=None, detail="")
        reached, number = 0, 1

        def progress(step: int, max_steps: int, objective: float) -> None:
            nonlocal reached, number
            number += step <= reached
            reached = step
            bar.update(
                task,
                description=f"fit: pass {number}",
                completed=step,
                total=max_steps,
                detail=f"step {step} of at most {max_steps}, objective {objective:,.1f}",
            )

        yield progress
