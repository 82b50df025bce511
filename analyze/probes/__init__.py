"""Linear probes of labels that prompts carry, beside controls that read no rows."""
