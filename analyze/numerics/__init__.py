"""Arrays in, numbers out: moments, spectra, errors, correlations. Independent of stores."""
