"""Evaluation: are the answers right, and if not, what made them wrong?"""
