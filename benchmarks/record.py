"""Results as they come in: a JSON file a section, a row at a time: a run can go on later."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.round_trip import round_trip
from bessemer.frontends.cli.output import write_note

RESULTS = Path(__file__).parent / "results"

Row = dict[str, Any]

WITHOUT = "without"
"""Of a row: the packages of other systems that it lacks, for they were not installed."""

ROUND_TRIP = "round_trip_ns"
"""Of a row: nanoseconds that a flag takes from one core to another and back."""


def todays_folder() -> Path:
    """Where a run keeps its results unless told otherwise."""
    return RESULTS / datetime.date.today().isoformat()


@dataclass(frozen=True)
class Record:
    """A folder of results. With `again` what is there is measured anew."""

    folder: Path
    again: bool = False

    def rows(self, section: str) -> dict[str, Row]:
        """What is known of a section, by the rows' names."""
        path = self.folder / f"{section}.json"
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def keep(self, section: str, name: str, row: Row) -> None:
        """Adds a row, or replaces it; the file is whole at any moment."""
        rows = self.rows(section) | {name: row}
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{section}.part"
        part.write_text(json.dumps(rows, indent=1) + "\n")
        part.replace(self.folder / f"{section}.json")

    def fill(
        self,
        section: str,
        names: Iterable[str],
        measure: Callable[[str], Mapping[str, Any]],
        absent: Collection[str] = (),
    ) -> dict[str, Row]:
        """Measures what is missing, one after the other; a failure is a row that says why, and is
        tried again the next time. So is a row without a system that has been installed since:
        `absent` are the packages of those to compare with that are not. Rows of several threads say
        how long a flag took from core to core right behind them: two virtual cores may be far from
        each other, for some minutes."""
        wanted = list(names)
        if wanted and absent:
            write_note(f"{section}: not compared with {', '.join(absent)}: not installed")
        for number, name in enumerate(wanted, 1):
            known = self.rows(section).get(name)
            if known is not None and not self.again and _is_complete(known, absent):
                continue
            write_note(f"{section} [{number}/{len(wanted)}] {name}")
            try:
                row = dict(measure(name))
                if absent:
                    row[WITHOUT] = list(absent)
                if _has_several_threads(name) and (trip := round_trip()) is not None:
                    row[ROUND_TRIP] = round(trip * 1e9)
            except Exception as error:
                row = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
                write_note(f"  {row['failed']}", style="red")
            self.keep(section, name, row)
        rows = self.rows(section)
        return {name: rows[name] for name in wanted}


def _is_complete(row: Row, absent: Collection[str]) -> bool:
    return "failed" not in row and set(row.get(WITHOUT, ())) <= set(absent)


def _has_several_threads(name: str) -> bool:
    threads = name.rpartition("/")[2]
    return threads.isdecimal() and int(threads) > 1
