"""A list of revisions on the command line: one job for each, all of one series."""

from typing import Any

import click
from click.core import ParameterSource

from lpp.capture.jobs.file import Job, make_job, with_names
from lpp.capture.plan.series import checkpoints, is_local
from lpp.capture.plan.settings import CaptureSettings
from lpp.store.errors import ErrorKind, InputError
from lpp.store.settings.setting import declared


def revision_jobs(context: click.Context) -> tuple[Job, ...]:
    """The jobs of `lpp-capture run --revision a,b,c`, in that order.

    context: of a command with `--model` and `--corpus`. Raises InputError for a local model, and
    if a step in the list is unknown or not unique.
    """
    options = given_options(context)
    model = options["model"]
    if is_local(model):
        raise InputError(
            f"--revision {options['revision']}: a list of revisions is for a model of the hub, "
            f"and {model} is on this machine. For folders write a file of jobs with "
            'series = {name = "...", step = ...} for each.',
            kind=ErrorKind.INVALID_VALUE,
        )
    series = {"series": options.get("series", model)}
    return with_names(
        [
            make_job(options | series | {"revision": checkpoint.revision, "step": checkpoint.step})
            for checkpoint in checkpoints(options["revision"])
        ]
    )


def given_options(context: click.Context) -> dict[str, Any]:
    """The options given on a command line, in the form of a file of jobs."""
    return {
        name: context.params[setting.keyword]
        for name, setting in declared(CaptureSettings).items()
        if context.get_parameter_source(setting.keyword) is ParameterSource.COMMANDLINE
    }
