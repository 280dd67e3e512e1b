"""Do attacks succeed where they move activations, or where ΔW acts less?"""
