"""Which runs, sites, prompts and positions an analysis is of, and reading a site's rows."""
