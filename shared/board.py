"""What `brigade up` shows: a table that changes in place on a terminal, plain lines elsewhere."""

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table


class Board:
    """The state of every process, by its name, and notes between them."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._states: dict[str, str] = {}
        self._live = Live(console=self._console, refresh_per_second=8)

    def __enter__(self) -> "Board":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, name: str, state: str) -> None:
        """A process is in another state."""
        self._states[name] = state
        if self._live.is_started:
            self._live.update(self._table())
        else:
            self.note(f"{name}: {state}")

    def settle(self) -> None:
        """The table stays as it is: whatever follows is lines."""
        self._live.stop()

    def note(self, text: str) -> None:
        """A line for the operator."""
        self._console.print(f"up: {text}", markup=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, state in self._states.items():
            table.add_row(name, escape(state))
        return table
