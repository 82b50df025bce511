-- How do the models compare?
-- Read: one number of one profile per row, to four digits, with its 95 % interval over prompts and
--   the prefix that it came from. Ranks are in dimensions, entropy_floor is a share of ln V.
--   Compare rows of one context, number of prompts and first position. cluster is the field whose
--   clusters an error is over; null: over prompts.
-- Empty: there is no profile. Make them: lpp-analyze profile STORE
WITH numbers AS (
  FROM profiles UNPIVOT INCLUDE NULLS (
    (value, ci_low, ci_high, prefix) FOR metric IN (
      (entropy_floor, entropy_floor_ci_low, entropy_floor_ci_high, entropy_floor_prefix)
        AS entropy_floor,
      (participation_ratio, participation_ratio_ci_low, participation_ratio_ci_high,
        participation_ratio_prefix) AS participation_ratio,
      (effective_rank, effective_rank_ci_low, effective_rank_ci_high, effective_rank_prefix)
        AS effective_rank
    )
  )
)
SELECT
  metric,
  run,
  context,
  n_prompts AS prompts,
  first_position,
  format('{:.4g}', value)::DOUBLE AS value,
  format('{:.4g}', ci_low)::DOUBLE AS ci_low,
  format('{:.4g}', ci_high)::DOUBLE AS ci_high,
  prefix,
  cluster,
  flags
FROM numbers
ORDER BY context, prompts, first_position, metric, numbers.value, run;
