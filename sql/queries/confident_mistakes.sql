-- Which wrong answers was each model most confident of?
-- Read: the ten wrong items of each task with the largest confidence. confidence is the probability
--   of the chosen answer among the answers, or of the only answer; gold_share is that of the right
--   answer. The texts come from the prompts, and question is its last 60 tokens; it is null if the
--   database lacks the prompts: lpp-analyze profile STORE. lpp-analyze items says whether
--   confidence is calibrated.
-- Empty: no item is wrong, or no model was evaluated: lpp-capture eval --tasks TASK --store STORE
WITH asked AS (  -- where lpp-capture eval asked for each answer twice, the first half counts
  SELECT
    * EXCLUDE (chosen),
    coalesce(chosen, 0) AS chosen,
    CASE
      WHEN metrics->>'acc_mutual_info' IS NULL THEN log_likelihoods
      ELSE log_likelihoods[:len(log_likelihoods) // 2]
    END AS logprobs,
    prompt_ids[coalesce(chosen, 0) + 1] AS chosen_prompt,
    prompt_ids[gold + 1] AS gold_prompt,
    n_answer[coalesce(chosen, 0) + 1] AS n_chosen,
    n_answer[gold + 1] AS n_gold
  FROM items
  WHERE NOT correct AND (chosen IS NOT NULL OR len(log_likelihoods) = 1)
),
mistakes AS (
  SELECT
    *,
    CASE
      WHEN len(logprobs) = 1 THEN exp(logprobs[1])
      ELSE 1 / list_sum([exp(one - logprobs[chosen + 1]) for one in logprobs])
    END AS confidence
  FROM asked
  WHERE chosen_prompt IS NOT NULL
  QUALIFY row_number() OVER (
    PARTITION BY run, source, filter ORDER BY confidence DESC, item
  ) <= 10
),
begins AS (  -- columns of prompts that a store without evaluations lacks
  SELECT run, prompt_id, n_context, coalesce(branch_of, prompt_id) AS question_prompt
  FROM (
    SELECT NULL::BIGINT AS n_context, NULL::INTEGER AS branch_of WHERE false
    UNION ALL BY NAME
    SELECT * FROM prompts
  )
),
shown AS (
  SELECT run, prompt_id, n_context, question_prompt, max(n_answer) AS n_answer
  FROM (
    SELECT
      run,
      unnest([chosen_prompt, gold_prompt]) AS prompt_id,
      unnest([n_chosen, n_gold]) AS n_answer
    FROM mistakes
  )
  JOIN begins USING (run, prompt_id)
  GROUP BY ALL
),
words AS (
  SELECT
    stats.run,
    stats.prompt_id,
    string_agg(coalesce(token, '<' || stats.token_id || '>'), '' ORDER BY position)
      FILTER (position < n_context AND position >= n_context - 60) AS before,
    string_agg(coalesce(token, '<' || stats.token_id || '>'), '' ORDER BY position)
      FILTER (position >= n_context AND position < n_context + coalesce(n_answer, position + 1))
      AS answer
  FROM token_stats AS stats
  SEMI JOIN (
    SELECT run, unnest([prompt_id, question_prompt]) AS prompt_id FROM shown
  ) USING (run, prompt_id)
  LEFT JOIN begins USING (run, prompt_id)
  LEFT JOIN (SELECT run, prompt_id, n_answer FROM shown) USING (run, prompt_id)
  LEFT JOIN vocabulary AS names ON names.run = stats.run AND names.token_id = stats.token_id
  GROUP BY ALL
)
SELECT
  mistakes.run,
  task,
  item,
  item_group,
  format('{:.4g}', confidence)::DOUBLE AS confidence,
  question_words.before AS question,
  chosen_words.answer AS chosen,
  gold_words.answer AS gold,
  format('{:.4g}', logprobs[mistakes.chosen + 1])::DOUBLE AS chosen_logprob,
  format('{:.4g}', logprobs[mistakes.gold + 1])::DOUBLE AS gold_logprob,
  format('{:.4g}', confidence * exp(
    logprobs[mistakes.gold + 1] - logprobs[mistakes.chosen + 1]
  ))::DOUBLE AS gold_share
FROM mistakes
LEFT JOIN words AS chosen_words
  ON chosen_words.run = mistakes.run AND chosen_words.prompt_id = chosen_prompt
LEFT JOIN shown
  ON shown.run = mistakes.run AND shown.prompt_id = chosen_prompt
LEFT JOIN words AS question_words
  ON question_words.run = mistakes.run AND question_words.prompt_id = question_prompt
LEFT JOIN words AS gold_words
  ON gold_words.run = mistakes.run AND gold_words.prompt_id = gold_prompt
ORDER BY mistakes.run, task, mistakes.confidence DESC, item;
