"""What is captured: the request, the plan, its batches, and what a backend is."""
