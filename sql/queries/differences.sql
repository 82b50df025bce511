-- Is the difference between two models larger than its error?
-- Read: difference is value_a - value_b, in the unit of the metric, with its 95 % interval; verdict
--   says 'differs from 0' where the interval leaves out zero, and 'may be 0' elsewhere. Only runs
--   that read the same prompts are compared, and the jackknife leaves the same group of prompts out
--   of both (paired). A floor or a rank is the extreme over prefixes; the flag different_prefixes
--   says that the two extremes are at different prefixes. Nothing is corrected for the number of
--   rows: if every true difference were zero, one row of twenty would still leave out zero by
--   chance.
-- Empty: no two profiles have the same prompts, site, context and number of prompts. Capture
--   another model on the same corpus, then: lpp-analyze profile STORE
-- The standard error is sqrt((G - 1) / G sum (d_g - mean d)^2), d_g the difference without group g
-- of G. NATURAL joins by what a number is of: run, site, context, n_prompts, first_position,
-- metric, prefix.
WITH parts AS (
  SELECT
    * EXCLUDE (prompt_group, value, student_t, cluster),
    list(value ORDER BY prompt_group) AS parts,
    any_value(student_t) AS student_t,
    any_value(cluster) AS left_out_by
  FROM jackknife
  GROUP BY ALL
),
numbers AS (
  FROM profiles UNPIVOT INCLUDE NULLS (
    (value, prefix) FOR metric IN (
      (entropy_floor, entropy_floor_prefix) AS entropy_floor,
      (participation_ratio, participation_ratio_prefix) AS participation_ratio,
      (participation_ratio_norm, participation_ratio_norm_prefix) AS participation_ratio_norm,
      (effective_rank, effective_rank_prefix) AS effective_rank,
      (effective_rank_norm, effective_rank_norm_prefix) AS effective_rank_norm
    )
  ) NATURAL LEFT JOIN parts
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
    a.value AS value_a,
    b.value AS value_b,
    a.value - b.value AS difference,
    CASE WHEN len(a.parts) = len(b.parts) AND a.left_out_by IS NOT DISTINCT FROM b.left_out_by THEN
      list_transform(list_zip(a.parts, b.parts), lambda pair: pair[1] - pair[2])
    END AS differences,
    a.student_t * sqrt((len(differences) - 1) * list_var_pop(differences)) AS half,
    CASE WHEN a.prefix <> b.prefix THEN ['different_prefixes'] ELSE [] END AS of_pair,
    list_sort(list_distinct(a.flags || b.flags || of_pair)) AS flags
  FROM numbers AS a JOIN numbers AS b
    USING (metric, site, context, n_prompts, first_position, prompt_set)
  WHERE a.run < b.run
)
SELECT
  metric,
  run_a,
  run_b,
  site,
  context,
  n_prompts,
  first_position,
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
  flags
FROM pairs
ORDER BY context, n_prompts, first_position, metric, run_a, run_b;
