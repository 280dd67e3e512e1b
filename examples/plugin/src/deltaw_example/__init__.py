"""Plug-ins for deltaw, one of each kind."""
