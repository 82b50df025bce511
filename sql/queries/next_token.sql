-- How good are the predictions of the next token?
-- Read: surprisal is the mean of -ln p(next token), and perplexity its exponential; confidence is
--   the mean probability of the likeliest token. ece is 0 if confidence equals top1_accuracy in
--   each of 15 bins of confidence; it is larger for overconfident and for underconfident models.
-- Empty: no token has a next token. Capture: lpp-capture run --store STORE
-- Expected calibration error (Naeini et al. 2015; Guo et al. 2017): sum of n_b / N times
-- |accuracy_b - confidence_b|, in bins k / 15 < confidence <= (k + 1) / 15.
WITH predictions AS (
  SELECT
    run,
    entropy::DOUBLE AS entropy,
    -next_logprob::DOUBLE AS surprisal,
    (next_rank = 1)::DOUBLE AS hit,
    exp(max_logprob::DOUBLE) AS confidence
  FROM token_stats
  WHERE next_logprob IS NOT NULL
),
bins AS (
  SELECT
    run,
    count(*) AS n,
    sum(entropy) AS entropy,
    sum(surprisal) AS surprisal,
    sum(hit) AS hits,
    sum(confidence) AS confidence
  FROM predictions
  GROUP BY run, greatest(ceil(15 * confidence), 1)
)
SELECT
  run,
  sum(n)::BIGINT AS tokens,
  format('{:.4g}', sum(entropy) / sum(n))::DOUBLE AS entropy,
  format('{:.4g}', sum(surprisal) / sum(n))::DOUBLE AS surprisal,
  format('{:.4g}', exp(sum(surprisal) / sum(n)))::DOUBLE AS perplexity,
  format('{:.4g}', sum(hits) / sum(n))::DOUBLE AS top1_accuracy,
  format('{:.4g}', sum(confidence) / sum(n))::DOUBLE AS confidence,
  format('{:.4g}', sum(abs(hits - confidence)) / sum(n))::DOUBLE AS ece
FROM bins
GROUP BY run
ORDER BY sum(surprisal) / sum(n), run;
