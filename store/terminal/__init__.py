"""What commands and notebooks show, and how the three programs start and end.

entry     where the three programs start
console   run a command: errors become messages and exit codes
options   settings as options of click
escaping  what may reach a terminal
progress  bars, and lines of a log
"""
