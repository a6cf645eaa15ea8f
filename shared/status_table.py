"""An overview as a table for a terminal. Pure: the same overview gives the same table."""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shared.overview import Overview, WorkerLine, stretches

COLUMNS: tuple[str, ...] = (
    "blocks",
    "worker",
    "address",
    "dtype",
    "lease",
    "steps/s",
    "queue",
    "sessions",
    "pages",
)
RIGHT = frozenset({"lease", "steps/s", "queue", "sessions", "pages"})
LOAD = frozenset({"queue", "sessions", "pages"})
"""What gateways alone are told."""
UNKNOWN = "-"
PEER_CHARACTERS = 8
"""The end of a peer id: all of them begin alike."""
MAX_TEXT = 64
NOBODY = (
    "No worker announces this model at this revision under this swarm's name. If there should be "
    "some, compare --swarm, --model and --model-name with theirs."
)


def tables_of(overviews: Sequence[Overview], *, max_rows: int = 100_000) -> RenderableType:
    """A table for each model, one below the other."""
    return Group(
        *(
            part
            for number, overview in enumerate(overviews)
            for part in (*([Text()] if number else []), table_of(overview, max_rows=max_rows))
        )
    )


def table_of(overview: Overview, *, max_rows: int = 100_000) -> RenderableType:
    """All there is to see of a model, with at most so many workers."""
    hint = Text(printable(overview.hint, 1000) or NOBODY)
    if not overview.num_blocks:
        return hint
    hidden = len(overview.workers) - max_rows
    more = [Text(f"and {hidden} more", style="dim")] if hidden > 0 else []
    below = [_rows(overview, max_rows), *more] if overview.workers else [hint]
    return Group(_headline(overview), coverage_line(overview.coverage), *below)


def _rows(overview: Overview, max_rows: int) -> Table:
    """The workers. What is the same of all, or known of none, has no column."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    known = any(worker.status for worker in overview.workers)
    shown = [
        title
        for title in COLUMNS
        if (known or title not in LOAD) and not (title == "dtype" and _dtype(overview))
    ]
    for title in shown:
        table.add_column(
            title,
            justify="right" if title in RIGHT else "left",
            no_wrap=title != "address",  # the one column that gives way
            overflow="ellipsis",
        )
    for worker in overview.workers[:max_rows]:
        cells = dict[str, str](zip(COLUMNS, _cells(worker), strict=True))
        notes = [_notes(worker)] if _notes(worker) else []
        table.add_row(*(Text(cells[title]) for title in shown), *notes)
    return table


def _dtype(overview: Overview) -> str:
    """What all workers compute in; "" where they differ or there are none."""
    dtypes = {worker.dtype for worker in overview.workers}
    return dtypes.pop() if len(dtypes) == 1 else ""


def trouble(sentence: str) -> RenderableType:
    """What stands in the table's place while nothing can be seen."""
    return Text(printable(sentence, 1000), style="red")


def coverage_line(counts: Iterable[int]) -> Text:
    """How many workers host each stretch of blocks."""
    line = Text("coverage  ")
    for span, count in stretches(counts):
        style = "bold red" if count == 0 else "yellow" if count == 1 else "green"
        line.append(f"{span} {f'x{count}' if count else 'nobody'}", style=style)
        line.append("  ")
    line.rstrip()
    return line


def printable(text: str, most: int = MAX_TEXT) -> str:
    """What a stranger wrote, without what a terminal would obey, and not longer than a column."""
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def _headline(overview: Overview) -> Text:
    num = len(overview.workers)
    line = Text(f"{printable(overview.model)}@{printable(overview.revision, 12)}  ", style="bold")
    dtype = f" in {printable(_dtype(overview), 16)}" if _dtype(overview) else ""
    line.append(
        f"{overview.num_blocks} blocks, {num} worker{'s' * (num != 1)}{dtype}  ", "not bold"
    )
    if overview.complete:
        line.append("complete", style="green")
    else:
        line.append(f"nobody hosts {', '.join(overview.uncovered)}", style="bold red")
    return line


def _cells(worker: WorkerLine) -> list[str]:
    load = worker.status
    return [
        f"{worker.start}:{worker.end}",
        "…" + printable(worker.peer_id)[-PEER_CHARACTERS:],
        printable(worker.url) or _attached(worker),
        printable(worker.dtype),
        f"{worker.lease_seconds_left:.0f} s",
        f"{worker.speed:.1f}" if worker.speed else UNKNOWN,
        str(load.queued_steps) if load else UNKNOWN,
        str(load.sessions) if load else UNKNOWN,
        f"{load.pages_total - load.pages_free}/{load.pages_total}" if load else UNKNOWN,
    ]


def _attached(worker: WorkerLine) -> str:
    num = len(worker.attached)
    return f"attached to {num} gateway{'s' * (num != 1)}"


def _notes(worker: WorkerLine) -> Text:
    if worker.leaving and worker.next_span:
        is_here = worker.next_span == f"{worker.start}:{worker.end}"
        return Text(
            "loading" if is_here else f"moving to {printable(worker.next_span)}", style="yellow"
        )
    if worker.leaving:
        return Text("leaving", style="yellow")
    if worker.status is not None and not worker.linked:
        return Text("no link", style="red")
    if worker.elsewhere:
        return Text("attached to other gateways only", style="yellow")
    return Text("")
