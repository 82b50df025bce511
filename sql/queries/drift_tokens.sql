-- After which tokens did the predictions change most?
-- Read: the ten tokens of each pair after which the distribution of the next token changed most, in
--   nats: by KL(first run || second), or by |ln p(next), second run - first| if the store keeps no
--   logits (kl is null).
--   text_so_far ends at position (from 0) of the text in source_row of the corpus. came is the
--   token that followed; expected_a and expected_b are the tokens that each model found likeliest.
--   A token is shown as its id in brackets if the store has no vocabulary of the tokenizer: repeat
--   the capture command.
-- Empty: no two runs have been compared. Compare every run with one of them, BASE; lpp-sql STORE
--   --run provenance lists the runs: lpp-analyze diff --against BASE STORE
WITH most AS (
  SELECT *, coalesce(kl, abs(next_logprob_b::DOUBLE - next_logprob_a)) AS change
  FROM drift_tokens
  WHERE change > 0
  QUALIFY row_number() OVER (
    PARTITION BY run_a, run_b ORDER BY change DESC, prompt_id, position
  ) <= 10
),
near AS (  -- the tokens up to each, and the one after it
  SELECT
    most.run_a,
    most.run_b,
    most.prompt_id,
    most.position,
    stats.position AS place,
    coalesce(token, '<' || stats.token_id || '>') AS word
  FROM most
  JOIN token_stats AS stats
    ON stats.run = most.run_a AND stats.prompt_id = most.prompt_id
    AND stats.position BETWEEN most.position - 11 AND most.position + 1
  LEFT JOIN vocabulary AS words ON words.run = most.run_a AND words.token_id = stats.token_id
),
texts AS (
  SELECT
    run_a,
    run_b,
    prompt_id,
    position,
    string_agg(word, '' ORDER BY place) FILTER (place <= position) AS text_so_far,
    any_value(word) FILTER (place > position) AS came
  FROM near
  GROUP BY ALL
),
expected AS (
  SELECT
    stats.run,
    prompt_id,
    position,
    coalesce(token, '<' || top1_id || '>') AS word
  FROM token_stats AS stats
  SEMI JOIN most USING (prompt_id, position)
  LEFT JOIN vocabulary AS words ON words.run = stats.run AND words.token_id = top1_id
)
SELECT
  run_a,
  run_b,
  source_row,
  position,
  text_so_far,
  came,
  a.word AS expected_a,
  b.word AS expected_b,
  format('{:.4g}', kl)::DOUBLE AS kl,
  format('{:.4g}', next_logprob_a)::DOUBLE AS next_logprob_a,
  format('{:.4g}', next_logprob_b)::DOUBLE AS next_logprob_b
FROM most
LEFT JOIN texts USING (run_a, run_b, prompt_id, position)
LEFT JOIN expected AS a
  ON a.run = run_a AND a.prompt_id = most.prompt_id AND a.position = most.position
LEFT JOIN expected AS b
  ON b.run = run_b AND b.prompt_id = most.prompt_id AND b.position = most.position
LEFT JOIN (SELECT run AS run_a, prompt_id, source_row FROM prompts) USING (run_a, prompt_id)
ORDER BY run_a, run_b, change DESC, source_row, position;
