"""New processes without the seconds that imports take: forks of a process that has imported torch.

A fork has the modules of the server and nothing that a test has replaced in its own process. What
is read while a module is imported, such as HF_HUB_OFFLINE, is that of the server. For tests in
which a process is the point, but not its start.
"""

import array
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lpp.capture.backends.vllm.installed import check_vllm, silenced

PROGRAMS = ("lpp-capture", "lpp-analyze", "lpp-sql")

IMPORTED = (
    *("torch", "transformers.models.auto.modeling_auto", "transformers.models.llama"),
    *("lpp.capture.engine.run", "lpp.capture.models.load"),
    *("lpp.analyze.studies.answers", "lpp.analyze.drift.drift", "lpp.analyze.report.report"),
    *("lpp.capture.cli.command", "lpp.analyze.cli.command", "lpp.sql.cli"),
)
"""Nothing is computed before the fork: the thread pools of torch and Polars do not survive it."""

IMPORTED_WITH_VLLM = ("vllm.v1.engine.llm_engine", "vllm.v1.worker.cpu_worker")
"""Nine seconds, where vLLM is installed."""


def serve(address: str) -> None:
    """Fork for each request, until standard input ends."""
    for name in IMPORTED:
        __import__(name)
    if find_spec("vllm"):
        check_vllm(quiet=True)  # sets what vLLM reads while it is imported
        with silenced():
            for name in IMPORTED_WITH_VLLM:
                __import__(name)
    gc.collect()
    # Each engine of vLLM calls the collector eight times, which took three seconds without this.
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    print("ready", flush=True)
    if os.fork() == 0:
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _attend(connection)
                os._exit(0)
            connection.close()
    sys.stdin.read()
    os.killpg(0, signal.SIGTERM)


def _attend(connection: socket.socket) -> None:
    """Run the requested code in a process of its own, and send its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, files = _received(connection)
    process = os.fork()
    if process == 0:
        os.setpgid(0, 0)
        _become(json.loads(message), files)
    _, status = os.waitpid(process, 0)
    with suppress(OSError):
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def _received(connection: socket.socket) -> tuple[bytes, Sequence[int]]:
    """A message that ends with a newline, and the file descriptors that came with it."""
    message, ancillary, _, _ = connection.recvmsg(1 << 20, socket.CMSG_SPACE(3 * 4))
    files = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            files.frombytes(data[: len(data) // files.itemsize * files.itemsize])
    while not message.endswith(b"\n"):
        message += connection.recv(1 << 20)
    return message, files


def _become(asked: Mapping[str, Any], files: Sequence[int]) -> None:
    """Turn this fork into the requested process, run its code, and end."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = asked["words"]
    paths = filter(None, asked["environment"].get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:0] = [path for path in paths if path not in sys.path]
    code: Any = 0
    try:
        exec(compile(asked["code"], "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


class WarmPython:
    """A server for this process and those that it starts. folder: of its socket and programs."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.address = str(folder / "socket")
        self.programs = folder / "programs"
        self.programs.mkdir()
        for name in PROGRAMS:
            program = self.programs / name
            word = name.removeprefix("lpp-")
            code = f"import sys; from lpp.store.terminal.entry import {word}; sys.exit({word}())"
            program.write_text(_PROGRAM.format(python=sys.executable, code=code, at=self.address))
            program.chmod(0o755)
        self._server = subprocess.Popen(
            [sys.executable, __file__, self.address],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == b"ready\n"

    def close(self) -> None:
        """End the server and its forks."""
        self._server.communicate()

    def run(
        self,
        code: str,
        *words: str,
        given: bytes = b"",
        folder: Path | None = None,
        more: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `code` in a new process, which imports from where this one does.

        folder: where it runs; by default here. more: its environment beside that of this process.
        """
        asked = {
            "code": code,
            "words": ["-c", *words],
            "folder": str(folder or Path.cwd()),
            "environment": {**os.environ, **(more or {}), "PYTHONPATH": os.pathsep.join(sys.path)},
        }
        with (
            tempfile.TemporaryFile() as stdin,
            tempfile.TemporaryFile() as stdout,
            tempfile.TemporaryFile() as stderr,
            socket.socket(socket.AF_UNIX) as connection,
        ):
            stdin.write(given)
            stdin.seek(0)
            connection.connect(self.address)
            files = [one.fileno() for one in (stdin, stdout, stderr)]
            message = json.dumps(asked).encode() + b"\n"
            sent = socket.send_fds(connection, [message], files)
            connection.sendall(message[sent:])
            code_of_end = int(connection.recv(20))
            stdout.seek(0)
            stderr.seek(0)
            return subprocess.CompletedProcess(words, code_of_end, stdout.read(), stderr.read())


_PROGRAM = textwrap.dedent("""\
    #!{python} -IS
    import json, os, socket, sys
    asked = dict(code={code!r}, words=sys.argv, folder=os.getcwd(), environment=dict(os.environ))
    message = json.dumps(asked).encode() + b"\\n"
    connection = socket.socket(socket.AF_UNIX)
    connection.connect({at!r})
    sent = socket.send_fds(connection, [message], [0, 1, 2])
    connection.sendall(message[sent:])
    code = int(connection.recv(20))
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)
    """)

if __name__ == "__main__":
    serve(sys.argv[1])
