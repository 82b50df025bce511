"""Scores on benchmarks, their correlations with profiles, and what was published."""

from typing import Final

from lpp.sql.schema.columns import CONTEXT, N_PROMPTS, SITE, Column, Table

BENCHMARKS: Final = Table(
    "benchmarks",
    "scores of models on benchmarks, as published by their sources",
    "lpp-analyze benchmarks add STORE FILE",
    ("model", "benchmark", "metric", "source"),
    (
        Column("model", "VARCHAR", "name of the model in the source"),
        Column("run", "VARCHAR", "run that the score belongs to; null: none, or several"),
        Column("benchmark", "VARCHAR", "task"),
        Column("metric", "VARCHAR", "name of the score"),
        Column("source", "VARCHAR", "origin of the scores: do not compare scores of two sources"),
        Column("kind", "VARCHAR", "source format: lm-eval, inspect, leaderboard, csv, probe"),
        Column("value", "DOUBLE", "score", "of the metric"),
        Column("stderr", "DOUBLE", "standard error of the score", "of the metric"),
        Column("n", "BIGINT", "items scored", "items"),
        Column("matched", "VARCHAR", "how run was found: said, exact, name, none, several"),
        Column("match_note", "VARCHAR", "why there is no run; empty if there is one"),
    ),
)

ITEMS: Final = Table(
    "items",
    "one row per item of an evaluated task, model and filter, read from the store",
    "lpp-capture eval --tasks TASK --store STORE",
    ("source", "model", "item", "filter"),
    (
        Column("source", "VARCHAR", "as in the table benchmarks"),
        Column("model", "VARCHAR", "as in benchmarks"),
        Column("run", "VARCHAR", "run whose passes scored it; null: all set aside"),
        Column("task", "VARCHAR", "task of lm-eval; prompts.task of its prompts"),
        Column("item", "INTEGER", "index in the task, from 0; prompts.item"),
        Column("filter", "VARCHAR", "filter applied to the answers before scoring"),
        Column("item_group", "VARCHAR", "value of the --group field, such as a subject"),
        Column("prompt_ids", "INTEGER[]", "prompt of each answer; null: it was set aside"),
        Column("log_likelihoods", "DOUBLE[]", "ln p of each answer; -inf: set aside", "nats"),
        Column("greedy", "BOOLEAN[]", "for each answer, whether its tokens are the most likely"),
        Column("gold", "INTEGER", "right answer, from 0; null: none, or several"),
        Column("chosen", "INTEGER", "answer with the largest ln p, from 0"),
        Column("correct", "BOOLEAN", "right by acc, exact_match or the task; null: unknown"),
        Column("metrics", "JSON", "every metric that gives one number per item"),
        Column("doc_sha256", "VARCHAR", "lm-eval's hash of the document"),
        Column("item_cluster", "VARCHAR", "cluster: items with the same value are not independent"),
        Column("n_answer", "INTEGER[]", "tokens of each answer; null: set aside, or unknown"),
    ),
)
"""The view over the items of evaluations that `lpp.sql.connect` adds."""

CORRELATIONS: Final = Table(
    "correlations",
    "correlation of a profile metric with a benchmark, across models",
    "lpp-analyze correlate STORE",
    ("profile_metric", "benchmark", "benchmark_metric", "source", "method", "controlled_for"),
    (
        Column("profile_metric", "VARCHAR", "column of site_profiles"),
        Column("benchmark", "VARCHAR", "task"),
        Column("benchmark_metric", "VARCHAR", "name of the score"),
        Column("source", "VARCHAR", "source of the scores"),
        Column("method", "VARCHAR", "pearson, spearman or rank_partial"),
        Column("controlled_for", "VARCHAR", "such as n_parameters; empty: nothing"),
        SITE,
        CONTEXT,
        N_PROMPTS,
        Column("n_models", "INTEGER", "models with both values", "models"),
        Column("coefficient", "DOUBLE", "-1 to 1; null: not computed, see flags"),
        Column("ci_low", "DOUBLE", "lower end of its 95 % interval"),
        Column("ci_high", "DOUBLE", "upper end of its 95 % interval"),
        Column("p_value", "DOUBLE", "two-sided p, uncorrected", "probability"),
        Column("q_value", "DOUBLE", "p after Benjamini-Hochberg", "probability"),
        Column("family_size", "INTEGER", "tests corrected together: source, method", "tests"),
        Column("models", "VARCHAR[]", "runs included"),
        Column("flags", "VARCHAR[]", "why a number may mislead; empty when none"),
    ),
)

PUBLISHED: Final = Table(
    "published",
    "the eight models of arXiv 2605.30018, as published, for reference; not runs of this store",
    "lpp-analyze profile STORE",
    ("model",),
    (
        Column("model", "VARCHAR", "hub id of the model"),
        Column("source", "VARCHAR", "always published"),
        Column("n_parameters", "BIGINT", "nominal: from the name of the model", "parameters"),
        Column("corpus", "VARCHAR", "source of the prompts"),
        Column("n_prompts", "INTEGER", "prompts profiled", "prompts"),
        CONTEXT,
        Column("prefixes", "INTEGER[]", "prefixes over which the extremes are taken", "tokens"),
        Column("entropy_floor", "DOUBLE", "smallest entropy_norm", "share"),
        Column("participation_ratio_norm", "DOUBLE", "largest over the prefixes", "share"),
        Column("effective_rank_norm", "DOUBLE", "largest over the prefixes", "share"),
        Column("ifeval", "DOUBLE", "IFEval, Open LLM Leaderboard 2", "percent"),
        Column("bbh", "DOUBLE", "BBH, Open LLM Leaderboard 2", "percent"),
        Column("mmlu_pro", "DOUBLE", "MMLU-PRO, Open LLM Leaderboard 2", "percent"),
        Column("spc_f1", "DOUBLE", "symbolic patterns: token F1", "share"),
        Column("spc_exact_match", "DOUBLE", "symbolic patterns: exact match", "share"),
        Column("ar_accuracy", "DOUBLE", "ambiguous reasoning: right answers", "share"),
        Column("ar_overconfidence", "DOUBLE", "ambiguous reasoning", "share"),
        Column("ar_underconfidence", "DOUBLE", "ambiguous reasoning", "share"),
        Column("flags", "VARCHAR[]", "why a number of the profile may mislead"),
        Column("citation", "VARCHAR", "where the numbers were published"),
    ),
)
