"""Do two updates write to, and read from, the same directions?"""
