"""`python -m benchmarks.detection`: which number notices first that a model was changed?

Damages the packaged model in declared doses (`damage`), captures each on the same passages,
measures it (`measure`) and writes DETECTION.md with its tables and figures. A dose that is measured
is two small files; a killed command loses the doses under way, and the same command goes on.
Nothing is downloaded.
"""

import json
import os
from pathlib import Path

import click

from benchmarks.detection.setting import SIZES, Setting
from benchmarks.detection.side_by_side import measure_all
from lpp.store.errors import InputError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@click.command()
@click.option("--store", type=click.Path(path_type=Path), default=Path("detection"))
@click.option(
    "--model", type=click.Path(path_type=Path), help="Folder; the packaged one by default."
)
@click.option("--doses", "chosen", help="Names, with commas, beside the nulls; all by default.")
@click.option("--prompts", type=int, default=200, show_default=True)
@click.option("--context", type=int, default=64, show_default=True)
@click.option("--jobs", type=int, default=2, show_default=True, help="Doses at a time.")
@click.option("--keep", is_flag=True, help="Keep the rows of measured doses: 0.2 GB each.")
@click.option(
    "--page",
    type=click.Path(path_type=Path),
    help="Folder of DETECTION.md, its figures and results; that of --store by default.",
)
def main(
    *,
    store: Path,
    model: Path | None,
    chosen: str | None,
    prompts: int,
    context: int,
    jobs: int,
    keep: bool,
    page: Path | None,
) -> None:
    """Measure every dose, then write the page."""
    for name in THREADS:
        os.environ[name] = "1"  # for the processes that are started: a dose has one thread
    from benchmarks.detection.damage import NULL, doses
    from lpp.capture import demo_model

    folder = demo_model() if model is None else model
    n_blocks = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    setting = Setting(
        model=folder,
        n_blocks=n_blocks,
        root=store.resolve(),
        prompts=prompts,
        context=context,
        sizes=tuple(size for size in SIZES if size < prompts),
        keep=keep,
    )
    names = [dose.name for dose in doses(n_blocks)]
    asked = set(names if chosen is None else chosen.split(","))
    if unknown := asked - set(names):
        raise click.UsageError(
            f"no dose {', '.join(sorted(unknown))}; there are {', '.join(names)}"
        )
    try:
        setting.claim()
    except InputError as error:
        raise click.ClickException(str(error)) from None
    wanted = [dose.name for dose in doses(n_blocks) if dose.kind == NULL or dose.name in asked]
    measure_all(setting, wanted, jobs)
    from benchmarks.detection import figures, power
    from benchmarks.detection import page as pages

    found, values = power.results(setting)
    place = store if page is None else page
    pages.write(found, values, place)
    for path in figures.draw(found, place):
        click.echo(path)


if __name__ == "__main__":
    main()
