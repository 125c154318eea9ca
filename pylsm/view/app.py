"""The screen of ``pylsm top``."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from rich.segment import Segment
from rich.style import Style
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.events import Resize
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Footer, Input, Static

from pylsm.recording.read import Recording
from pylsm.recording.summary import shown
from pylsm.view.state import ORDERS, Process, Row, State

__all__ = ["Top"]

#: As much of a recording as is read before the screen gets its turn again, in bytes.
_CHUNK: Final = 1 << 18
#: A wide screen has its tables side by side.
_WIDE: Final = 110
#: How often a file is looked at for more of it, in seconds.
_LOOK_SECONDS: Final = 0.05


class Table(ScrollView, can_focus=True):
    """Rows of text under a title; only those that are seen are put together.

    Args:
        title: of the table.
        columns: what stands above the columns.
        cells: the columns of a row, as text; the last gets what room is left.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "move(-10)", show=False),
        Binding("pagedown", "move(10)", show=False),
        Binding("home", "move(-1000000)", show=False),
        Binding("end", "move(1000000)", show=False),
    ]
    DEFAULT_CSS = """
    Table { height: 1fr; border-top: solid $foreground 50%; border-title-style: bold; }
    Table { overflow-x: hidden; scrollbar-size-vertical: 1; }
    Table:focus { border-top: heavy $accent; }
    """

    def __init__(self, title: str, columns: Sequence[tuple[str, int]], cells: Callable[[Any], Sequence[str]]) -> None:
        super().__init__(id=title.lower())
        self.title = title
        self.cursor = 0
        self._columns = columns
        self._cells = cells
        self._rows: Sequence[Any] = ()

    def show(self, rows: Sequence[Any], remark: str = "") -> None:
        """Show other rows."""
        self._rows = rows
        self.cursor = max(0, min(self.cursor, len(rows) - 1))
        self.virtual_size = Size(0, len(rows) + 1)
        self.border_title = f"{self.title} {len(rows):,}{remark}"
        self.refresh()

    @property
    def current(self) -> Any:
        """The row under the cursor, or None."""
        return self._rows[self.cursor] if self._rows else None

    def action_move(self, by: int) -> None:
        """Move the cursor by some rows, and scroll to it."""
        self.cursor = max(0, min(self.cursor + by, len(self._rows) - 1))
        top, height = self.scroll_offset.y, max(1, self.size.height - 1)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False)
        elif self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """A line of the screen: the head of the columns, which does not scroll, or a row."""
        width = self.size.width
        if y == 0:
            return self._line([name for name, _ in self._columns], Style(dim=True), width)
        index = self.scroll_offset.y + y - 1
        if index >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        chosen = index == self.cursor and self.has_focus
        ended = getattr(self._rows[index], "ended", False)
        return self._line(self._cells(self._rows[index]), Style(reverse=chosen, dim=ended and not chosen), width)

    def _line(self, cells: Sequence[str], style: Style, width: int) -> Strip:
        text = ""
        for (_, size), cell in zip(self._columns, cells):
            if size:
                text += cell[:size].rjust(size) + " "
            else:
                room = max(0, width - len(text))
                # Of a path the end tells most.
                text += cell if len(cell) <= room else "…" + cell[len(cell) - room + 1 :]
        return Strip([Segment(text.ljust(width), self.rich_style + style)], width).crop(0, width)


def _process_cells(row: tuple[str, Process]) -> Sequence[str]:
    branch, process = row
    ended = " (ended)" if process.ended else ""
    return (
        str(process.pid),
        f"{process.connects:,}",
        f"{process.opens:,}",
        f"{process.rate:.1f}",
        branch + shown(process.name) + ended,
    )


def _file_cells(row: Row) -> Sequence[str]:
    return (f"{row.count:,}", f"{row.rate:.1f}", "w" if row.write else "r", shown(row.name))


def _destination_cells(row: Row) -> Sequence[str]:
    return (f"{row.count:,}", f"{row.rate:.1f}", str(len(row.pids)), shown(row.name))


class Top(App[int]):
    """Processes, destinations and files of a recording that is being written.

    Args:
        fd: where its lines come from; read without blocking.
        title: what is recorded.
        message: gives what the recorder said last, "" for nothing.
        parent_of: see `State`.
    """

    CSS = """
    #head { height: 1; text-style: bold; }
    #status { height: 1; }
    .bad { color: $error; text-style: bold reverse; }
    #filter { height: 1; border: none; padding: 0; display: none; }
    #tables { layout: vertical; height: 1fr; }
    .wide #tables { layout: grid; grid-size: 2 2; grid-columns: 2fr 3fr; }
    .wide #processes { row-span: 2; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "filter"),
        Binding("s", "sort", "order"),
        Binding("enter", "only", "only this"),
        Binding("escape", "everything", "everything"),
        Binding("e", "ended", "ended ones"),
        Binding("p", "pause", "pause"),
        Binding("q,ctrl+c", "leave", "quit"),
    ]

    def __init__(
        self,
        fd: int,
        title: str,
        message: Callable[[], str] = lambda: "",
        parent_of: Callable[[int], int] | None = None,
    ) -> None:
        super().__init__()
        self.state = State(parent_of)
        self._fd = fd
        self._what = title
        self._message = message
        self._recording = Recording("-")
        self._partial = b""
        self._order = "rate"
        self._text = ""
        self._only: Process | None = None
        self._paused = self._ended = False
        self._over = False
        self._ticked = time.monotonic()
        self.processes = Table(
            "Processes", (("pid", 8), ("conn", 6), ("opens", 7), ("/s", 7), ("process", 0)), _process_cells
        )
        self.destinations = Table(
            "Destinations", (("count", 7), ("/s", 7), ("pids", 4), ("destination", 0)), _destination_cells
        )
        self.files = Table("Files", (("count", 7), ("/s", 7), ("", 1), ("file", 0)), _file_cells)

    def compose(self) -> ComposeResult:
        """The parts of the screen, from top to bottom."""
        yield Static(id="head", markup=False)
        yield Static(id="status", markup=False)
        with Container(id="tables"):
            yield self.processes
            yield self.destinations
            yield self.files
        yield Input(id="filter", placeholder="part of a name, a path, an address or a pid", compact=True)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Begin to read."""
        if stat.S_ISREG(os.fstat(self._fd).st_mode):
            self.set_interval(_LOOK_SECONDS, self._follow)  # there is nothing to poll for
        else:
            os.set_blocking(self._fd, False)
            asyncio.get_running_loop().add_reader(self._fd, self._read)
        self.set_interval(1.0, self._tick)
        self.processes.focus()
        self._show()

    def on_resize(self, event: Resize) -> None:
        """Side by side where there is room."""
        self.screen.set_class(event.size.width >= _WIDE, "wide")

    # ---- what comes ----------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Read on in a file, which may be growing."""
        data = os.read(self._fd, _CHUNK)
        if data:
            self._take(data)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._over = True
            self._show()
            return
        self._take(data)

    def _take(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._recording.lines += 1
            found = self._recording.parse(line + b"\n")
            if found is not None:
                self.state.add(found)

    def _tick(self) -> None:
        now = time.monotonic()
        self.state.tick(max(0.001, now - self._ticked))
        self._ticked = now
        if not self._paused:
            self._show()

    def _show(self) -> None:
        state = self.state
        live = sum(not process.ended for process in state.processes.values())
        ended = len(state.processes) - live
        words = [f"pylsm top {self._what}", f"{live:,} processes" + (f" ({ended:,} ended)" if ended else "")]
        words.append(f"order: {self._order}")
        if self._only is not None:
            words.append(f"only {self._only.pid} and below")
        if self._text:
            words.append(f"filter: {self._text}")
        self.query_one("#head", Static).update("  ".join(words))
        self._show_status()
        text, pids = self._text.lower(), None
        if self._only is not None:
            pids = state.family(self._only.pid)
        tree = [row for row in state.tree(text=text, ended=self._ended) if pids is None or row[1].pid in pids]
        if text and not tree:
            tree = [row for row in state.tree(ended=self._ended) if pids is None or row[1].pid in pids]
        self.processes.show(tree)
        self.destinations.show(state.rows(state.destinations, text=text, pids=pids, order=self._order))
        self.files.show(state.rows(state.files, text=text, pids=pids, order=self._order))

    def _show_status(self) -> None:
        state, status = self.state, self.query_one("#status", Static)
        words = [f"{state.events:,} events", f"{state.rate:,.1f}/s"]
        deduplicated = state.counts.get("deduplicated")
        if isinstance(deduplicated, int):
            words.append(f"{deduplicated:,} deduplicated")
        words.append(f"LOST {state.lost:,}: give it a larger --ring-size" if state.lost else "0 lost")
        skipped = sum(count for count, _ in self._recording.skipped.values())
        if skipped:
            words.append(f"{skipped:,} lines skipped")
        if self._paused:
            words.append("PAUSED")
        if self._over:
            words.append("the recording has ended")
        message = self._message()
        if message:
            words.append(shown(message))
        status.update("  ".join(words))
        status.set_class(bool(state.lost), "bad")

    # ---- keys ----------------------------------------------------------------------------------------------------

    def action_filter(self) -> None:
        """Type what names have to have in them."""
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter as it is typed."""
        self._text = event.value
        self._show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter, and go back to the tables."""
        self.query_one("#filter", Input).display = bool(event.value)
        self.processes.focus()

    def action_everything(self) -> None:
        """No filter, all processes."""
        self._only = None
        field = self.query_one("#filter", Input)
        field.value = self._text = ""
        field.display = False
        self.processes.focus()
        self._show()

    def action_only(self) -> None:
        """Only what the process under the cursor and those below it do."""
        if self.processes.has_focus and self.processes.current is not None:
            self._only = self.processes.current[1]
            self._show()

    def action_sort(self) -> None:
        """The next order."""
        orders = list(ORDERS)
        self._order = orders[(orders.index(self._order) + 1) % len(orders)]
        self._show()

    def action_ended(self) -> None:
        """With or without the processes that ended a while ago."""
        self._ended = not self._ended
        self._show()

    def action_pause(self) -> None:
        """Stand still; what comes meanwhile is counted all the same."""
        self._paused = not self._paused
        self._show()

    def action_leave(self) -> None:
        """The end."""
        self.exit(0)
