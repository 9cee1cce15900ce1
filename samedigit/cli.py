"""The `samedigit` command.

Exit codes: 0 it did what was asked; 1 the answer is no (an accuracy that is not the stored one, requests that failed);
2 the command line is wrong; 3 something it needs is missing or broken; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import enum
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from digits.errors import ImpossibleRecipe, SamedigitError, SettingError, UnknownRecipe
from samedigit import commands
from serving.settings import help_text

NO: Final = 1
WRONG_COMMAND_LINE: Final = 2
MISSING: Final = 3
INTERRUPTED: Final = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One handwritten-digit classifier, trained in NumPy, PyTorch and Keras, served through one door and compared.",
)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Results = Annotated[Path, typer.Option(help="Folder of results, for the report.")]


@app.command()
def train(
    recipes: Annotated[list[str] | None, typer.Argument(metavar="RECIPE...", help="Which to train.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Train every recipe.")] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="In place of the recipe's own; it stays a whole run.")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="In place of the recipe's own: such a run is served only by name, or once promoted."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:INDEX.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Of the CPU that the mathematics may use.")] = 1,
    as_json: Json = False,
) -> None:
    """Train recipes on MNIST, export each model to every format, check each file, and store them.

    \b
    samedigit train --all                      with the published settings
    samedigit train torch-relu --epochs 1      a quick look
    """
    if bool(recipes) == every:
        raise typer.BadParameter("name one or more recipes, or give --all", param_hint="RECIPE")
    with saying_when_interrupted("the model under way is not stored"):
        models = commands.train(recipes or [], seed=seed, epochs=epochs, device=device, threads=threads)
    if as_json:
        from digits import store

        print_json(commands.all_facts(models, stored=store.stored_models()))


@app.command()
def models(as_json: Json = False) -> None:
    """List the stored models: accuracy with its 95 % interval, which is served, which departed from its recipe."""
    from digits import store

    stored = store.stored_models()
    if as_json:
        print_json(commands.all_facts(stored, stored=stored))
    else:
        commands.show_models(stored)


@app.command()
def promote(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="recipe:version; recipe alone for its newest whole run.")
    ],
    as_json: Json = False,
) -> None:
    """Say which version of a recipe is served: this one, until another is promoted, whatever is trained later.

    A server that runs serves it after its next start or `load`.
    """
    promoted = commands.promote(model)
    if as_json:
        print_json(promoted)
    else:
        print(f"{promoted['model']} is the served version of {promoted['recipe']}.")


@app.command()
def export(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Made where it is missing; other versions in it stay.")
    ],
    recipes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE...", help="recipe or recipe:version; without this of every recipe the served one."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write stored models into a plain folder, RECIPE/VERSION/files, which a server reads in place of BentoML's store.

    \b
    samedigit export models
    SAMEDIGIT_MODEL_FOLDER=models samedigit serve
    """
    exported = commands.export(recipes or [], folder)
    if as_json:
        print_json(exported)
    else:
        for one in exported:
            print(f"{one['model']}: {one['folder']}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="recipe:version; recipe alone for the served one.")],
    backend: Annotated[
        str | None,
        typer.Option(help="numpy, torch, tensorflow or onnx; all it has without this, one of them for other digits."),
    ] = None,
    beyond: Annotated[bool, typer.Option("--beyond", help="Read kinds of digits that are not MNIST's.")] = False,
    fonts: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="With --beyond: fonts, in place of the system's; repeatable."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Read pairs of images and labels in MNIST's format.")
    ] = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Predict all test images with a model's stored files; exit 1 if the accuracy is not the stored one.

    \b
    samedigit evaluate torch-relu --beyond             other digits: fonts, corruptions, scikit-learn's; for the report too
    samedigit evaluate torch-relu --images FOLDER      your own: NAME-images-idx3-ubyte and NAME-labels-idx1-ubyte
    """
    if fonts and not beyond:
        raise typer.BadParameter("goes with --beyond", param_hint="--fonts")
    if beyond or images is not None:
        read = commands.evaluate_beyond(
            model, backend, beyond=beyond, fonts=fonts or [], images=images, results=results
        )
        if as_json:
            print_json(read)
        else:
            commands.show_beyond(read)
        return
    checks = commands.evaluate(model, backend)
    if as_json:
        print_json(checks)
    else:
        commands.show_evaluation(checks)
    if not all(check["as_stored"] for check in checks):
        raise typer.Exit(NO)


@app.command()
def classify(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="PNG, JPEG, WebP, BMP, GIF or TIFF; - for standard input.")
    ],
    model: Annotated[
        str | None,
        typer.Option(help="recipe:version or recipe; without this the one that reads digits beyond MNIST's best."),
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="numpy, torch, tensorflow or onnx; the quickest that is installed without this.")
    ] = None,
    many: Annotated[bool, typer.Option("--many", help="Read every digit of a picture, in reading order.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Draw the 28 by 28 pixels that the model sees.")] = False,
    as_json: Json = False,
) -> None:
    """Read the digit in each picture; exit 1 if one could not be read.

    \b
    samedigit classify photo.jpg
    samedigit classify --many form.png         every digit, with the box where it is
    """
    readings = commands.classify(files, model, backend, many=many, images=show)
    if as_json:
        print_json(readings)
    else:
        commands.show_classified(readings)
    if any("error" in file for file in readings["files"]):
        raise typer.Exit(NO)


@app.command()
def study(
    recipes: Annotated[list[str] | None, typer.Argument(metavar="RECIPE...", help="All without this.")] = None,
    seeds: Annotated[
        int,
        typer.Option(min=1, max=9999, help="Each recipe is trained N times, its random numbers from the seeds 1 to N."),
    ] = 10,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs (trainings) at once; as many as there are cores without this.")
    ] = None,
    folder: Annotated[Path, typer.Option("--study", help="Where the runs are kept.")] = Path("study"),
    share: Annotated[
        str | None, typer.Option(metavar="K/N", help="Only the Kth of N shares of the runs, and no report.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    decide: Annotated[
        bool, typer.Option("--decide", help="Is it the framework, or its defaults? Trains for that question alone.")
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="To spend on more seeds for pairs of recipes that N seeds do not surely decide (0 without this); with "
            "--decide, on seeds after the first five, by which it plans (240 without this).",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train recipes from many seeds, and say in a report which differences between them are real.

    With --decide: do the frameworks differ if each gets the same random numbers, which of their
    defaults matter, and what moves accuracy from one training to the next.

    Stopped, even by kill -9, the same command goes on where it was: finished runs are kept, none counts twice.

    Several machines make one study in a folder that they all see: each its --share; then, without that, the rest and the
    report.
    """
    with saying_when_interrupted("finished runs are kept, and the same command goes on from there"):
        if decide:
            decide_minutes = 240 if minutes is None else minutes
            page, tables = commands.decide(recipes or [], minutes=decide_minutes, jobs=jobs, folder=folder)
            print_json({"page": str(page), **tables}) if as_json else commands.show_decision(page, tables)
            return
        if share is not None:
            done = commands.study_share(recipes or [], share, seeds=seeds, jobs=jobs, folder=folder)
            print_json(done) if as_json else commands.show_share(done)
            return
        path, tables = commands.study(recipes or [], seeds=seeds, minutes=minutes or 0, jobs=jobs, folder=folder)
    if as_json:
        print_json({"report": str(path), **tables})
    elif markdown:
        print(commands.study_markdown(folder))
    else:
        commands.show_study(folder)
        print(f"Report: {path}")


SERVE: Final = """Serve the stored models: in this process, or by `bentoml serve` where several workers are asked for.

Settings come from the environment, or from a TOML file (--settings or SAMEDIGIT_SETTINGS) under the same names in lower case.

\b
"""


@app.command(help=SERVE + help_text())
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 3000,
    settings: Annotated[Path | None, typer.Option(metavar="FILE", help="TOML file with settings.")] = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page to draw on in your browser, once the server is ready.")
    ] = False,
    show_settings: Annotated[
        bool, typer.Option("--show-settings", help="Print each setting and where it comes from, and serve nothing.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve a version newly stored or promoted by itself: SAMEDIGIT_WATCH=on.")
    ] = False,
    tls_certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM; both ports speak TLS then: SAMEDIGIT_TLS_CERTIFICATE.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM: SAMEDIGIT_TLS_KEY.")] = None,
) -> None:
    given = {
        "SAMEDIGIT_SETTINGS": settings,
        "SAMEDIGIT_WATCH": "on" if watch else None,
        "SAMEDIGIT_TLS_CERTIFICATE": tls_certificate,
        "SAMEDIGIT_TLS_KEY": tls_key,
    }
    commands.serve(
        {name: str(value) for name, value in given.items() if value is not None},
        host=host,
        port=port,
        only_show=show_settings,
        open_page=open_page,
    )


@app.command()
def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="RECIPE or RECIPE:VERSION.")],
    numbers: Annotated[
        list[str] | None, typer.Option(help="int8-dynamic, int8-static or float16; repeatable; all without this.")
    ] = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Store a model's weights in smaller numbers, and say what each form costs and gives beside the original.

    Each is a model of its own, RECIPE-NUMBERS, of one ONNX file, with its own accuracy; it is served only by name, as in
    SAMEDIGIT_MODELS, or once promoted.
    """
    rows = commands.quantize(model, numbers or [], results)
    if as_json:
        print_json(rows)
    else:
        commands.show_numbers(rows)


class Scenario(enum.StrEnum):
    """How load comes."""

    closed = "closed"
    open = "open"


@app.command()
def loadtest(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="Of every recipe the served one without this.")
    ] = None,
    backend: Annotated[list[str] | None, typer.Option(help="Repeatable; all that a model has without this.")] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(help="predict, grpc, v2-json or v2-binary; repeatable; all without this.")
    ] = None,
    scenario: Annotated[
        Scenario,
        typer.Option(
            help="closed: callers who wait for their answers; open: requests that arrive by themselves, up to more than "
            "the server can answer."
        ),
    ] = Scenario.closed,
    users: Annotated[
        int,
        typer.Option(
            min=1, max=1000, help="Callers at once: in closed, after a run with one; in open, to find the peak rate."
        ),
    ] = 16,
    duration: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds of each measurement.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How often the open scenario measures everything.")] = 5,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Load a fresh server per model and backend, check every answer, record every latency; exit 1 if requests failed.

    Over /predict on BentoML's port, and over the Open Inference Protocol, over gRPC, in JSON and in binary, on the
    server's other port.

    The open scenario ends with the highest rate at which 99 of 100 answers come within 1, 10 and 100 ms. It asks more than
    a server can answer, to see where that is: requests that fail there do not count for the exit code.
    """
    asked = models or [], backend or [], protocol or []
    with saying_when_interrupted("the results are as they were before"):
        if scenario is Scenario.open:
            rows = commands.open_loadtest(*asked, users=users, duration=duration, rounds=rounds, results=results)
        else:
            runs = commands.loadtest(*asked, users=users, duration=duration, results=results)
    if scenario is Scenario.open:
        if as_json:
            print_json(rows)
        else:
            commands.show_rates(results)
        return
    if as_json:
        print_json(runs)
    else:
        commands.show_summary(results)
    if any(run["failures"] for run in runs):
        raise typer.Exit(NO)


@app.command()
def report(
    results: Results = Path("results"),
    study: Annotated[Path, typer.Option(help="A study's folder: what it decided is quoted.")] = Path("study"),
    as_json: Json = False,
) -> None:
    """Join the load test's results with the stored models in an HTML report, and a page of what each costs."""
    path, rows = commands.report(results, study)
    if as_json:
        print_json({"report": str(path), "rows": rows})
    else:
        print(f"Report: {path}")


@contextlib.contextmanager
def saying_when_interrupted(consequence: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        errors.print(f"Interrupted: {consequence}.")
        raise typer.Exit(INTERRUPTED) from None


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def main() -> None:
    """Runs the command line; what goes wrong on purpose becomes a message and an exit code."""
    try:
        app()
    except (UnknownRecipe, ImpossibleRecipe, SettingError) as error:
        errors.print(f"[red]Error:[/] {_plain(error)}")
        sys.exit(WRONG_COMMAND_LINE)
    except SamedigitError as error:
        errors.print(f"[red]Error:[/] {_plain(error)}")
        sys.exit(MISSING)
    except ModuleNotFoundError as error:
        errors.print(
            f"[red]Error:[/] {error.name} is not installed; this command needs the extras train and compare: ", end=""
        )
        errors.print("pip install '.\\[train,compare]' in Samedigit's folder")
        sys.exit(MISSING)


def _plain(error: Exception) -> str:
    return str(error).replace("[", r"\[")  # not Rich's markup
