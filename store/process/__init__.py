"""What belongs to the process: requests to end it, tracebacks, memory, a cluster."""
