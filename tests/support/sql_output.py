"""What a finished `lpp-sql` printed."""

import subprocess


def ok(done: subprocess.CompletedProcess[bytes]) -> str:
    """Its standard output; it must have succeeded, with nothing on standard error."""
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    return done.stdout.decode()


def refused(done: subprocess.CompletedProcess[bytes]) -> str:
    """Its message; it must have refused, without a result and without a traceback."""
    assert done.returncode == 2, done.stderr.decode()
    assert done.stdout == b""
    text = done.stderr.decode()
    assert "Traceback" not in text
    return text
