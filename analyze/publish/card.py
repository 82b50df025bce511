"""The card of a publication: `README.md` for people and for the hub, `card.json` for programs."""

import json
from collections.abc import Mapping
from importlib import resources
from importlib.metadata import version
from typing import Any, Final

from lpp.analyze.pages.markdown import escaped
from lpp.analyze.pages.page import Origin
from lpp.analyze.publish.selection import Chosen
from lpp.analyze.questions import PublishSettings
from lpp.sql.schema import TABLES
from lpp.store.format.keys import HIDDEN_KEY
from lpp.store.runs.read import Run

CARD_KEY: Final = "card.json"
"""What is published, from which runs, under which licence; it makes a store a publication."""

README_KEY: Final = "README.md"

REPORT_KEY: Final = "report.html"

TABLES_KEY: Final = "tables"
"""Folder of the tables as Parquet files."""

CARD_VERSION: Final = 1


def card_document(chosen: Chosen, settings: PublishSettings, title: str) -> dict[str, Any]:
    """The content of `card.json`, without the tables, which are known at the end."""
    return {
        "version": CARD_VERSION,
        "title": title,
        "texts": settings.with_texts,
        "licence": settings.licence,
        "source": settings.source,
        "fields": list(chosen.fields),
        "runs": [
            {
                "run": chosen.ids[run.id],
                "source_run": run.id,
                "name": run.name,
                "model": run.plan.model.id,
                "corpus": run.plan.corpus.name,
                "sites": [site for site in run.sites if site in chosen.sites],
            }
            for run in chosen.runs
        ],
        "written_by": f"lpp-engine {version('lpp-engine')}",
    }


def card_json(document: Mapping[str, Any]) -> bytes:
    """The bytes of `card.json`."""
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def card_text(document: Mapping[str, Any], origin: Origin, copy: Run | None, numbers: str) -> str:
    """The text of `README.md`.

    origin: of the report, which says how each run was captured. copy: a run that is published with
    its rows. numbers: the report in Markdown.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"escaped": escaped, "json": json.dumps}
    template = resources.files("lpp.analyze.publish").joinpath("card.md.j2").read_text("utf-8")
    return environment.from_string(template).render(
        card=document,
        facts={of_run.run: of_run.facts for of_run in origin.runs},
        copy=copy,
        rows=_rows(copy),
        numbers=numbers,
        meaning={name: TABLES[name].meaning for name in document["tables"]},
        first=f"{TABLES_KEY}/{'profiles' if 'profiles' in document['tables'] else 'runs'}",
    )


def _rows(copy: Run | None) -> dict[str, Any] | None:
    """Where the rows of the last site of the first shard are, for readers of Zarr."""
    if copy is None:
        return None
    site, group = copy.plan.sites[-1], copy.shards[0].objects_dir / HIDDEN_KEY
    root = copy.path.parent.parent
    return {
        "group": str(group)[len(str(root)) + 1 :],
        "site": site.name,
        "bits": copy.plan.dtype_of(site) == "bfloat16",
    }
