-- Do profiles correlate with benchmark scores?
-- Read: coefficients with their 95 % interval, the smallest q first. q is p after the correction of
--   Benjamini and Hochberg over all tests of one source and method: judge by q, not by p.
--   rank_partial holds model size constant; a coefficient that changes its sign there may have been
--   due to size.
-- Empty: nothing was correlated. Add scores, then correlate five models or more: lpp-analyze
--   benchmarks add STORE FILE, lpp-analyze correlate STORE
SELECT
  profile_metric,
  benchmark,
  source,
  method,
  n_models AS n,
  format('{:.3f}', coefficient)::DOUBLE AS coefficient,
  format('{:.3f}', ci_low)::DOUBLE AS ci_low,
  format('{:.3f}', ci_high)::DOUBLE AS ci_high,
  format('{:.2g}', p_value)::DOUBLE AS p,
  format('{:.2g}', q_value)::DOUBLE AS q,
  flags
FROM correlations
ORDER BY q_value NULLS LAST, p_value NULLS LAST, profile_metric, benchmark, source, method;
