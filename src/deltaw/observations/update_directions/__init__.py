"""What does ΔW read and write?"""
