"""Targets of a teacher as a page: what each number of them leaves out, and its bytes."""

import shlex
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.pages.data import with_names
from lpp.analyze.pages.page import Opening, Page, Section
from lpp.analyze.pages.table import table_of
from lpp.analyze.pages.words import Code, Run, Sentence, number, percent
from lpp.analyze.quantities.flags import MEANING
from lpp.analyze.studies.pages.profile_summary import run_warnings
from lpp.analyze.studies.teacher import COLUMNS, TargetCosts
from lpp.store.units import short_bytes

_USUAL: Final = 64
"""The k of the conclusion, or the nearest."""

_LABELS: Final = {
    "left_out": "left out",
    "left_out_p95": "95th percentile",
    "kl_bias": "KL bias",
    "kl_noise": "KL noise",
    "token_bytes": "bytes a token",
}


def teacher_page(url: str, answer: TargetCosts, name: str) -> Page:
    """The page of `answer`, about the store at `url`. name: short name of its run."""
    run = str(answer.rows["run"][0])
    first = ("targets", "count", *_LABELS)
    table = table_of(
        "targets",
        "Targets of a token",
        answer.rows,
        {column.name: column for column in COLUMNS},
        first=(*first, "flags") if answer.rows["flags"].list.len().sum() else first,
        labels=_LABELS,
        styles={"left_out": "percent", "left_out_p95": "percent"},
        key=("run", "targets", "count"),
        code="target_costs(run)",
    )
    return Page(
        title="Targets of a teacher",
        opening=Opening(
            _conclusion(answer, run),
            f"{answer.n_tokens:,} tokens of the first {answer.n_prompts:,} prompts",
            warnings=tuple(run_warnings(answer.rows)),
        ),
        sections=(
            Section(
                "targets",
                "The k most likely tokens, samples, and the exact teacher",
                "KL bias: -ln of the probability kept, mean. Samples have noise in its place.",
                tables=(table,),
                short="Targets",
                more="KL bias is KL(q || p), where p is the teacher and q the k most likely tokens "
                "divided by their sum: what a student that learns q is away from p. KL noise is "
                "the standard deviation of the loss of one token where the student is p. Bytes "
                "are those of the Parquet file of lpp-analyze export, token ids included, and for "
                "the exact teacher those of final; its head takes "
                f"{short_bytes(answer.head_bytes)} once.",
            ),
        ),
        meanings=MEANING,
        runs=RunStyles({run: name}),
        next=(
            f"lpp-analyze export {shlex.quote(url)} {shlex.quote(run)} --targets topk "
            f"--k {(_usual(answer) or {'count': _USUAL})['count']} -o targets.parquet",
        ),
        document={
            "n_prompts": answer.n_prompts,
            "n_tokens": answer.n_tokens,
            "head_bytes": answer.head_bytes,
            "targets": with_names(answer.rows, {run: name}).to_dicts(),
        },
        csv=with_names(answer.rows, {run: name}),
        store=url,
    )


def _usual(answer: TargetCosts) -> dict[str, Any] | None:
    """The row of the usual k, or of the nearest; None without any."""
    top = answer.rows.filter(targets="topk").sort((pl.col("count") - _USUAL).abs())
    return None if top.is_empty() else top.row(0, named=True)


def _conclusion(answer: TargetCosts, run: str) -> Sentence:
    """What the usual k leaves out, beside the exact teacher."""
    exact, row = answer.rows.filter(targets="exact").row(0, named=True), _usual(answer)
    near = " (rounded to 8 bits, so nearly)" if exact["flags"] else ""
    rest: Sentence = (
        Code("final"),
        f" gives all of it{near} in {exact['token_bytes']:,.0f}, and its head in "
        f"{short_bytes(answer.head_bytes)} once.",
    )
    if row is None:
        return (Run(run), ": ", *rest)
    return (
        f"The {row['count']:,} most likely tokens of ",
        Run(run),
        f" leave out {percent(row['left_out'])} of the probability, a KL of "
        f"{number(row['kl_bias'])} nats, in {row['token_bytes']:,.0f} bytes a token; ",
        *rest,
    )
