-- How do my models compare with the published ones?
-- Read: one profile per row; source is published for those of arXiv 2605.30018. Compare only
--   profiles of the same corpus, context and number of prompts; the published ones read 100 prompts
--   of Alpaca at a context of 150 tokens. The normalised ranks vary mostly as 1 / hidden size.
-- Empty: there is neither a profile nor the published table. Make both: lpp-analyze profile STORE
SELECT
  profiles.model || CASE WHEN untrained_seed IS NULL THEN '' ELSE ' (untrained)' END AS model,
  'this store' AS source,
  profiles.corpus,
  profiles.context,
  profiles.n_prompts AS prompts,
  format('{:.4g}', entropy_floor)::DOUBLE AS entropy_floor,
  format('{:.4g}', participation_ratio_norm)::DOUBLE AS pr_norm,
  format('{:.4g}', effective_rank_norm)::DOUBLE AS er_norm
FROM profiles JOIN runs USING (run)
WHERE first_position = 0
UNION ALL BY NAME
SELECT
  model,
  source,
  corpus,
  context,
  n_prompts AS prompts,
  format('{:.4g}', entropy_floor)::DOUBLE AS entropy_floor,
  format('{:.4g}', participation_ratio_norm)::DOUBLE AS pr_norm,
  format('{:.4g}', effective_rank_norm)::DOUBLE AS er_norm
FROM published
ORDER BY entropy_floor, model, source;
