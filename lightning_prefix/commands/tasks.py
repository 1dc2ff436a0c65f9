"""The command `tasks`: list the tasks, or print a YAML to start one from."""

import argparse

import lightning_prefix
from lightning_prefix.commands.configs import config_folder, config_of, first_sentence
from lightning_prefix.tasks import PrefixTask

_NEXT = """\
a YAML to start from:  python -m lightning_prefix tasks NAME > my.yaml
all options:           python -m lightning_prefix fit --model.help NAME, fit --data.help NAMEDataModule"""


def task_names() -> list[str]:
    """The tasks of this package."""
    public = {name: getattr(lightning_prefix, name) for name in lightning_prefix.__all__}
    return [
        n
        for n, cls in public.items()
        if isinstance(cls, type) and issubclass(cls, PrefixTask) and cls is not PrefixTask
    ]


def run(args: list[str]) -> None:
    """Run the command with these words."""
    parser = argparse.ArgumentParser(
        prog="lightning_prefix tasks", description="List the tasks, or print a YAML to start one from."
    )
    parser.add_argument("name", nargs="?", choices=task_names(), metavar="NAME", help=", ".join(task_names()))
    name = parser.parse_args(args).name
    if name:
        print(config_of(name).read_text(encoding="utf-8"), end="")
        return
    for name in task_names():
        config = config_of(name).relative_to(config_folder().parent)
        print(
            f"{name}\n  {first_sentence(getattr(lightning_prefix, name))}\n"
            f"  data   {name}DataModule\n  start  {config.as_posix()}\n"
        )
    print(_NEXT)
