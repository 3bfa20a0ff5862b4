"""Tables that are described once and shown in the terminal and in a report."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from neurofleet.jobs.reports import html
from neurofleet.neurosim.recordings.recording_table import HEAD, NUMBERS, RecordingTable


@dataclass(frozen=True)
class ReportTable:
    """Columns and rows of text.

    Attributes
    ----------
    head : sequence of str
    rows : sequence of sequence
        Values are shown as `str` writes them.
    numbers : sequence of int
        Columns that are flush right.
    title : str
        In the terminal; a report has headings of its own.
    no_wrap : collection of int
        Columns whose text is not wrapped in the terminal.
    optional : collection of int
        Columns that are left out where they are empty.
    grouped : bool
        Whether the terminal leaves the first column blank where it repeats the row above.
    compact : bool
        Whether the terminal shows it without vertical lines and folds long words.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    numbers: Sequence[int] = ()
    title: str = ""
    no_wrap: Collection[int] = ()
    optional: Collection[int] = ()
    grouped: bool = False
    compact: bool = False

    def print(self, console: Console) -> None:
        """Print it on a terminal."""
        table = Table(
            title=self.title or None,
            title_justify="left" if self.compact else "center",
            box=SIMPLE_HEAD if self.compact else HEAVY_HEAD,
            padding=(0, 1, 0, 0) if self.compact else (0, 1),
        )
        shown = self._shown()
        for i in shown:
            table.add_column(
                self.head[i],
                justify="right" if i in self.numbers else "left",
                no_wrap=i in self.no_wrap,
                overflow="fold",
            )
        last: object = None
        for row in self.rows:
            repeated = self.grouped and row[0] == last
            table.add_row(*(Text("" if i == 0 and repeated else str(row[i])) for i in shown))
            last = row[0]
        console.print(table)

    def _shown(self) -> list[int]:
        return [i for i in range(len(self.head)) if i not in self.optional or any(row[i] for row in self.rows)]

    def html(self) -> str:
        """Return it as HTML."""
        shown = self._shown()
        rows = [[row[i] for i in shown] for row in self.rows]
        numbers = [place for place, i in enumerate(shown) if i in self.numbers]
        return html.table([self.head[i] for i in shown], rows, numbers)


def table_of_recording(table: RecordingTable) -> ReportTable:
    """Return the sweeps of a recording, for the terminal and for pages."""
    return ReportTable(HEAD, [row.cells() for row in table.rows], NUMBERS, no_wrap=range(len(HEAD) - 1), compact=True)


def print_line(console: Console, text: str) -> None:
    """Print a line as it is: names of files and features are no markup."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)
