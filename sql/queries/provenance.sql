-- Where did each run come from, and what would repeat it?
-- Read: two runs with equal weights and equal prompt_set are the same model on the same texts.
--   plan_hash identifies the whole plan, which runs.plan holds: the same plan gives the same run.
-- Empty: the store holds no profiled run. Make profiles: lpp-analyze profile STORE
SELECT
  run,
  model,
  revision,
  untrained_seed,
  plan->>'$.model.weights' AS weights,
  plan->>'$.tokenizer.fingerprint' AS tokenizer,
  corpus,
  plan->>'$.corpus.revision' AS corpus_revision,
  plan->>'$.corpus.fingerprint' AS corpus_fingerprint,
  prompt_set,
  n_prompts,
  n_tokens,
  context,
  logit_positions,
  backend,
  plan->>'$.compute.versions' AS versions,
  plan->>'$.compute.device' AS device,
  plan->>'$.compute.quantization' AS quantization,
  compute_dtype,
  stored_dtype,
  plan_hash
FROM runs
ORDER BY run;
