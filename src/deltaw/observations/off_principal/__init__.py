"""Does ΔW avoid the principal directions of W, and is it sparse?"""
