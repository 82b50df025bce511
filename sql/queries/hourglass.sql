-- Where in depth is each model narrow?
-- Read: first, middle and last are geometric means of a rank over thirds of the layers, in
--   dimensions; a score above 0 says that both ends are wider than the middle. Layers in which one
--   direction carries everything (collapsed) are left out; if fewer than two layers are left in a
--   third, there is no score. For ranks of z-scored columns, layer by layer: lpp-analyze layers
--   STORE
-- Empty: there is no spectrum of a block. Make them: lpp-analyze profile STORE
-- The definition is that of the table hourglass, here from the spectra of every profiled run.
WITH layers AS (
  SELECT spectra.*, n_blocks
  FROM spectra JOIN runs USING (run)
  WHERE prefix = spectra.context AND depth > 0 AND first_position = 0
  QUALIFY row_number() OVER (  -- where block.B and final are there, final is the last layer
    PARTITION BY run, spectra.context, spectra.n_prompts, depth ORDER BY site = 'final' DESC
  ) = 1
),
ranks AS (
  SELECT
    run,
    context,
    n_prompts,
    CASE
      WHEN 3 * depth <= n_blocks THEN 'first'
      WHEN 3 * depth <= 2 * n_blocks THEN 'middle'
      ELSE 'last'
    END AS third,
    coalesce(0 < participation_ratio AND participation_ratio <= 1.01, false) AS collapsed,
    unnest([
      {'metric': 'effective_rank', 'rank': effective_rank},
      {'metric': 'participation_ratio', 'rank': participation_ratio}
    ], recursive := true)
  FROM layers
),
logs AS (  -- null: takes no part
  SELECT *, CASE WHEN rank > 0 AND NOT collapsed THEN ln(rank) END AS log_rank FROM ranks
),
thirds AS (
  SELECT
    run,
    metric,
    context,
    n_prompts,
    exp(avg(log_rank) FILTER (third = 'first')) AS first,
    exp(avg(log_rank) FILTER (third = 'middle')) AS middle,
    exp(avg(log_rank) FILTER (third = 'last')) AS last,
    least(
      count(log_rank) FILTER (third = 'first'),
      count(log_rank) FILTER (third = 'middle'),
      count(log_rank) FILTER (third = 'last')
    ) AS fewest,
    count(log_rank) AS layers,
    count(*) FILTER (collapsed) AS collapsed
  FROM logs
  GROUP BY run, metric, context, n_prompts
)
SELECT
  run,
  metric,
  context,
  n_prompts AS prompts,
  CASE WHEN fewest >= 2 THEN
    format('{:.4g}', (least(first, last) - middle) / (least(first, last) + middle))::DOUBLE
  END AS score,
  format('{:.4g}', first)::DOUBLE AS first,
  format('{:.4g}', middle)::DOUBLE AS middle,
  format('{:.4g}', last)::DOUBLE AS last,
  layers,
  collapsed
FROM thirds
ORDER BY context, prompts, run, metric;
