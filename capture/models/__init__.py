"""Load models, describe them for a plan, and find their sites."""
