"""What the command lines share and the format does not need: messages, progress, signals, Ray."""
