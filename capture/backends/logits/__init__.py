"""Statistics of the logits: plain and fused reductions, whole vocabularies and shards of one."""
