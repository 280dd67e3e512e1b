"""Harm at the last token of the request, and behaviour at the last token before the answer."""
