-- Is the difference between two models more than their errors?
-- Read: difference is that of run_a from run_b, in the unit of the metric; beyond says whether its
--   95 % interval leaves out zero. Errors are taken as independent, which is mostly too careful
--   where both read the same texts (same_texts), and nothing is corrected for the number of rows:
--   of twenty true zeros, one lies beyond by chance.
-- Empty: no two profiles share a site, a context and a number of prompts, or none has errors.
--   Capture another model on the same corpus, then: lpp-analyze profile STORE
-- The half-widths of two independent intervals add in squares (Zou and Donner 2008).
WITH numbers AS (
  SELECT *, (ci_high - ci_low) / 2 AS half
  FROM profiles UNPIVOT (
    (value, ci_low, ci_high) FOR metric IN (
      (entropy_floor, entropy_floor_ci_low, entropy_floor_ci_high) AS entropy_floor,
      (participation_ratio, participation_ratio_ci_low, participation_ratio_ci_high)
        AS participation_ratio,
      (participation_ratio_norm, participation_ratio_norm_ci_low,
        participation_ratio_norm_ci_high) AS participation_ratio_norm,
      (effective_rank, effective_rank_ci_low, effective_rank_ci_high) AS effective_rank,
      (effective_rank_norm, effective_rank_norm_ci_low, effective_rank_norm_ci_high)
        AS effective_rank_norm
    )
  )
),
pairs AS (
  SELECT
    metric,
    a.run AS run_a,
    b.run AS run_b,
    context,
    n_prompts,
    a.value - b.value AS difference,
    sqrt(a.half ** 2 + b.half ** 2) AS half,
    a.prompt_set = b.prompt_set AS same_texts,
    list_sort(list_distinct(a.flags || b.flags)) AS flags
  FROM numbers AS a JOIN numbers AS b USING (metric, site, context, n_prompts)
  WHERE a.run < b.run AND a.half IS NOT NULL AND b.half IS NOT NULL
)
SELECT
  metric,
  run_a,
  run_b,
  context,
  n_prompts AS prompts,
  format('{:.4g}', difference)::DOUBLE AS difference,
  format('{:.4g}', difference - half)::DOUBLE AS ci_low,
  format('{:.4g}', difference + half)::DOUBLE AS ci_high,
  abs(difference) > half AS beyond,
  same_texts,
  flags
FROM pairs
ORDER BY context, prompts, metric, run_a, run_b;
