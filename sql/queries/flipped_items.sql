-- Which items did one model get right and another wrong?
-- Read: items of the same document that one of two runs answered correctly and the other did not:
--   twenty for each pair and task, the largest change of ln p of the gold answer first. n_flipped
--   of n_items flipped in total. entropy_a and entropy_b are the entropies of the next token before
--   the chosen answer, null if the database lacks the prompts: lpp-analyze profile STORE.
--   gold_change is ln p of the gold answer, second run - first.
-- Empty: no item was answered differently by two runs. Evaluate another model on the same task:
--   lpp-capture eval --model MODEL --tasks TASK --store STORE
WITH asked AS (
  SELECT
    *,
    prompt_ids[coalesce(chosen, 0) + 1] AS prompt_id,
    log_likelihoods[gold + 1] AS gold_logprob
  FROM items
  WHERE correct IS NOT NULL AND run IS NOT NULL
),
pairs AS (
  SELECT
    a.run AS run_a,
    b.run AS run_b,
    a.task,
    a.filter,
    a.item,
    a.item_group,
    a.correct AS correct_a,
    b.correct AS correct_b,
    a.chosen AS chosen_a,
    b.chosen AS chosen_b,
    a.gold,
    a.prompt_id AS prompt_a,
    b.prompt_id AS prompt_b,
    CASE WHEN isfinite(a.gold_logprob) AND isfinite(b.gold_logprob)
      THEN b.gold_logprob - a.gold_logprob END AS change,
    count(*) OVER (PARTITION BY a.run, b.run, a.task, a.filter) AS n_items,
    count(*) FILTER (a.correct <> b.correct)
      OVER (PARTITION BY a.run, b.run, a.task, a.filter) AS n_flipped
  FROM asked AS a
  JOIN asked AS b USING (task, filter, item, doc_sha256)
  WHERE a.run < b.run
),
flipped AS (
  FROM pairs
  WHERE correct_a <> correct_b
  QUALIFY row_number() OVER (
    PARTITION BY run_a, run_b, task, filter ORDER BY abs(change) DESC NULLS LAST, item
  ) <= 20
),
begins AS (  -- columns of prompts that a store without evaluations lacks
  SELECT run, prompt_id, n_context - 1 AS position
  FROM (
    SELECT NULL::BIGINT AS n_context WHERE false
    UNION ALL BY NAME
    SELECT * FROM prompts
  )
  SEMI JOIN (
    SELECT run_a AS run, prompt_a AS prompt_id FROM flipped
    UNION ALL
    SELECT run_b, prompt_b FROM flipped
  ) USING (run, prompt_id)
),
before AS (
  SELECT run, prompt_id, format('{:.4g}', entropy)::DOUBLE AS entropy
  FROM token_stats JOIN begins USING (run, prompt_id, position)
)
SELECT
  run_a,
  run_b,
  task,
  item,
  item_group,
  correct_a,
  correct_b,
  chosen_a,
  chosen_b,
  gold,
  format('{:.4g}', change)::DOUBLE AS gold_change,
  of_a.entropy AS entropy_a,
  of_b.entropy AS entropy_b,
  n_flipped,
  n_items
FROM flipped
LEFT JOIN before AS of_a ON of_a.run = run_a AND of_a.prompt_id = prompt_a
LEFT JOIN before AS of_b ON of_b.run = run_b AND of_b.prompt_id = prompt_b
ORDER BY run_a, run_b, task, filter, abs(change) DESC NULLS LAST, item;
