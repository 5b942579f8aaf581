"""Credentials as files: rendered from one moment's credentials, swapped in whole, gone when they end."""
