-- Which numbers carry flags, and why?
-- Read: a flag says that a number is right and easy to misread. rows counts the rows of the table
--   that carry it, places names up to three of them.
-- Empty: nothing carries a flag, or nothing was profiled. Profile: lpp-analyze profile STORE
WITH meanings (of_correlations, flag, why) AS (
  VALUES
    (false, 'collapsed',
     'the participation ratio is within 1 % of 1: one direction carries everything'),
    (false, 'different_prompts',
     'runs shown side by side read different texts (see prompt_set)'),
    (false, 'duplicates',
     'prompts are there more than once: there are fewer prompts than counted, and errors are '
     || 'understated'),
    (false, 'normaliser',
     'min(N, d) was N, or the normalised rank peaks at another prefix than the rank'),
    (false, 'no_error', 'a number has no standard error, so that small_sample could not show'),
    (false, 'not_finite',
     'there are no ranks: rows hold infinities or NaN, or the log says why'),
    (false, 'padded_vocab', 'the logits are wider than the tokenizer, which changes ln V'),
    (false, 'quarantined',
     'prompts were set aside: not finite, or out of memory (see not_finite_from)'),
    (false, 'short_text',
     'over 10 % of the prompts are shorter than a prefix that a number came from'),
    (false, 'sink',
     'rows hold attention sinks, a few first positions with huge norms: --skip-first leaves '
     || 'them out (see sink_end)'),
    (false, 'small_sample',
     'a standard error exceeds a fifth of its value, or one prompt gives none; it '
     || 'does not see that ranks grow with the sample'),
    (false, 'template', 'most prompts share the prefix that the entropy came from'),
    (false, 'zero_error',
     'a standard error is 0: every group of prompts gives the same number, so the sample is '
     || 'degenerate and the error says nothing'),
    (true, 'constant', 'no coefficient: one side has a single value'),
    (true, 'different_prompts', 'profiles were made on different texts, which alone moves them'),
    (true, 'different_settings',
     'profiles took part that are of another context or number of prompts'),
    (true, 'few_models', 'under 10 models: the interval is rough (rank-partial: too short)'),
    (true, 'flagged_profiles', 'some profiles that took part carry flags of their own'),
    (true, 'published', 'published profiles take part: other texts, other code, context 150'),
    (true, 'same_order_as_size', 'no coefficient: one side has exactly the order of model size'),
    (true, 'sign_turns', 'the sign is another once model size is controlled for'),
    (true, 'too_few_models', 'no coefficient: fewer than 5 models cannot be ranked')
),
carried AS (
  SELECT 'profiles' AS in_table, run, site AS place, unnest(flags) AS flag FROM profiles
  UNION ALL BY NAME
  SELECT 'site_profiles' AS in_table, run, site AS place, unnest(flags) AS flag
  FROM site_profiles
  UNION ALL BY NAME
  SELECT 'metrics' AS in_table, run, metric || ' at ' || site AS place, unnest(flags) AS flag
  FROM metrics
  UNION ALL BY NAME
  SELECT 'layers' AS in_table, run, site AS place, unnest(flags) AS flag FROM layers
  UNION ALL BY NAME
  SELECT 'sensitivity' AS in_table, run, metric || ' at ' || site AS place, unnest(flags) AS flag
  FROM sensitivity
  UNION ALL BY NAME
  SELECT 'correlations' AS in_table, NULL AS run, profile_metric || ' x ' || benchmark AS place,
    unnest(flags) AS flag
  FROM correlations
)
SELECT
  in_table,
  flag,
  run,
  count(*) AS rows,
  array_to_string(list_sort(list_distinct(list(place)))[:3], ', ')
    || CASE WHEN count(DISTINCT place) > 3 THEN ', ...' ELSE '' END AS places,
  any_value(why) AS why
FROM carried LEFT JOIN meanings USING (flag)
WHERE coalesce(of_correlations = (in_table = 'correlations'), true)
GROUP BY in_table, flag, run
ORDER BY in_table <> 'profiles', in_table, flag, run;
