"""Statistics of right and wrong items: ranking, calibration, pairs, clusters."""
