"""How many directions do activations and ΔW have?"""
