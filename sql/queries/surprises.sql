-- Which tokens surprised each model most?
-- Read: the ten next tokens of a run with the smallest probability. token stood at position (from
--   0) of the text in source_row of the corpus, and expected is the likeliest token there; a space
--   before a word is part of its token. surprisal is -ln p, in nats, and entropy its expected
--   value; next_rank 1 would be the model's first choice. A token is shown as its id if the store
--   has no vocabulary of the tokenizer: repeat the capture command.
-- Empty: no token has a next token. Capture: lpp-capture run --store STORE
WITH least AS (  -- a heap of ten per run, in one pass over the tokens
  SELECT
    run,
    unnest(
      min({
        'next_logprob': next_logprob,
        'prompt_id': prompt_id,
        'position': position + 1,
        'next_rank': next_rank,
        'entropy': entropy,
        'top1_id': top1_id
      }, 10),
      recursive := true
    )
  FROM token_stats
  WHERE next_logprob IS NOT NULL
  GROUP BY run
)
SELECT
  run,
  source_row,
  position,
  coalesce(came.token, came_id::VARCHAR) AS token,
  coalesce(top1.token, top1_id::VARCHAR) AS expected,
  format('{:.4g}', -next_logprob)::DOUBLE AS surprisal,
  format('{:.4g}', least.entropy)::DOUBLE AS entropy,
  next_rank
FROM least
LEFT JOIN (SELECT run, prompt_id, position, token_id AS came_id FROM token_stats)
  USING (run, prompt_id, position)
LEFT JOIN prompts USING (run, prompt_id)
LEFT JOIN vocabulary AS came ON came.run = least.run AND came.token_id = came_id
LEFT JOIN vocabulary AS top1 ON top1.run = least.run AND top1.token_id = top1_id
ORDER BY run, next_logprob, source_row, position;
