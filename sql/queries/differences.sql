-- Is the difference between two models larger than its error?
-- Read: difference is value_b - value_a, in the unit of the metric, with its 95 % interval; verdict
--   says 'differs from 0' where the interval leaves out zero, and 'may be 0' elsewhere. A floor or
--   a rank is the extreme over prefixes: value_a is that of run A, at prefix, and value_b is the
--   number of run B at the same prefix. extreme_b is the extreme of run B; the flag
--   different_prefixes says that it is at another prefix, extreme_b_prefix. Only runs that read the
--   same prompts are compared, and the jackknife leaves the same group of prompts out of both
--   (paired); errors by clusters and by neighbouring prompts give no interval together. Nothing is
--   corrected for the number of rows: if every true difference were zero, one row of twenty would
--   still leave out zero by chance.
-- Empty: no two profiles have the same prompts, site, context and number of prompts. If two runs
--   have the same prompts, profile both; else capture another model on the same corpus. Then:
--   lpp-analyze profile STORE
-- The standard error is sqrt((G - 1) / G sum (d_g - mean d)^2), d_g the difference without group g
-- of G.
WITH base AS (  -- the run that is A in all of its pairs; another one: SELECT 'its id' AS run
  SELECT min(run) AS run FROM profiles
),
parts AS (
  SELECT
    * EXCLUDE (prompt_group, value, student_t, cluster),
    list(value ORDER BY prompt_group) AS parts,
    any_value(student_t) AS student_t,
    any_value(cluster) AS left_out_by
  FROM jackknife
  GROUP BY ALL
),
extremes AS (
  FROM profiles UNPIVOT INCLUDE NULLS (
    (value, prefix) FOR metric IN (
      (entropy_floor, entropy_floor_prefix) AS entropy_floor,
      (participation_ratio, participation_ratio_prefix) AS participation_ratio,
      (participation_ratio_norm, participation_ratio_norm_prefix) AS participation_ratio_norm,
      (effective_rank, effective_rank_prefix) AS effective_rank,
      (effective_rank_norm, effective_rank_norm_prefix) AS effective_rank_norm
    )
  )
),
by_prefix AS (
  SELECT run, site, context, n_prompts, first_position, prefix, metric, value
  FROM (FROM spectra SEMI JOIN profiles USING (run, site)) UNPIVOT (
    value FOR metric IN (
      participation_ratio, participation_ratio_norm, effective_rank, effective_rank_norm
    )
  )
  UNION ALL BY NAME
  SELECT run, site, context, n_prompts, first_position, prefix, 'entropy_floor' AS metric,
    entropy_norm AS value
  FROM entropy JOIN profiles USING (run, context, n_prompts)
),
pairs AS (
  SELECT
    metric,
    a.run AS run_a,
    b.run AS run_b,
    site,
    context,
    n_prompts,
    first_position,
    a.prefix AS prefix,
    a.value AS value_a,
    CASE WHEN b.prefix = a.prefix THEN b.value ELSE at_prefix.value END AS value_b,
    b.value AS extreme_b,
    b.prefix AS extreme_b_prefix,
    list_sort(list_distinct(
      a.flags || b.flags || CASE WHEN a.prefix <> b.prefix THEN ['different_prefixes'] ELSE [] END
    )) AS flags
  FROM extremes AS a JOIN extremes AS b
    USING (metric, site, context, n_prompts, first_position, prompt_set)
  CROSS JOIN base
  LEFT JOIN by_prefix AS at_prefix
    ON at_prefix.run = b.run AND at_prefix.prefix = a.prefix AND at_prefix.metric = a.metric
    AND at_prefix.site = a.site AND at_prefix.context = a.context
    AND at_prefix.n_prompts = a.n_prompts AND at_prefix.first_position = a.first_position
  WHERE a.run <> b.run AND (a.run = base.run OR (b.run <> base.run AND a.run < b.run))
),
differences AS (
  SELECT
    pairs.*,
    value_b - value_a AS difference,
    CASE WHEN len(a.parts) = len(b.parts) AND a.left_out_by IS NOT DISTINCT FROM b.left_out_by THEN
      list_transform(list_zip(a.parts, b.parts), lambda pair: pair[2] - pair[1])
    END AS without_groups,
    a.student_t * sqrt((len(without_groups) - 1) * list_var_pop(without_groups)) AS half,
    CASE WHEN half IS NOT NULL THEN a.left_out_by END AS cluster
  FROM pairs
  LEFT JOIN parts AS a ON a.run = run_a
    AND (a.site, a.context, a.n_prompts, a.first_position, a.metric, a.prefix)
      = (pairs.site, pairs.context, pairs.n_prompts, pairs.first_position, pairs.metric,
        pairs.prefix)
  LEFT JOIN parts AS b ON b.run = run_b
    AND (b.site, b.context, b.n_prompts, b.first_position, b.metric, b.prefix)
      = (pairs.site, pairs.context, pairs.n_prompts, pairs.first_position, pairs.metric,
        pairs.prefix)
)
SELECT
  metric,
  run_a,
  run_b,
  site,
  context,
  n_prompts,
  first_position,
  prefix,
  format('{:.4g}', value_a)::DOUBLE AS value_a,
  format('{:.4g}', value_b)::DOUBLE AS value_b,
  format('{:.4g}', difference)::DOUBLE AS difference,
  format('{:.4g}', difference - half)::DOUBLE AS difference_ci_low,
  format('{:.4g}', difference + half)::DOUBLE AS difference_ci_high,
  CASE
    WHEN isfinite(difference) IS NOT true THEN 'missing value'
    WHEN isfinite(half) IS NOT true THEN 'no interval'
    WHEN abs(difference) > half THEN 'differs from 0'
    ELSE 'may be 0'
  END AS verdict,
  format('{:.4g}', extreme_b)::DOUBLE AS extreme_b,
  extreme_b_prefix,
  cluster,
  flags
FROM differences
ORDER BY context, n_prompts, first_position, metric, run_a, run_b;
