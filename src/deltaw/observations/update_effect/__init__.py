"""What do the parts of ΔW do to the MLP's output?"""
