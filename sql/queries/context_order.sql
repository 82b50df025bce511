-- Does the order of the models change with the context?
-- Read: turned counts the pairs of models that stand at this context in another order than at the
--   longest context. beyond counts those of them whose difference has an interval that leaves out
--   zero at both contexts. unsure counts those of them that lack such an interval at one of the
--   contexts, because the models read other prompts or errors were not computed; lpp-analyze
--   profile computes them with the same --context and --prompts. Without ties, Kendall's tau is 1 -
--   2 turned / pairs: table agreement.
-- Empty: no two models have numbers at one setting. Compute the grid, of two contexts or more:
--   lpp-analyze sensitivity STORE
WITH parts AS (
  SELECT
    * EXCLUDE (metric, prompt_group, value, student_t, cluster),
    replace(metric, 'entropy_floor', 'entropy_norm') AS metric,
    list(value ORDER BY prompt_group) AS parts,
    any_value(student_t) AS student_t,
    any_value(cluster) AS left_out_by
  FROM jackknife
  WHERE first_position = 0
  GROUP BY ALL
),
numbers AS (
  SELECT *, max(context) OVER (PARTITION BY corpus, site, n_prompts, metric) AS longest
  FROM sensitivity LEFT JOIN parts USING (run, site, context, n_prompts, metric, prefix)
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
    a.value - b.value AS difference,
    sign(difference) AS ordered,
    CASE WHEN a.prompt_set = b.prompt_set AND len(a.parts) = len(b.parts)
        AND a.left_out_by IS NOT DISTINCT FROM b.left_out_by THEN
      list_transform(list_zip(a.parts, b.parts), lambda pair: pair[1] - pair[2])
    END AS differences,
    abs(difference) > a.student_t * sqrt((len(differences) - 1) * list_var_pop(differences))
      AS apart
  FROM numbers AS a JOIN numbers AS b
    USING (metric, corpus, site, n_prompts, context, longest, aggregation)
  WHERE a.run < b.run
),
compared AS (
  SELECT
    COLUMNS(here.* EXCLUDE (ordered, apart)),
    here.ordered = -there.ordered AND here.ordered <> 0 AS turned,
    here.apart AND there.apart AS apart
  FROM pairs AS here JOIN pairs AS there
    USING (metric, corpus, site, n_prompts, longest, run_a, run_b)
  WHERE there.context = longest AND here.context < longest
)
SELECT
  metric,
  corpus,
  site,
  n_prompts AS prompts,
  context,
  longest,
  count(*) AS pairs,
  count(*) FILTER (turned) AS turned,
  count(*) FILTER (turned AND apart) AS beyond,
  count(*) FILTER (turned AND apart IS NULL) AS unsure
FROM compared
GROUP BY ALL
ORDER BY corpus, site, prompts, metric, context;
