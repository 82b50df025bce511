"""Arrays in, numbers out: moments, spectra, errors, correlations. Knows no store."""
