"""Does ΔW write along the direction of refusal?"""
