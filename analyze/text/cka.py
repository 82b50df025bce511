"""CKA as text for a terminal."""

import io

import polars as pl

from lpp.analyze.text.names import NAMELESS, Names, legend
from lpp.analyze.text.text import explained, marks, number, numbered, plain_table, rendered


def as_text(found: pl.DataFrame, names: Names = NAMELESS) -> str:
    """The pairs of each run, at 80 columns; names: of the runs."""
    out = io.StringIO()
    numbers = numbered([flag for flags in found["flags"] for flag in flags])
    for of_run in found.partition_by("run", maintain_order=True):
        first = of_run.row(0, named=True)
        common = sorted(set.intersection(*map(set, of_run["flags"])))
        name = names.get(first["run"], first["run"])
        print(
            f"\n{name}\nLinear CKA of {first['n_tokens']:,} tokens: "
            f"{first['n_prompts']} prompts, prefix {first['prefix']}"
            + (f", positions from {first['first_position']}." if first["first_position"] else ".")
            + (f" Flags: {', '.join(common)}." if common else ""),
            file=out,
        )
        shown = plain_table()
        for head in ("site", "other site"):
            shown.add_column(head, no_wrap=True)
        shown.add_column("CKA", justify="right", no_wrap=True)
        shown.add_column("", no_wrap=True)
        for row in of_run.iter_rows(named=True):
            own = [flag for flag in row["flags"] if flag not in common]
            shown.add_row(row["site"], row["other_site"], number(row["cka"]), marks(own, numbers))
        out.write(rendered(shown))
    out.write(legend(names, found["run"]))
    out.writelines(f"{line}\n" for line in explained(numbers))
    return out.getvalue()
