"""Prefixes behind HTTP; this needs `lightning-prefix[serve]`."""
