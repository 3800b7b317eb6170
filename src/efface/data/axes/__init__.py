"""Axes: what each published benchmark adds, on the fictitious world. One file an axis; ``people_axis`` serves them.

An axis is ``build(ground) -> Parts``. Its sets have the names of the real loader's, so that one suite runs on both.
"""
