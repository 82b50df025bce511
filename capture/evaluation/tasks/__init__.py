"""Tasks of lm-eval: what they declare, what code they may run, their documents."""
