"""Can what a model refuses to say still be read off its activations?"""
