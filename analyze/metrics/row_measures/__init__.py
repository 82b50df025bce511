"""What metrics compute of the rows of a site, prompt by prompt."""
