"""What holds for every result of `lpp.analyze`: its frames are rows of the database, and it prints
as one.
"""

from collections.abc import Collection
from pathlib import Path

from polars.testing import assert_frame_equal

from lpp.analyze.tables.database import read_table
from lpp.analyze.tables.result import TableResult
from lpp.sql.schema import TABLES, arrow_schema


def check_frames(found: TableResult, root: Path, *, beside: Collection[str] = ()) -> None:
    """Check that the database at `root`, into which `found` was just written, holds its frames and
    no other rows of the same analysis. beside: frames that no table has.
    """
    frames = found.frames()
    assert {*frames} == {*beside, *(name for name in frames if name in TABLES)}
    for name in frames.keys() - {*beside}:
        table, columns = TABLES[name], arrow_schema(name).names
        stored = read_table(root, name).select(columns).sort(table.key)
        made = frames[name].select(columns).cast(stored.schema).sort(table.key)
        if same := [column for column in table.key if made[column].n_unique() == 1]:
            stored = stored.join(made, on=same, how="semi", maintain_order="left")
        assert_frame_equal(made, stored, check_exact=True)
    assert any(len(frame) for frame in frames.values())


def check_printed(found: TableResult, table: str, *columns: str) -> None:
    """Check that `found` prints the values of `columns` of its frame `table`, in 80 characters."""
    text, rows = repr(found), found.frames()[table]
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    for name, frame in found.frames().items():
        assert f"{name} ({len(frame):,} row" in " ".join(lines)
    head = lines[lines.index(f"{table}:") + 2]
    cells = [[cell.strip() for cell in line.split("┆")] for line in lines if "┆" in line]
    shown = [cell.strip() for cell in head.strip("│").split("┆")]
    assert {*columns} <= {*shown}
    for column in columns:
        k = shown.index(column)
        found_cells = [line[k].strip("│ ") for line in cells[1:] if "…" not in line[k]]
        expected = rows[column].to_list()
        for cell, value in zip(found_cells[:4], expected[:4], strict=True):
            if isinstance(value, float):
                assert abs(float(cell) - value) <= 1e-5 * abs(value) + 1e-6
            else:
                assert cell == str(value)
