-- Which labels can be read from the states?
-- Read: the best site of each label; value is its AUROC, or R2 of a number, with a 95 % interval.
--   gain is value minus that of the control. q is p of the gain, corrected for the number of sites.
--   The best of many sites is partly luck. A label can be read from states that the model does not
--   use. The table probes has every site and control.
-- Empty: no label was probed: lpp-analyze probe STORE
SELECT
  run,
  label,
  if(classes IS NULL, 'R2', 'AUROC') AS number,
  probe AS site,
  format('{:.4g}', coalesce(probe_auroc, probe_r2))::DOUBLE AS value,
  format('{:.4g}', coalesce(probe_auroc_ci_low, probe_r2_ci_low))::DOUBLE AS ci_low,
  format('{:.4g}', coalesce(probe_auroc_ci_high, probe_r2_ci_high))::DOUBLE AS ci_high,
  control,
  format('{:.2g}', probe_gain)::DOUBLE AS gain,
  format('{:.2g}', q_value)::DOUBLE AS q,
  flags
FROM probes
WHERE is_best
ORDER BY run, gain DESC NULLS LAST, label, rows, group_field, cluster_field, folds, seed;
