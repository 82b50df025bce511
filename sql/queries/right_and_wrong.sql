-- How do right and wrong items differ?
-- Read: means over the right and over the wrong items of each task. answer_ numbers are taken at
--   the position before the chosen answer, question_ numbers over the question before that
--   position. What the model wrote after the stop string is no part of an answer. effect is the
--   difference in standard deviations of all items. It does not say whether chance explains it:
--   lpp-analyze items STORE --task TASK has AUROC, intervals and the baselines that a number has to
--   beat.
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
    n_answer[coalesce(chosen, 0) + 1] AS n_answer,
    log_likelihoods[coalesce(chosen, 0) + 1] AS chosen_logprob
  FROM items
  WHERE correct IS NOT NULL AND (chosen IS NOT NULL OR len(log_likelihoods) = 1)
),
begins AS (  -- columns of prompts that a store without evaluations lacks
  SELECT run, prompt_id, branch_of, n_tokens, n_context, n_before_question
  FROM (
    SELECT
      NULL::INTEGER AS branch_of, NULL::BIGINT AS n_context, NULL::BIGINT AS n_before_question
    WHERE false
    UNION ALL BY NAME
    SELECT * FROM prompts
  )
  WHERE n_context IS NOT NULL
),
answers AS (  -- a branch has the answer alone, and the prompt that it branches off the question
  SELECT
    begins.run,
    begins.prompt_id,
    begins.n_tokens - begins.n_context AS n_after,
    question.prompt_id AS question_prompt,
    question.n_context,
    coalesce(question.n_before_question, 0) AS n_before
  FROM begins
  JOIN begins AS question
    ON question.run = begins.run
    AND question.prompt_id = coalesce(begins.branch_of, begins.prompt_id)
  SEMI JOIN asked ON asked.run = begins.run AND asked.prompt_id = begins.prompt_id
),
statistics AS (
  SELECT
    answers.run,
    answers.prompt_id,
    n_after,
    avg(entropy) FILTER (position = n_context - 1) AS answer_entropy,
    avg(margin) FILTER (position = n_context - 1) AS answer_margin,
    avg(entropy) FILTER (position BETWEEN n_before AND n_context - 2) AS question_entropy,
    avg(margin) FILTER (position BETWEEN n_before AND n_context - 2) AS question_margin,
    avg(next_logprob) FILTER (position BETWEEN n_before AND n_context - 2) AS question_logprob
  FROM answers
  JOIN token_stats ON token_stats.run = answers.run AND token_stats.prompt_id = question_prompt
  GROUP BY ALL
),
numbers AS (
  UNPIVOT (
    SELECT *, coalesce(n_answer, n_after) AS answer_length
    FROM asked JOIN statistics USING (run, prompt_id)
  )
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
