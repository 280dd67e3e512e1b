"""What several commands share: printing a line, naming a directory, checking a device, a study's outcome."""

from pathlib import Path

from deltaw.errors import DeltawError


def say(text: str) -> None:
    """Print a line to standard output at once."""
    print(text, flush=True)  # noqa: T201


def last_part(source: str) -> str:
    """The last part of a path or hub name, for a directory's name."""
    return Path(source).resolve().name if Path(source).is_dir() else Path(source).name


def checked_device(name: str) -> str:
    """The name of a device that this machine has. DeltawError otherwise."""
    import torch

    from deltaw.models import choose_precision

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeltawError(f"device is '{name}'; it can be cpu, cuda or auto") from error
    if device.type not in ("cpu", "cuda"):
        raise DeltawError(f"device is '{name}'; it can be cpu, cuda or auto")
    choose_precision(device)  # raises if there is no such device
    return name


def use_allowed_cores() -> None:
    """Compute on as many threads as this process may use; in a container torch takes one for each of the machine's."""
    import os

    import torch

    from deltaw.pipeline.cores import available_cores

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), available_cores()))


def chosen_device(name: str) -> str:
    """The name of a device that this machine has; of `auto`, cuda where there is one. DeltawError otherwise."""
    if name != "auto":
        return checked_device(name)
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def summary(run_dir: Path) -> str:
    """A run's outcome in a few lines: what each tuned model does, beside the Bayes ceiling."""
    from deltaw.results import load

    results = load(run_dir)
    ceiling = results.select("bayes_accuracy")["value"].min()
    redrawn = results.select("redrawn_share")["value"].mean()
    rates = results.select(["comply_rate", "refuse_rate"], stage="behaviour", attack=None)
    lines = [
        f"{redrawn:.2%} of tuning windows were redrawn for an ambiguous branch.",
        "",
        f"{'conditional operators':26} {'complies (safe)':>16} {'refuses (unsafe)':>17} {'Bayes ceiling':>14}",
    ]
    for name in rates["model"].unique():
        own = rates[rates["model"] == name]
        comply = own[(own["statistic"] == "comply_rate") & (own["set"] == "allowed/conditional/safe")]["value"].mean()
        refuse = own[(own["statistic"] == "refuse_rate") & (own["set"] == "forbidden/conditional/unsafe")][
            "value"
        ].mean()
        lines.append(f"{name:26} {comply:16.3f} {refuse:17.3f} {ceiling:14.4f}")
    return "\n".join(lines)
