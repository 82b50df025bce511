-- Which numbers carry flags, and why?
-- Read: a flag says that a number is correct and easy to misread. rows counts the rows of the table
--   that carry the flag, and places names up to three of them.
-- Empty: nothing carries a flag, or nothing was profiled. Profile: lpp-analyze profile STORE
WITH meanings (of_correlations, flag, why) AS (
  VALUES
    (false, 'collapsed',
     'the participation ratio is within 1 % of 1: one direction holds nearly all variance'),
    (false, 'different_prefixes',
     'two runs have their extremes at different prefixes: compared at the first run''s prefix'),
    (false, 'different_prompts', 'the runs shown read different texts (see prompt_set)'),
    (false, 'duplicates',
     'some prompts occur more than once: the sample is smaller, and errors are too small'),
    (false, 'no_error', 'a number has no standard error, so small_sample cannot be decided'),
    (false, 'lossy', 'hidden states were stored in 8 bits (--stored-dtype float8_e4m3)'),
    (false, 'normaliser',
     'a normalised rank is divided by N, not d, or peaks at another prefix than the rank'),
    (false, 'not_finite',
     'ranks are missing: rows contain infinities or NaN, or the log names another cause'),
    (false, 'padded_vocab',
     'the model has more logits than its tokenizer has tokens, which changes ln V'),
    (false, 'quarantined',
     'prompts were set aside: values not finite, or out of memory (see not_finite_from)'),
    (false, 'short_text', 'over 10 % of the prompts are shorter than the prefix of a number'),
    (false, 'sink',
     'hidden states include attention sinks, first positions with huge norms: --skip-first '
     || 'leaves them out (see sink_end)'),
    (false, 'small_sample',
     'one prompt, or a standard error above a fifth of its value: ranks grow with the sample '
     || 'even without this flag'),
    (false, 'template',
     'most prompts begin with the same tokens: fewer than half of the prefixes differ'),
    (false, 'zero_error',
     'a standard error is 0: every group of prompts gives the same number, so the sample is '
     || 'degenerate and the error means nothing'),
    (true, 'constant', 'profile or benchmark has a single value, so there is no coefficient'),
    (true, 'different_prompts', 'profiles come from different texts: texts alone change a profile'),
    (true, 'few_models', 'fewer than 10 models, so the interval and p are rough'),
    (true, 'flagged_profiles', 'some profiles have flags'),
    (true, 'same_order_as_size',
     'profile or benchmark orders models by size, so there is no coefficient'),
    (true, 'sign_turns', 'the rank correlation changes sign when size is held constant'),
    (true, 'too_few_models', 'fewer than 5 models: too few to rank')
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
  SELECT 'correlations' AS in_table, NULL AS run, profile_metric || ' x ' || benchmark AS place,
    unnest(flags) AS flag
  FROM correlations
)
SELECT
  flag,
  any_value(why) AS why,
  run,
  in_table,
  count(*) AS rows,
  array_to_string(list_sort(list_distinct(list(place)))[:3], ', ')
    || CASE WHEN count(DISTINCT place) > 3 THEN ', ...' ELSE '' END AS places
FROM carried LEFT JOIN meanings USING (flag)
WHERE coalesce(of_correlations = (in_table = 'correlations'), true)
GROUP BY in_table, flag, run
ORDER BY in_table = 'correlations', flag, run, in_table <> 'profiles', in_table;
