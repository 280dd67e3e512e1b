"""Does the update have a subspace of its own, apart from W and from other updates?"""
