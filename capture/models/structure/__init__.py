"""Where blocks, sites and the unembedding of a model are, and what can be changed there."""
