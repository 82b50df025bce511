"""Hidden states in the formats of programs that train draft models: export, import, in place."""
