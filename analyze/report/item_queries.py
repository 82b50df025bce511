"""Queries on the analyses of items that the database holds."""

from dataclasses import asdict
from typing import Final

from lpp.analyze.evaluations.pages import items_page_tables as page_tables
from lpp.analyze.evaluations.pages.items_page import OF_ANALYSIS
from lpp.analyze.report.queries import Query, whole
from lpp.sql import saved_query

_COMMAND: Final = "lpp-analyze items STORE --task TASK"
_EVAL: Final = "lpp-capture eval --model MODEL --tasks TASK --store STORE"

_KEY: Final = ", ".join(OF_ANALYSIS)
_RENAMED: Final = ", ".join(f"{old} AS {new}" for old, new in page_tables.RENAMED.items())
_FEATURES: Final = f"SELECT * RENAME ({_RENAMED})\nFROM item_features"

ITEM_ANALYSES: Final = Query(
    **asdict(page_tables.ANALYSES),
    sql=f"SELECT * FROM item_analyses ORDER BY {_KEY}",
    command=_COMMAND,
)

ITEM_FEATURES: Final = Query(
    **asdict(page_tables.OF_ITEMS),
    sql=f"{_FEATURES}\nWHERE site = '' AND auroc IS NOT NULL\n"
    f"ORDER BY {_KEY}, list_position({[*page_tables.ROLES]}, role),\n"
    "  abs(coalesce(within_auroc, auroc) - 0.5) DESC NULLS LAST, feature",
    command=_COMMAND,
)

ITEM_SITES: Final = Query(
    **asdict(page_tables.OF_SITES),
    sql=f"{_FEATURES}\nWHERE site <> '' AND auroc IS NOT NULL\n"
    f"ORDER BY {_KEY}, feature, depth, site",
    command=_COMMAND,
)

ITEM_CONTROLS: Final = Query(
    **asdict(page_tables.CONTROLS),
    sql=f"{_FEATURES}\nORDER BY {_KEY}, site <> '', feature, depth, site",
    command=_COMMAND,
)

ITEM_RELIABILITY: Final = Query(
    **asdict(page_tables.RELIABILITY),
    sql=f"SELECT * FROM item_reliability ORDER BY {_KEY}, bin",
    command=_COMMAND,
)

ITEM_RISK: Final = Query(
    **asdict(page_tables.RISK),
    sql=f"SELECT * FROM item_risk ORDER BY {_KEY}, n_answered",
    command=_COMMAND,
)

ITEM_MISTAKES: Final = Query(
    **asdict(page_tables.MISTAKES),
    sql="SELECT item, item_group, question, chosen AS chosen_answer, confidence,\n"
    "  gold AS gold_answer, gold_share, task, run\n"
    f"FROM (\n{saved_query('confident_mistakes').statement}\n)",
    command=_EVAL,
)

ITEM_EVALUATED: Final = Query(
    "item-evaluated",
    "Evaluated tasks of the store",
    "items",
    ("source", "task", "run", "filter"),
    "from lpp.store.scores.items import read_items\n\nread_items(STORE)",
    _EVAL,
    language="Python",
)

ITEM_QUERIES: Final = (
    *(ITEM_ANALYSES, ITEM_FEATURES, ITEM_SITES, ITEM_CONTROLS, ITEM_RELIABILITY, ITEM_RISK),
    whole("item_features"),
)
"""Queries that need only the tables. Mistakes need the views; evaluated tasks are in the store."""
