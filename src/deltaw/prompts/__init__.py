"""Requests in plain English for real models: in matched pairs (`matched`), and from installed packages (`requests`)."""
