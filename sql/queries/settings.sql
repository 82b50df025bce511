-- How does a number change with context and prompts?
-- Read: value is one number of one run at one site and setting, to four digits, with its standard
--   error and its flags. change is value divided by that at the run's longest context and most
--   prompts, minus 1. entropy_floor is the minimum over prefixes, a rank the maximum.
-- Empty: there is no profile. Compute them at several settings (--context 50,100 --prompts 10,50):
--   lpp-analyze profile STORE
WITH numbers AS (
  FROM site_profiles UNPIVOT INCLUDE NULLS (
    (value, stderr) FOR metric IN (
      (entropy_floor, entropy_floor_stderr) AS entropy_floor,
      (participation_ratio, participation_ratio_stderr) AS participation_ratio,
      (effective_rank, effective_rank_stderr) AS effective_rank
    )
  )
)
SELECT
  metric,
  run,
  site,
  first_position,
  context,
  n_prompts AS prompts,
  format('{:.4g}', value)::DOUBLE AS value,
  format('{:.2g}', stderr)::DOUBLE AS stderr,
  format('{:.2g}', value / last_value(value) OVER (
    PARTITION BY metric, run, site, first_position ORDER BY context, n_prompts
    ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
  ) - 1)::DOUBLE AS change,
  cluster,
  flags
FROM numbers
ORDER BY metric, run, site, first_position, context, prompts;
