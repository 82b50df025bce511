-- How does uncertainty fall with the prefix?
-- Read: entropy is the entropy of the next token over ln V, as a mean over prompts; the smallest
--   one of a run is its entropy floor. Distrust a floor if distinct, the share of prompts that
--   begin differently, is low (boilerplate), or if short, the number of prompts that end before the
--   prefix, is high: it is then the entropy at the end of a text.
--   Errors are by prompt, or by the field that cluster names.
-- Empty: there is no entropy. Compute it: lpp-analyze profile STORE
SELECT  -- a prefix reads the same tokens in every context that it is part of: one row is taken
  run,
  n_prompts AS n,
  prefix,
  format('{:.4g}', entropy_norm)::DOUBLE AS entropy,
  format('{:.2g}', entropy_norm_stderr)::DOUBLE AS stderr,
  cluster,
  short_prompts AS short,
  format('{:.2g}', distinct_prefixes)::DOUBLE AS distinct
FROM entropy
QUALIFY row_number() OVER (
  PARTITION BY run, n_prompts, prefix ORDER BY entropy_norm_stderr IS NULL, context DESC
) = 1
ORDER BY run, n, prefix;
