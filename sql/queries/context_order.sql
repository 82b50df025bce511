-- Does the order of the models change with the context?
-- Read: of the pairs of models, how many stand at this context in another order than at the longest
--   one (turned), and how many of those differ by more than their errors at both (beyond).
--   Kendall's tau is 1 - 2 turned / pairs where nothing is tied: table agreement.
-- Empty: no two models have numbers at one setting. Compute the grid, of two contexts or more:
--   lpp-analyze sensitivity STORE
WITH numbers AS (
  SELECT
    *,
    (ci_high - ci_low) / 2 AS half,
    max(context) OVER (PARTITION BY corpus, site, n_prompts, metric) AS longest
  FROM sensitivity
  WHERE value IS NOT NULL
    AND aggregation = CASE WHEN metric LIKE 'entropy%' THEN 'min' ELSE 'max' END
),
pairs AS (
  SELECT
    metric,
    corpus,
    site,
    n_prompts,
    context,
    longest,
    a.run AS run_a,
    b.run AS run_b,
    sign(a.value - b.value) AS ordered,
    abs(a.value - b.value) > sqrt(a.half ** 2 + b.half ** 2) AS apart
  FROM numbers AS a JOIN numbers AS b
    USING (metric, corpus, site, n_prompts, context, longest, aggregation)
  WHERE a.run < b.run
)
SELECT
  metric,
  corpus,
  site,
  n_prompts AS prompts,
  here.context,
  longest,
  count(*) AS pairs,
  count(*) FILTER (here.ordered = -there.ordered AND here.ordered <> 0) AS turned,
  count(*) FILTER (here.ordered = -there.ordered AND here.apart AND there.apart) AS beyond
FROM pairs AS here JOIN pairs AS there
  USING (metric, corpus, site, n_prompts, longest, run_a, run_b)
WHERE there.context = longest AND here.context < longest
GROUP BY ALL
ORDER BY corpus, site, prompts, metric, here.context;
