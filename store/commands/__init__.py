"""Code that the command lines share and the format does not need.

entry     where the three programs start
console   run a command: errors become messages and exit codes
escaping  what may reach a terminal
progress  bars, and lines of a log
signals   Ctrl-C, SIGTERM, SIGHUP
cluster   Ray
"""
