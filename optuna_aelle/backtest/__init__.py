"""The same decisions on recorded trials: what would each method have saved, and missed?"""
