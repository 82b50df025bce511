-- What changed between two models, and by how much?
-- Read: value is a mean over tokens, with its 95 % interval over prompts. kl to entropy compare
--   predictions (log_perplexity and entropy are B - A); site is null for them. relative_distance to
--   effective_rank compare the rows of final, or of the deepest site (the two ranks are B - A).
--   Pairs with the largest KL come first. The numbers say how much changed, not whether it matters.
-- Empty: no two runs have been compared. Compare every run with one of them, BASE; lpp-sql STORE
--   --run provenance lists the runs: lpp-analyze diff --against BASE STORE
WITH sites AS (
  FROM drift_sites
  QUALIFY row_number() OVER (
    PARTITION BY run_a, run_b, n_prompts, first_position
    ORDER BY depth DESC, site = 'final' DESC, site LIKE 'router.%'
  ) = 1
),
numbers AS (
  SELECT
    run_a,
    run_b,
    n_prompts,
    first_position,
    n_drawn,
    NULL AS site,
    number,
    unit,
    mean AS value,
    ci_low,
    ci_high,
    n_tokens
  FROM drift_predictions
  UNION ALL BY NAME
  SELECT
    run_a,
    run_b,
    n_prompts,
    first_position,
    0 AS n_drawn,
    site,
    number,
    CASE
      WHEN number = 'relative_distance' THEN 'ratio'
      WHEN number = 'cosine' THEN '-1 to 1'
      WHEN number = 'sqnr' THEN 'dB'
      WHEN number IN ('participation_ratio', 'effective_rank') THEN 'dimensions'
      ELSE 'share'
    END AS unit,
    value,
    ci_low,
    ci_high,
    n_tokens
  FROM sites UNPIVOT (
    (value, ci_low, ci_high) FOR number IN (
      (relative_distance, relative_distance_ci_low, relative_distance_ci_high)
        AS relative_distance,
      (cosine, cosine_ci_low, cosine_ci_high) AS cosine,
      (sqnr, sqnr_ci_low, sqnr_ci_high) AS sqnr,
      (cka, cka_ci_low, cka_ci_high) AS cka,
      (overlap, overlap_ci_low, overlap_ci_high) AS overlap,
      (participation_ratio, participation_ratio_ci_low, participation_ratio_ci_high)
        AS participation_ratio,
      (effective_rank, effective_rank_ci_low, effective_rank_ci_high) AS effective_rank
    )
  )
)
SELECT
  run_a,
  run_b,
  n_prompts,
  first_position,
  n_drawn,
  site,
  number,
  unit,
  format('{:.4g}', value)::DOUBLE AS value,
  format('{:.4g}', ci_low)::DOUBLE AS ci_low,
  format('{:.4g}', ci_high)::DOUBLE AS ci_high,
  n_tokens
FROM numbers
ORDER BY
  max(CASE WHEN number = 'kl' THEN numbers.value END) OVER (PARTITION BY run_a, run_b)
    DESC NULLS LAST,
  run_a,
  run_b,
  n_prompts DESC,
  first_position,
  n_drawn,
  list_position([
    'kl', 'kl_reverse', 'js', 'tv', 'ear', 'flips', 'same_top_p', 'top10', 'next_logprob',
    'rms_logprob', 'log_perplexity', 'perplexity_ratio', 'entropy', 'relative_distance', 'cosine',
    'sqnr', 'cka', 'overlap', 'participation_ratio', 'effective_rank'
  ], number);
