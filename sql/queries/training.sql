-- How does each number change along a training?
-- Read: one number of one checkpoint per row, by step, with its standard error over prompts. Ranks
--   are in dimensions, entropy_floor is a share of ln V. Compare rows of one series, prompt set,
--   context, number of prompts and first position.
-- Empty: no profile belongs to a series. Capture one with --revision step1000 --series NAME, then:
--   lpp-analyze profile STORE
WITH numbers AS (
  FROM profiles UNPIVOT INCLUDE NULLS (
    (value, stderr) FOR metric IN (
      (entropy_floor, entropy_floor_stderr) AS entropy_floor,
      (participation_ratio, participation_ratio_stderr) AS participation_ratio,
      (effective_rank, effective_rank_stderr) AS effective_rank
    )
  )
)
SELECT
  series,
  metric,
  step,
  format('{:.4g}', value)::DOUBLE AS value,
  format('{:.2g}', numbers.stderr)::DOUBLE AS stderr,
  numbers.context,
  numbers.n_prompts AS prompts,
  first_position,
  numbers.prompt_set,
  numbers.cluster,
  flags,
  run
FROM numbers JOIN runs USING (run)
WHERE series IS NOT NULL
ORDER BY series, numbers.prompt_set, numbers.context, prompts, first_position, metric, step, run;
