"""Settings that are declared once: as fields of frozen dataclasses, with what users are told.

`setting` declares, `values` says what a value may be, `reading` makes settings of a mapping and
finds every problem, `command_line` writes them as arguments. `store.terminal.options` makes options
of them. Imports nothing heavy.
"""
