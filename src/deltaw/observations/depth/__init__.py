"""How deep into an answer does the tuning reach?"""
