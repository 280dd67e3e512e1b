"""Where do prompts lie, in a plane, before and after tuning?"""
