-- How does each number change along a training?
-- Read: one number of one checkpoint per row, by step: ranks in dimensions, entropy_floor as a
--   share of ln V, the others of min(N, d), with standard error and 95 % interval over prompts.
--   Compare rows of one series, prompt set, context, number of prompts and first position.
-- Empty: no profile is of a series. Capture one with --revision step1000,step2000 or `series` in a
--   file of jobs, then: lpp-analyze profile STORE
WITH numbers AS (
  FROM profiles UNPIVOT INCLUDE NULLS (
    (value, stderr, ci_low, ci_high) FOR metric IN (
      (entropy_floor, entropy_floor_stderr, entropy_floor_ci_low, entropy_floor_ci_high)
        AS entropy_floor,
      (participation_ratio, participation_ratio_stderr, participation_ratio_ci_low,
        participation_ratio_ci_high) AS participation_ratio,
      (participation_ratio_norm, participation_ratio_norm_stderr, participation_ratio_norm_ci_low,
        participation_ratio_norm_ci_high) AS participation_ratio_norm,
      (effective_rank, effective_rank_stderr, effective_rank_ci_low, effective_rank_ci_high)
        AS effective_rank,
      (effective_rank_norm, effective_rank_norm_stderr, effective_rank_norm_ci_low,
        effective_rank_norm_ci_high) AS effective_rank_norm
    )
  )
)
SELECT
  series,
  metric,
  step,
  format('{:.4g}', value)::DOUBLE AS value,
  format('{:.2g}', numbers.stderr)::DOUBLE AS stderr,
  format('{:.4g}', ci_low)::DOUBLE AS ci_low,
  format('{:.4g}', ci_high)::DOUBLE AS ci_high,
  numbers.context,
  numbers.n_prompts AS prompts,
  first_position,
  numbers.prompt_set,
  flags,
  run
FROM numbers JOIN runs USING (run)
WHERE series IS NOT NULL
ORDER BY series, numbers.prompt_set, numbers.context, prompts, first_position, metric, step, run;
