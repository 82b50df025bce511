-- How do right and wrong items differ?
-- Read: means over the right and over the wrong items of each task: of the prompt of the chosen
--   answer, at the position before the answer and over the question before that. effect is the
--   difference in standard deviations of all items. It says nothing about chance: lpp-analyze items
--   STORE --task TASK has AUROC, intervals and the baselines that a number has to beat.
-- Empty: no model was evaluated, or the database lacks its prompts: lpp-capture eval --tasks TASK
--   --store STORE, then lpp-analyze profile STORE
WITH asked AS (
  SELECT
    run,
    task,
    source,
    filter,
    item,
    correct,
    prompt_ids[coalesce(chosen, 0) + 1] AS prompt_id,
    log_likelihoods[coalesce(chosen, 0) + 1] AS chosen_logprob
  FROM items
  WHERE correct IS NOT NULL AND (chosen IS NOT NULL OR len(log_likelihoods) = 1)
),
begins AS (  -- columns of prompts that a store without evaluations lacks
  SELECT run, prompt_id, n_tokens, n_context, coalesce(n_before_question, 0) AS n_before
  FROM (
    SELECT NULL::BIGINT AS n_context, NULL::BIGINT AS n_before_question WHERE false
    UNION ALL BY NAME
    SELECT * FROM prompts
  )
  SEMI JOIN asked USING (run, prompt_id)
  WHERE n_context IS NOT NULL
),
statistics AS (
  SELECT
    run,
    prompt_id,
    n_tokens - n_context AS answer_length,
    avg(entropy) FILTER (position = n_context - 1) AS answer_entropy,
    avg(margin) FILTER (position = n_context - 1) AS answer_margin,
    avg(entropy) FILTER (position BETWEEN n_before AND n_context - 2) AS question_entropy,
    avg(margin) FILTER (position BETWEEN n_before AND n_context - 2) AS question_margin,
    avg(next_logprob) FILTER (position BETWEEN n_before AND n_context - 2) AS question_logprob
  FROM token_stats JOIN begins USING (run, prompt_id)
  GROUP BY run, prompt_id, n_tokens, n_context
),
numbers AS (
  UNPIVOT (FROM asked JOIN statistics USING (run, prompt_id))
  ON answer_length::DOUBLE AS answer_length, chosen_logprob, answer_entropy::DOUBLE AS
    answer_entropy, answer_margin, question_entropy, question_margin, question_logprob
  INTO NAME feature VALUE value
)
SELECT
  run,
  task,
  filter,
  feature,
  if(feature = 'answer_length', 'tokens', 'nats') AS unit,
  count(*) FILTER (correct) AS n_right,
  count(*) FILTER (NOT correct) AS n_wrong,
  format('{:.4g}', avg(value) FILTER (correct))::DOUBLE AS mean_right,
  format('{:.4g}', avg(value) FILTER (NOT correct))::DOUBLE AS mean_wrong,
  format('{:.4g}', (avg(value) FILTER (correct) - avg(value) FILTER (NOT correct))
    / nullif(stddev_samp(value), 0))::DOUBLE AS effect
FROM numbers
WHERE isfinite(value)
GROUP BY run, task, source, filter, feature
ORDER BY run, task, filter, abs(effect) DESC NULLS LAST, feature;
